"""The lease of a run folder: one driver holds it, and one that has lost it writes nothing any more.

A lease is a file ``<run>/.driver/lease-<number>``. Whoever holds it touches it every few seconds. A driver that is
known to be dead, or that has not touched its file for a while, is followed by one that makes the file with the next
number, which the file system lets one process alone do, and removes the former file. The former driver, should it come
back, finds its file gone. A released lease keeps its file, beside which ``released-<number>`` says so: a number is
never taken twice. This needs no clocks that agree and no locks, and holds on NFS: a waiting driver goes by whether the
file's time changes, not by what it is, and a file that is opened there is looked up afresh.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.connect import submission_id
from slicemamba.errors import InputError, RunFailedError

FOLDER = ".driver"
RENEW_SECONDS = 2.0
EXPIRE_SECONDS = 30.0
"""A driver is taken for dead after this time without a touch. Long enough for a busy or swapping machine."""
_POLL_SECONDS = 0.2
_LEASE, _RELEASED = "lease-", "released-"


class FencedError(RunFailedError):
    """This driver has lost its run to another one and must not write to it any more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as written in its file.

    Attributes:
        owner: random, of this lease alone. host, pid: of the driver.
        machine: the boot and process namespace in which ``pid`` means something.
        began: when the process began, by ``_began``.
        job: the submission id of its Ray job, where it is one.
    """

    owner: str
    host: str
    pid: int
    machine: str
    began: float
    job: str | None = None

    @classmethod
    def me(cls) -> Holder:
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _began(pid), submission_id())

    def surely_dead(self) -> bool:
        """Whether its process is gone from this machine. Of other machines nothing can be said."""
        if self.machine != _machine():
            return False
        try:
            return _began(self.pid) != self.began or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", Ray job {self.job}" if self.job else "")


class Lease:
    """A lease that this process holds; renewed by a thread of its own until it is released.

    When the thread finds it lost, it interrupts the main thread as Ctrl-C would: a fenced driver may be waiting for
    its workers for hours.

    Attributes:
        lost_by: who held it before and did not release it.
    """

    def __init__(self, path: Path, holder: Holder, lost_by: Holder | None = None) -> None:
        self._path = path
        self._holder = holder
        self.lost_by = lost_by
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def owner(self) -> str:
        return self._holder.owner

    @property
    def run_path(self) -> Path:
        """The folder that the lease is of."""
        return self._path.parent.parent

    def check(self) -> None:
        """Raises FencedError when it was released or another driver has taken over, OSError when it cannot be read."""
        if self._released.is_set():
            raise FencedError(f"this driver has given {self.run_path} back and writes nothing more")
        self._check_file()

    def _check_file(self) -> None:
        try:
            found = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            found = ""
        if self.owner not in found:
            raise FencedError(_told_lost(self._path.parent))

    def release(self) -> None:
        """Lets the next driver take over at once."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError, FencedError):  # lost or out of reach: there is nothing to give back
            self._check_file()
            os.link(self._path, _release_of(self._path))

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            try:
                self._check_file()
                os.utime(self._path)
            except (FencedError, FileNotFoundError):
                os.kill(os.getpid(), signal.SIGINT)
                return
            except OSError:  # the folder is out of reach; whatever is to be written finds out too
                continue


class DriversLease:
    """The lease of the driver that a worker works for, to look at from that worker.

    Args:
        run_path: the folder that the lease is of, as the worker sees it. owner: of the lease when the driver began.
    """

    def __init__(self, run_path: Path, owner: str) -> None:
        self.run_path = run_path
        self._folder = run_path / FOLDER
        self.owner = owner

    def check(self) -> None:
        """Raises FencedError when another driver has taken over."""
        _, file = _newest(self._folder)
        holder = None if file is None else _holder(file)
        if holder is None or holder.owner != self.owner:
            raise FencedError(_told_lost(self._folder))


def _told_lost(folder: Path) -> str:
    return (
        f"another driver has taken over {folder.parent} ({_newest_holder(folder)}), as this one had given no sign of "
        f"life for {EXPIRE_SECONDS:g} s; this one stops and writes nothing more"
    )


