"""A run's folder mirrored in an S3-compatible object store, for nodes whose disks die with them.

The folder stays the place of work. A thread uploads what has changed every few seconds, so what a lost node takes with
it is at most what came since the last round. A driver that is started on another node gets the folder back and goes on.

What lies in the store can be resumed at any moment, whenever the uploads were cut off. In each round

0. of each training, the states that its record of checkpoints names are uploaded, and then the record as it was read;
   what a quick training replaces meanwhile is left for a later round, and the stored ones stay until then;
1. the journal of trials, then the small JSON files, which say what is finished, are read;
2. everything they may refer to is uploaded, and is thus at least as new as they are;
3. where a JSON file has changed meanwhile, the round begins again;
4. then they are uploaded as read in 1, after them events and status, and last what is gone here is deleted there; but
   a result that was set aside first, as beside the configuration of the extended search it would count as that one's.

One driver writes to a place in the store: an attempt is claimed in the run's folder and there (``cluster.attempts``). A
folder is as new as the store where it knows the latest attempt there. A run and each job that follows it have places of
their own, ``<run>/`` and ``<run>/jobs/<id>/``, as they have drivers of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from filelock import FileLock

from cluster.attempts import (
    ATTEMPTS,
    HEARTBEAT,
    Attempt,
    Attempts,
    FencedError,
    FolderPlace,
    claim_name,
    only_driver,
)
from cluster.follow_up import JOBS, is_follow_up, run_of
from cluster.object_store import PROBE, Store, open_store
from cluster.run_folder import CHECKPOINTS, RECORD, RESULT, STATUS, STUDY_VARIABLE, RunFolder
from slicemamba.errors import InputError, RunFailedError

ROUND_SECONDS = 5.0
_MAX_SHARE = 0.2  # of the time that rounds may take; each uploads the whole journal
_TRIES = 5
OLDER = ".older-"
"""In the name of a folder with what was set aside, as the store had something newer."""
_OLD_DRIVER, _OLD_MARK = "driver.json", ".store.json"
"""Whose uploads a place, and a folder, hold from before attempts were numbered."""
_LOCK = ".bringing.lock"
_TRAININGS = ("supernet", "retrain", "pretrain")  # what of .ray is kept; Ray Tune's own state is not needed


@contextmanager
def mirrored(run: RunFolder, url: str | None) -> Iterator[None]:
    """Keeps a folder in the store for the time of a block; brings it from there first where that is newer.

    Args:
        run: the folder of a run, or of a job that follows one: then the run's is brought first where the store's is
            newer. url: ``s3://bucket/prefix``, below which it has a place of the same name; nothing is done without.

    Raises:
        InputError: the store cannot be used, or holds a run that has a driver elsewhere.
        RunFailedError: the block has ended well, and what it has left could not be stored.
    """
    if url is None:
        yield
        return
    if is_follow_up(run):
        bring(run_of(run), url)
    bring(run, url, going_on=True)
    with only_driver(run) as attempt:
        mirror = Mirror(run, _open(run, url), attempt)
        with mirror.claimed():
            mirror.start()
            try:
                yield
            except BaseException as error:
                failure = mirror.stop()
                if mirror.replaced:
                    raise RunFailedError(str(failure)) from error
                raise
            failure = mirror.stop()
    if failure is not None:
        raise RunFailedError(
            f"the run is done, but could not be stored in {url} ({failure}); its folder {run.path} is complete: fix "
            "the cause and run again, which stores the rest"
        )


def bring(run: RunFolder, url: str | None, *, going_on: bool = False) -> bool:
    """Brings a folder from the store where that is newer, and leaves it there as it is; whether it has.

    Args:
        run, url: as of ``mirrored``. going_on: a driver is about to go on with the run.

    Raises:
        InputError: it is older, and a driver is at work there.
    """
    if url is None:
        return False
    store = _open(run, url)
    if not _is_behind(run, store):
        return False
    run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(run.path / _LOCK):  # of several that come at once, one brings it
        if not _is_behind(run, store):
            return False
        Attempts(FolderPlace(run.path)).await_free()
        while True:
            latest, _ = Attempts(store).await_free()
            if _restore(run, store, latest, going_on=going_on):
                return True


def _is_behind(run: RunFolder, store: Store) -> bool:
    """Whether the place holds what was written by others than those whose uploads this folder holds."""
    latest = Attempts(store).latest()
    if latest:
        return Attempts(FolderPlace(run.path)).driver(latest) != Attempts(store).driver(latest)
    content = json.loads(store.read(_OLD_DRIVER) or b"{}").get("content")
    return content is not None and content not in (run.read_json(_OLD_MARK) or {}).values()


def _restore(run: RunFolder, store: Store, latest: int, *, going_on: bool) -> bool:
    """Replaces the folder by the store's; False where a driver has begun there meanwhile.

    What drivers have left in it is set aside. Before one has begun there is only what a service has put there for it,
    and that the driver has read. Last come the claims of attempts, which say that the folder is as new, and before them
    the status; with ``going_on`` that of a driver at work: else a service would take the last word of the driver before
    for this one's.
    """
    if (run.path / STATUS).exists():
        _set_aside(run)
    stored = _names(store)
    claims = [name for number in range(1, latest + 1) if (name := claim_name(number)) in stored]
    for name in sorted(stored.difference(claims, [STATUS])):
        store.download(name, run.path / name)
    if Attempts(store).latest() != latest:
        return False
    status = store.read(STATUS)
    if status is not None:
        now = {"state": "RUNNING", "error": None, "updated_at": datetime.now(timezone.utc).isoformat()}
        run.write_json(STATUS, json.loads(status) | (now if going_on else {}))
    for name in claims:
        store.download(name, run.path / name)
    if not latest:
        run.write_json(_OLD_MARK, json.loads(store.read(_OLD_DRIVER) or b"{}"))
    print(f"downloaded {len(stored)} files of {run.path.name} from the store", flush=True)
    return True


def _set_aside(run: RunFolder) -> None:
    aside = _free_name(run.path)
    aside.mkdir()
    for path in list(run.path.iterdir()):
        if path.name not in (_LOCK, JOBS):
            path.rename(aside / path.name)
    print(f"{run.path} is older than its copy in the store; its content was moved to {aside}", flush=True)


def _names(store: Store) -> set[str]:
    """Of what the store has of a folder; jobs that followed it have places of their own."""
    return {
        name
        for name in store.names()
        if name != _OLD_DRIVER and not name.startswith((f"{JOBS}/", PROBE)) and not name.endswith(f"/{HEARTBEAT}")
    }


def bring_all(run: RunFolder, url: str) -> list[str]:
    """Brings a run and all jobs that have followed it; names of the folders that were brought. Raises as ``bring``."""
    jobs = {Path(name).parts[1] for name in open_store(url, run.path.name).names() if name.startswith(f"{JOBS}/")}
    folders = [run, *(RunFolder(run.path / JOBS / job) for job in sorted(jobs))]
    return [_place(folder) for folder in folders if bring(folder, url)]


def _place(run: RunFolder) -> str:
    """Name of a folder in the store."""
    return f"{run_of(run).path.name}/{JOBS}/{run.path.name}" if is_follow_up(run) else run.path.name


def _open(run: RunFolder, url: str) -> Store:
    if STUDY_VARIABLE in os.environ:
        raise InputError(
            f"a run in an object store ({url}) includes its study, but {STUDY_VARIABLE} keeps studies in a database; "
            "unset one of the two, or keep the run's folder on storage that outlives its node"
        )
    return open_store(url, _place(run))


class Mirror:
    """Uploads a folder in a thread.

    Args:
        run: the folder. store: its place in the store. attempt: that is at work on it.

    Attributes:
        replaced: another driver has taken over the place.
    """

    def __init__(self, run: RunFolder, store: Store, attempt: Attempt) -> None:
        self._run = run
        self._store = store
        self._number = attempt.number
        self._attempts = Attempts(store)
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._stored: set[str] = set()
        self._failure: str | None = None
        self.replaced = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="store", daemon=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The folder's attempts are those of the place for the time of a block, so that no other driver claims one.

        Raises:
            InputError: one has done so since the folder was brought.
        """
        here, there = Attempts(FolderPlace(self._run.path)), self._attempts
        latest = there.latest()
        missing = [
            (number, driver) for number in range(latest + 1, self._number + 1) if (driver := here.driver(number))
        ]
        is_new = latest == 0 or here.driver(latest) == there.driver(latest)
        if not is_new or not all(there.claim(number, driver) for number, driver in missing):
            running = there.driver(there.latest())
            raise InputError(f"{there} has a running driver ({running}); wait for it or stop it first")
        self._stored = _names(self._store)
        with self._attempts.kept_alive(self._number):
            yield

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> str | None:
        """Uploads what is left and gives the store back; returns why it could not, if so."""
        self._stop.set()
        self._thread.join()
        return self._failure

    def _follow(self) -> None:
        pause = 0.0
        while True:
            last_round = self._stop.wait(pause)
            started = time.monotonic()
            try:
                self.upload()
                self._tell(None)
            except FencedError as error:
                self.replaced, self._failure = True, str(error)  # the main thread is interrupted by the heartbeat's
                return
            except Exception as error:  # whatever it is, a thread that ended would leave the run unstored and unsaid
                self._tell(str(error) if isinstance(error, (OSError, ValueError)) else repr(error))
            if last_round:
                return
            pause = max(ROUND_SECONDS, (time.monotonic() - started) / _MAX_SHARE)

    def upload(self) -> None:
        """One round, see above. Raises OSError, and FencedError when another driver has taken the store over."""
        self._attempts.check(self._number)
        self._upload_checkpoints()
        for _ in range(_TRIES):
            journals = {name: _whole_lines(path) for name, path in self._files() if name.endswith(".journal")}
            settled = self._settled()
            for name, path in self._files():
                if name.endswith(".journal") or name in settled or _is_special(name):
                    continue
                self._upload_changed(name, path)
            if self._settled() == settled:
                break
        else:
            return  # it changes faster than it can be uploaded; the next round tries again
        last = {name: _whole_lines(path) for name, path in self._files() if _is_last(name)}
        finished = sorted(settled, key=lambda name: (name == RESULT, name))
        self._attempts.check(self._number)
        if RESULT not in settled:
            self._delete(RESULT)
        for name, content in [*journals.items(), *((name, settled[name]) for name in finished), *last.items()]:
            self._write_changed(name, content)
        for name in self._stored - {name for name, _ in self._files()}:
            is_kept = _is_checkpoint(name) and (self._run.path / name).with_name(RECORD).exists()
            if not name.startswith(f"{ATTEMPTS}/") and not is_kept:
                self._delete(name)

    def _upload_checkpoints(self) -> None:
        for record, path in self._files():
            if not _is_checkpoint(record) or path.name != RECORD:
                continue
            folder = PurePosixPath(record).parent
            for _ in range(_TRIES):
                content = path.read_bytes()
                named = {str(folder / state) for state in json.loads(content).values() if isinstance(state, str)}
                if not all(self._upload_changed(name, self._run.path / name) for name in sorted(named)):
                    continue  # replaced meanwhile
                self._write_changed(record, content)
                for name in [one for one in self._stored if PurePosixPath(one).parent == folder]:
                    if name not in named and name != record:
                        self._delete(name)
                break

    def _delete(self, name: str) -> None:
        if name in self._stored:
            self._store.delete(name)
            self._stored.discard(name)
            self._uploaded.pop(name, None)

    def _files(self) -> list[tuple[str, Path]]:
        """Names and paths of all that is to be stored: no heartbeat, no unfinished files, nor what jobs store.

        Raises OSError where the folder cannot be read or is gone with its disk: what is not seen is deleted there.
        """
        found = []
        for folder, folders, files in os.walk(self._run.path, onerror=_raise_unless_gone):
            relative = Path(folder).relative_to(self._run.path)
            if relative == Path():
                folders[:] = [name for name in folders if name == ".ray" or (name[0] != "." and name != JOBS)]
            elif relative == Path(".ray"):
                folders[:] = [name for name in folders if name in _TRAININGS]
            found += [((relative / name).as_posix(), Path(folder) / name) for name in files if not name.startswith(".")]
        if not (self._run.path / ATTEMPTS / str(self._number)).exists():  # it has been there since the claim
            raise FileNotFoundError(f"{self._run.path} does not exist any more")
        return found

    def _settled(self) -> dict[str, bytes]:
        """The JSON files, but for the status, with their content."""
        names = [(name, path) for name, path in self._files() if name.endswith(".json") and not _is_special(name)]
        return {name: path.read_bytes() for name, path in names if path.exists()}

    def _upload_changed(self, name: str, path: Path) -> bool:
        """Whether it is in the store as it is; one that is gone is not, and JSON files say whether it was needed."""
        try:
            stamp = _stamp(path)
            if self._uploaded.get(name) == stamp:
                return True
            self._store.upload(name, path)
        except FileNotFoundError:
            return False
        self._uploaded[name] = stamp
        self._stored.add(name)
        return True

    def _write_changed(self, name: str, content: bytes) -> None:
        stamp = (hash(content), len(content))
        if self._uploaded.get(name) == stamp:
            return
        self._store.write(name, content)
        self._uploaded[name] = stamp
        self._stored.add(name)

    def _tell(self, failure: str | None) -> None:
        """Says once that uploads fail, and once that they pass again."""
        if failure is not None and self._failure is None:
            self._say(f"the run could not be stored ({failure}); it continues, and storing is retried")
        if failure is None and self._failure is not None:
            self._say("the run is stored again")
        self._failure = failure

    def _say(self, message: str) -> None:
        with contextlib.suppress(OSError, RunFailedError):  # a full disk, or an attempt that was followed
            self._run.warn(message)


def _is_last(name: str) -> bool:
    """Whether a file tells of what others hold, which must be stored before it."""
    return Path(name).name == STATUS or name.endswith(".jsonl")


def _is_checkpoint(name: str) -> bool:
    """Whether a file is a state of a training, or the record of them."""
    folders = PurePosixPath(name).parent
    return folders.name == CHECKPOINTS and ".ray" in folders.parts  # of a baseline or an audit, too


def _is_special(name: str) -> bool:
    return _is_last(name) or _is_checkpoint(name)


def _raise_unless_gone(error: OSError) -> None:
    """A folder may be replaced while the tree is walked; whatever else keeps it from being read must be told."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _whole_lines(path: Path) -> bytes:
    """The content without a last line that is being written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}{OLDER}{number}")).exists():
        number += 1
    return aside
