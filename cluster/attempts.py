"""Numbered attempts: each life of a driver has a number, and the highest alone may write.

    <run>/attempts/<number>/
      driver.json   who it is; made on the condition that there is none, which one alone of several can do
      .heartbeat    changes every few seconds; removed by the driver when it ends, else by its successor
      ended         made by the driver when it ends

Numbers have no gaps and none is taken twice, as no attempt is ever removed. Whoever finds its heartbeat gone or a
higher number has been followed, and writes nothing more. It is the same in a run's folder and in its copy in an object
store. It needs no clocks that agree and no locks, and holds on NFS: a waiting driver goes by whether a heartbeat
changes, not by what it is, and a file that is opened there is looked up afresh.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.connect import seconds_without_head
from cluster.disk import check_disk, disk_faults
from cluster.driver_process import DriverProcess, in_place_of_a_lost_job
from cluster.event_files import ATTEMPTS as ATTEMPTS
from cluster.object_store import Store
from cluster.run_folder import AUDIT, RunFolder
from slicemamba.errors import InputError, RunFailedError

_DRIVER, HEARTBEAT, _ENDED = "driver.json", ".heartbeat", "ended"
BEAT_SECONDS = 2.0
EXPIRE_SECONDS = 30.0
"""A driver is taken for dead after this time without a beat. Long enough for a busy or swapping machine."""
_POLL_SECONDS = 0.5
_PATIENCE_FACTOR = 1.5
"""With a driver that is cut off from Ray's head, over the time that it waits for it (cluster/cluster_health.py)."""


class FencedError(RunFailedError):
    """This driver has been followed by another one and must not write any more."""


@dataclass(frozen=True)
class Attempt:
    """A number that a process has claimed in a run's folder; workers have a copy, to look whether it still holds.

    Attributes:
        run_path: the run's folder. number: the attempt's.
        driver: whose it is; None in a worker. lost_by: who was at work before and ended without a word.
    """

    run_path: Path
    number: int
    driver: DriverProcess | None = None
    lost_by: DriverProcess | None = None

    @property
    def token(self) -> str:
        """The number, told apart from the same one in another folder: two hosts may share a study and no folder."""
        return f"{self.number}-{self.driver.token if self.driver else ''}"

    @property
    def is_driver(self) -> bool:
        return self.driver is not None

    def of_worker(self) -> Attempt:
        """What a worker has of it."""
        return Attempt(self.run_path, self.number)

    def check(self) -> None:
        """Raises FencedError when the attempt has ended or has been followed, OSError when that cannot be told."""
        Attempts(FolderPlace(self.run_path)).check(self.number)


class FolderPlace:
    """A run's folder, to be used as its copy in a store is."""

    def __init__(self, run_path: Path) -> None:
        self.path = run_path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write_new(self, name: str, content: bytes) -> bool:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{uuid.uuid4().hex}")
        draft.write_bytes(content)
        try:
            os.link(draft, target)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def write(self, name: str, content: bytes) -> None:
        """Of what exists; what a successor has removed does not come back."""
        with (self.path / name).open("r+b") as file:
            file.write(content)

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def names(self, beginning: str) -> set[str]:
        return {file.relative_to(self.path).as_posix() for file in (self.path / beginning).glob("*/*")}