def acquire(run_path: Path) -> Lease:
    """Takes the lease of a run folder, from a dead driver if need be.

    Raises:
        InputError: a driver holds it and is alive.
    """
    folder = run_path / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    me = Holder.me()
    while True:
        number, file = _newest(folder)
        if file is not None and not _free(file, run_path):
            continue  # it has changed hands meanwhile
        lost_by = _silent(file)
        target = folder / f"{_LEASE}{number + 1:08d}"
        if not _make(target, me):
            continue
        if _newest(folder)[0] > number + 1:  # others have held that number and a later one since the look
            target.unlink(missing_ok=True)
            continue
        for older in folder.iterdir():  # only now may work begin: what lost its file is fenced
            if older.name.startswith((_LEASE, _RELEASED)) and _number(older) <= number:
                older.unlink(missing_ok=True)
        return Lease(target, me, lost_by)


@contextmanager
def held(run_path: Path) -> Iterator[Lease]:
    """``acquire`` for the time of a block, in which this process hears interrupts."""
    lease = acquire(run_path)
    try:
        with hearing_interrupts():
            yield lease
    finally:
        lease.release()


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """This process hears interrupts in the block: a shell script starts what it puts into the background deaf to them,
    and a lost lease is told by one."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _free(file: Path, run_path: Path) -> bool:
    """Waits until a lease is known to be free (True), to have changed hands (False) or to be held (InputError).

    Looks are counted, not seconds: where both drivers stand still, as on a suspended machine, none is silent.
    """
    if file.name.startswith(_RELEASED):
        return True
    released = _release_of(file)
    try:
        holder, touched = _holder(file), file.stat().st_mtime_ns
        if holder is None or not holder.surely_dead():
            print(f"looking for up to {EXPIRE_SECONDS:g} s whether {holder} still runs {run_path}", file=sys.stderr)
        for _ in range(math.ceil(EXPIRE_SECONDS / _POLL_SECONDS)):
            if released.exists() or (holder is not None and holder.surely_dead()):
                return True
            time.sleep(_POLL_SECONDS)
            with file.open("rb") as opened:  # opened, as NFS then asks the server
                if os.fstat(opened.fileno()).st_mtime_ns != touched:
                    raise InputError(f"{run_path} has a running driver ({holder}); wait for it or stop it first")
    except FileNotFoundError:
        return False
    return True


def _silent(file: Path | None) -> Holder | None:
    """Who has left a free lease without releasing it."""
    if file is None or file.name.startswith(_RELEASED) or _release_of(file).exists():
        return None
    try:
        return _holder(file)
    except FileNotFoundError:  # another was faster
        return None


def _release_of(file: Path) -> Path:
    """The file that says that a lease is released."""
    return file.with_name(file.name.replace(_LEASE, _RELEASED))


def _make(target: Path, holder: Holder) -> bool:
    """Makes the file with its content, unless there is one already; at most one process of all succeeds."""
    draft = target.with_name(f".{holder.owner}")
    draft.write_text(json.dumps(asdict(holder)) + "\n", encoding="utf-8")
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _newest(folder: Path) -> tuple[int, Path | None]:
    """Number and file of the latest lease, that which says it is released where there is one; (0, None) before any."""
    files = [file for file in folder.iterdir() if file.name.startswith((_LEASE, _RELEASED))]
    latest = max(files, key=lambda file: (_number(file), file.name.startswith(_RELEASED)), default=None)
    return (0, None) if latest is None else (_number(latest), latest)


def _newest_holder(folder: Path) -> str:
    try:
        _, file = _newest(folder)
        return str(_holder(file) if file is not None else None)
    except OSError:
        return "which one cannot be read"


def _holder(file: Path) -> Holder | None:
    """None where the content cannot be made out."""
    try:
        return Holder(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


def _number(file: Path) -> int:
    return int(file.name.rpartition("-")[2])


def _began(pid: int) -> float:
    """When a process began, which tells it from another that has got its number later.

    On Linux in ticks since the boot: as a time of day it would be another one after the clock was set, and a driver
    that is alive would be taken for dead. Raises psutil.NoSuchProcess, ProcessLookupError or FileNotFoundError.
    """
    if not sys.platform.startswith("linux"):
        return psutil.Process(pid).create_time()
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return float(after_name[19])


def _machine() -> str:
    """Where a process number means the same process: a boot of a machine, and a namespace in it (a container)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()
