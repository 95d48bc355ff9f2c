"""A run's folder mirrored in an S3-compatible object store, for nodes whose disks die with them.

The folder stays the place of work. A thread uploads what has changed every few seconds, so what a lost node takes with
it is at most what came since the last round. A driver that is started on another node gets the folder back and goes on.

What lies in the store can be resumed at any moment, whenever the uploads were cut off. In each round

1. the journal of trials, then the small JSON files, which say what is finished, are read;
2. everything they may refer to is uploaded, and is thus at least as new as they are;
3. where a JSON file has changed meanwhile, as when Ray Train has replaced a checkpoint, the round begins again;
4. then they are uploaded as read in 1, after them events and status, and last what is gone here is deleted there.

``driver.json`` in the store says which driver writes to it. It is renewed as a sign of life, and a driver that finds
another one in it stops. Stores have no lock, so between that look and the upload after it another one may come.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.run_folder import STUDY_VARIABLE, RunFolder
from slicemamba.errors import InputError, RunFailedError

STORE_VARIABLE = "SLICEMAMBA_STORE"
ROUND_SECONDS = 5.0
EXPIRE_SECONDS = 30.0
"""A driver that has not renewed ``driver.json`` for this long is taken for dead."""
_MAX_SHARE = 0.2  # of the time that rounds may take; each uploads the whole journal
_TRIES = 5
_CHUNK_BYTES = 8 << 20
_DRIVER = "driver.json"
_MARK = ".store.json"  # in the folder: whose uploads it holds
_LAST = ("events.jsonl", "status.json")
_TRAININGS = ("supernet", "retrain", "pretrain")  # what of .ray is kept; Ray Tune's own state is not needed


class Store:
    """One run's place in an object store.

    Args:
        filesystem: of ``pyarrow.fs``. path: bucket and prefix, as it takes them.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self.path = path

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all, as stores do."""
        with self._filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(content)

    def upload(self, name: str, file: Path) -> Iterator[None]:
        """Uploads a file; yields after each part of it."""
        with file.open("rb") as source, self._filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            while part := source.read(_CHUNK_BYTES):
                stream.write(part)
                yield

    def read(self, name: str) -> bytes | None:
        """The object's content, None where there is none."""
        try:
            with self._filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def download(self, name: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._filesystem.open_input_stream(f"{self.path}/{name}") as stream, file.open("wb") as target:
            shutil.copyfileobj(stream, target, _CHUNK_BYTES)

    def delete(self, name: str) -> None:
        self._filesystem.delete_file(f"{self.path}/{name}")

    def names(self) -> set[str]:
        """Of all objects."""
        from pyarrow.fs import FileSelector, FileType  # type: ignore[import-untyped]

        selector = FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self._filesystem.get_file_info(selector)
        return {info.path.removeprefix(f"{self.path}/") for info in found if info.type == FileType.File}


def open_store(url: str, name: str) -> Store:
    """The place of the run ``name`` below ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the usual AWS_* variables and files.

    Raises:
        InputError: another kind of URL, or the store cannot be written to.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise InputError(f"the store must be s3://BUCKET/PREFIX; got {url!r} (--store or {STORE_VARIABLE})")
    prefix = "/".join([parts.netloc, *filter(None, parts.path.split("/")), name])
    try:
        store = Store(_s3(), prefix)
        store.write(".probe", b"writable")
        store.delete(".probe")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the store {url} cannot be written to ({error}); check the bucket, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store that is not Amazon's, AWS_ENDPOINT_URL"
        ) from None
    return store


def _s3() -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
    )


@contextmanager
def mirrored(run: RunFolder, url: str | None) -> Iterator[None]:
    """Keeps a run's folder in the store for the time of a block; brings it from there first where that is newer.

    Args:
        run: its folder; in the store it has the same name. url: ``s3://bucket/prefix``; nothing is done without.

    Raises:
        InputError: the store cannot be used, or holds a run that has a driver elsewhere.
        RunFailedError: the block has ended well, and what it has left could not be stored.
    """
    if url is None:
        yield
        return
    if STUDY_VARIABLE in os.environ:
        raise InputError(
            f"a run is kept in a store ({url}) together with its study, and {STUDY_VARIABLE} puts that into a "
            "database; unset one of the two, or keep the run's folder on storage that outlives its node"
        )
    mirror = Mirror(run, open_store(url, run.path.name))
    mirror.claim()
    mirror.start()
    try:
        yield
    except BaseException as error:
        failure = mirror.stop()
        if mirror.fenced:
            raise RunFailedError(str(failure)) from error
        raise
    failure = mirror.stop()
    if failure is not None:
        raise RunFailedError(
            f"the run is done, but could not be stored in {url} ({failure}); its folder {run.path} is whole: mend it "
            "and run again, which stores the rest"
        )


class Mirror:
    """Uploads a run's folder in a thread.

    Args:
        run: its folder. store: its place in the store.
    """

    def __init__(self, run: RunFolder, store: Store) -> None:
        self._run = run
        self._store = store
        self._owner = uuid.uuid4().hex
        self._beats = 0
        self._beaten_at = 0.0
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._stored: set[str] = set()
        self._failure: str | None = None
        self.fenced = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="store", daemon=True)

    def claim(self) -> None:
        """Becomes the store's only driver, and brings the folder here where the store was written from another one.

        Raises:
            InputError: another driver is alive.
        """
        before = self._await_dead_driver()
        self._stored = self._store.names() - {_DRIVER}
        mark = (self._run.read_json(_MARK) or {}).values()
        if self._stored and before not in mark:
            self._beat()
            self._restore()
        # Written before the store is, so that a driver killed between the two does not take its folder for an old one.
        self._run.write_json(_MARK, {"owner": self._owner, "before": before})
        self._beat()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> str | None:
        """Uploads what is left and gives the store back; returns why it could not, if so."""
        self._stop.set()
        self._thread.join()
        return self._failure

    def _await_dead_driver(self) -> str | None:
        """Whose the store is, once nobody renews ``driver.json``; None for a new one."""
        content = self._store.read(_DRIVER)
        since = time.monotonic()
        while content is not None and not json.loads(content)["released"]:
            found = json.loads(content)
            if time.monotonic() - since > EXPIRE_SECONDS:
                break
            time.sleep(0.5)
            if self._store.read(_DRIVER) != content:
                raise InputError(
                    f"{self._store.path} in the store has a running driver (process {found['pid']} on "
                    f"{found['host']}); wait for it or stop it first"
                )
        return None if content is None else str(json.loads(content)["owner"])

    def _restore(self) -> None:
        """Replaces the folder by the store's; what was in it is set aside."""
        old = [path for path in self._run.path.iterdir() if path.name != ".driver"] if self._run.path.exists() else []
        if old:
            aside = _free_name(self._run.path)
            aside.mkdir()
            for path in old:
                path.rename(aside / path.name)
            print(f"{self._run.path} is older than the store; what was in it is now in {aside}", flush=True)
        for name in sorted(self._stored):
            file = self._run.path / name
            self._store.download(name, file)
            self._uploaded[name] = _stamp(file)
            self._beat_if_due()
        print(f"brought {len(self._stored)} files of {self._run.path.name} from the store", flush=True)

    def _follow(self) -> None:
        pause = 0.0
        while True:
            last_round = self._stop.wait(pause)
            started = time.monotonic()
            try:
                self.upload(released=last_round)
                self._tell(None)
            except _FencedError:
                self._fence()
                return
            except (OSError, ValueError) as error:
                self._tell(str(error))
            if last_round:
                return
            pause = max(ROUND_SECONDS, (time.monotonic() - started) / _MAX_SHARE)

    def upload(self, *, released: bool = False) -> None:
        """One round, see above. Raises OSError, and _FencedError when another driver has taken the store over."""
        self._beat()
        for _ in range(_TRIES):
            journals = {name: _whole_lines(path) for name, path in self._files() if name.endswith(".journal")}
            settled = self._settled()
            for name, path in self._files():
                if name.endswith(".journal") or name in settled or name in _LAST:
                    continue
                self._upload_changed(name, path)
            if self._settled() == settled:
                break
        else:
            return  # it changes faster than it can be uploaded; the next round tries again
        last = {name: _whole_lines(self._run.path / name) for name in _LAST if (self._run.path / name).exists()}
        finished = sorted(settled, key=lambda name: (name == "result.json", name))
        self._check()
        for name, content in [*journals.items(), *((name, settled[name]) for name in finished), *last.items()]:
            self._write_changed(name, content)
        for name in self._stored - {name for name, _ in self._files()}:
            self._store.delete(name)
            self._stored.discard(name)
            self._uploaded.pop(name, None)
        if released:
            self._beat(released=True)

    def _files(self) -> list[tuple[str, Path]]:
        """Names and paths of all that is to be stored: no leases, marks and unfinished files.

        Raises OSError where the folder cannot be read or is gone with its disk: what is not seen is deleted there.
        """
        found = []
        for folder, folders, files in os.walk(self._run.path, onerror=_raise_unless_gone):
            relative = Path(folder).relative_to(self._run.path)
            if relative == Path():
                folders[:] = [name for name in folders if name == ".ray" or not name.startswith(".")]
            elif relative == Path(".ray"):
                folders[:] = [name for name in folders if name in _TRAININGS]
            found += [((relative / name).as_posix(), Path(folder) / name) for name in files if not name.startswith(".")]
        if not (self._run.path / _MARK).exists():  # it has been there since the claim
            raise FileNotFoundError(f"{self._run.path} is not there any more")
        return found

    def _settled(self) -> dict[str, bytes]:
        """The JSON files, but for the status, with their content."""
        names = [(name, path) for name, path in self._files() if name.endswith(".json") and name not in _LAST]
        return {name: path.read_bytes() for name, path in names if path.exists()}

    def _upload_changed(self, name: str, path: Path) -> None:
        try:
            stamp = _stamp(path)
            if self._uploaded.get(name) == stamp:
                return
            fault: OSError | _FencedError | None = None
            for _ in self._store.upload(name, path):
                try:
                    self._beat_if_due()
                except (OSError, _FencedError) as error:  # raised at the end: what is cut off counts as a whole object
                    fault = error
        except FileNotFoundError:  # gone since; the JSON files say whether it was needed
            return
        if fault is not None:
            raise fault
        self._uploaded[name] = stamp
        self._stored.add(name)

    def _write_changed(self, name: str, content: bytes) -> None:
        stamp = (hash(content), len(content))
        if self._uploaded.get(name) == stamp:
            return
        self._store.write(name, content)
        self._uploaded[name] = stamp
        self._stored.add(name)

    def _check(self) -> None:
        """Raises _FencedError where another driver has taken the store over."""
        found = self._store.read(_DRIVER)
        if self._beats and (found is None or json.loads(found)["owner"] != self._owner):
            raise _FencedError

    def _beat(self, *, released: bool = False) -> None:
        self._check()
        self._beats += 1
        values = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid()}
        self._store.write(_DRIVER, json.dumps({**values, "beat": self._beats, "released": released}).encode())
        self._beaten_at = time.monotonic()

    def _beat_if_due(self) -> None:
        if time.monotonic() - self._beaten_at >= ROUND_SECONDS:
            self._beat()

    def _fence(self) -> None:
        self._failure = "another driver has taken over the run in the store; this one stops"
        self._say(self._failure)
        self.fenced = True
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: the main thread may be waiting for its workers for hours

    def _tell(self, failure: str | None) -> None:
        """Says once that uploads fail, and once that they pass again."""
        if failure is not None and self._failure is None:
            self._say(f"the run could not be stored ({failure}); it goes on, and storing is tried again")
        if failure is None and self._failure is not None:
            self._say("the run is stored again")
        self._failure = failure

    def _say(self, message: str) -> None:
        print(f"warning: {message}", flush=True)
        with contextlib.suppress(OSError, RunFailedError):  # a full disk, or a lease that was lost
            self._run.emit("warning", phase=None, message=message)


class _FencedError(Exception):
    """Another driver has taken the store over."""


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
    while (aside := path.with_name(f"{path.name}.older-{number}")).exists():
        number += 1
    return aside