class Attempts:
    """Those at a run, in its folder or in its copy in a store."""

    def __init__(self, place: FolderPlace | Store) -> None:
        self._place = place

    def __str__(self) -> str:
        return str(self._place.path)

    def latest(self) -> int:
        """The highest number; 0 before the first."""
        names = (name.split("/") for name in self._place.names(f"{ATTEMPTS}/"))
        return max((int(number) for _, number, file in names if file == _DRIVER), default=0)

    def driver(self, number: int) -> DriverProcess | None:
        """Whose an attempt is; None where that cannot be made out."""
        return DriverProcess.parse(self._place.read(claim_name(number)))

    def claim(self, number: int, driver: DriverProcess) -> bool:
        """Whether the number is this driver's now, and the one before it is fenced."""
        claimed = self._place.write_new(claim_name(number), json.dumps(asdict(driver)).encode())
        if not claimed and self.driver(number) != driver:  # else a try whose answer got lost has claimed it
            return False
        self._place.write_new(_name(number, HEARTBEAT), _beat())
        self._place.delete(_name(number - 1, HEARTBEAT))
        return True

    def beat(self, number: int) -> None:
        """A sign of life. Raises FencedError."""
        self.check(number)
        self._place.write(_name(number, HEARTBEAT), _beat())

    def check(self, number: int) -> None:
        """Raises FencedError where the attempt has ended or been followed."""
        there = self._place.read(_name(number, HEARTBEAT)) is not None
        successor = self._place.read(claim_name(number + 1))
        if successor is not None:
            raise FencedError(
                f"another driver has taken over {self} ({DriverProcess.parse(successor)}), as this one had given no "
                f"sign of life for {EXPIRE_SECONDS:g} s; this one stops and writes nothing more"
            )
        if not there:
            raise FencedError(f"this driver has given {self} back and writes nothing more")

    def end(self, number: int) -> None:
        """Another driver need not wait for signs of life any more."""
        with contextlib.suppress(OSError):  # out of reach: it will be found silent
            self._place.write_new(_name(number, _ENDED), b"")
            self._place.delete(_name(number, HEARTBEAT))

    def await_free(self) -> tuple[int, DriverProcess | None]:
        """The highest number, when its driver has ended; and that driver, where it is dead or silent.

        Looks are counted, not seconds: where both drivers stand still, as on a suspended machine, none is silent.

        Raises:
            InputError: a driver is at work, and goes on with that where this one was started in place of a lost job.
        """
        latest = self.latest()
        driver, beat = self.driver(latest), self._place.read(_name(latest, HEARTBEAT))
        patience = _PATIENCE_FACTOR * seconds_without_head() if in_place_of_a_lost_job(Path(str(self)).name) else 0.0
        patient_until = time.monotonic() + patience
        looks = silent = 0
        while silent < math.ceil(EXPIRE_SECONDS / _POLL_SECONDS):
            if latest == 0 or self._place.read(_name(latest, _ENDED)) is not None:
                return latest, None
            if driver is not None and driver.surely_dead():
                break
            if looks == 0:
                print(f"looking for up to {EXPIRE_SECONDS:g} s whether {driver} still runs {self}", file=sys.stderr)
            time.sleep(_POLL_SECONDS)
            looks, silent = looks + 1, silent + 1
            before, beat = beat, self._place.read(_name(latest, HEARTBEAT))
            if beat not in (None, before):
                if time.monotonic() >= patient_until:
                    raise InputError(f"{self} has a running driver ({driver}); wait for it or stop it first")
                silent = 0
        return latest, driver

    @contextmanager
    def kept_alive(self, number: int) -> Iterator[None]:
        """Beats for a claimed attempt during a block, and ends it.

        Where it has been followed, the main thread is interrupted as Ctrl-C would: it may be waiting for its workers
        for hours.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(number, ended), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.end(number)

    def _beat_until(self, number: int, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                self.beat(number)
            except FencedError:
                os.kill(os.getpid(), signal.SIGINT)
                return
            except OSError:  # out of reach; whatever is to be written finds out too
                continue


def claim_name(number: int) -> str:
    """Name, in a place, of the file by which an attempt is claimed."""
    return _name(number, _DRIVER)


def _name(number: int, file: str) -> str:
    return f"{ATTEMPTS}/{number}/{file}"


def _beat() -> bytes:
    return f"{time.time_ns():020d}".encode()


def check_no_audit(run: RunFolder) -> None:
    """Raises InputError while a driver is at work on an audit of the run."""
    if (run.path / AUDIT).exists():
        with only_driver(RunFolder(run.path / AUDIT)):
            pass


@contextmanager
def only_driver(run: RunFolder) -> Iterator[Attempt]:
    """A new attempt at a run for the time of a block; the present one where this process has claimed it already.

    Raises:
        InputError: another driver is alive, or the folder cannot be written to.
        RunFailedError: the storage filled up or went away; what was done until then is kept.
    """
    if run.attempt is not None:
        assert isinstance(run.attempt, Attempt)
        yield run.attempt
        return
    check_disk(run.path)
    attempts = Attempts(FolderPlace(run.path))
    with disk_faults(run.path), hearing_interrupts():
        attempt = _claim(run.path, attempts)
        with attempts.kept_alive(attempt.number):
            run.attempt = attempt
            try:
                yield attempt
            finally:
                run.attempt = None


def _claim(run_path: Path, attempts: Attempts) -> Attempt:
    """The next attempt in a run's folder, from a dead driver if need be. Raises InputError."""
    me = DriverProcess.me()
    while True:
        latest, lost_by = attempts.await_free()
        if attempts.claim(latest + 1, me):
            for lease in run_path.glob(".driver/lease-*"):  # of a driver from before attempts were numbered
                lease.unlink(missing_ok=True)
            return Attempt(run_path, latest + 1, me, lost_by)


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """This process hears interrupts in the block: a shell script starts what it puts into the background deaf to them,
    and by one a driver learns that it has been followed."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
