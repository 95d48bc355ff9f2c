"""What a driver prints, kept in its run's folder, as Ray forgets it with its head.

``<run>/.logs/<job>/<n>.log``: parts of the log of one Ray job, each named by how many characters were printed before
it. Only the last parts are kept. The folder is hidden, as a log tells where things lie: what shows one masks that.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock
from typing import IO, Any

from slicemamba.files import open_inside

LOGS = ".logs"
PART_CHARACTERS = 2**20
_NUM_PARTS = 4
_NUM_JOBS = 8  # of a run, the last ones
_SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class DriverLog:
    """Takes what is printed; a disk that is full or away costs some of it, and not the run.

    Args:
        folder: of the job's log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._file: IO[str] | None = None
        self._size = self._end = 0  # of this part, and of all

    def write(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file is None or self._size >= PART_CHARACTERS:
                self._begin_part()
            assert self._file is not None
            self._file.write(text)
            self._file.flush()
            self._size += len(text)
            self._end += len(text)

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _begin_part(self) -> None:
        if self._file is not None:
            self._file.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._end:012d}.log"
        self._file = path.open("w", encoding="utf-8", errors="replace", newline="")
        self._size = 0
        for old in sorted(self._folder.glob("*.log"))[:-_NUM_PARTS]:
            old.unlink()


class _Both:
    """A stream whose text goes to the log, too."""

    def __init__(self, stream: Any, log: DriverLog) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept_log(run_path: Path, job: str) -> Iterator[None]:
    """Keeps what this process prints in the block, and the traceback of what ends it.

    Args:
        run_path: of the run. job: id of the Ray job, which names the log.
    """
    _remove_old(run_path / LOGS, job)
    log = DriverLog(run_path / LOGS / job)
    try:
        with redirect_stdout(_Both(sys.stdout, log)), redirect_stderr(_Both(sys.stderr, log)):
            yield
    except Exception:
        log.write(traceback.format_exc())
        raise
    finally:
        log.close()


def _remove_old(logs: Path, job: str) -> None:
    with contextlib.suppress(OSError):
        others = [folder for folder in logs.iterdir() if folder.name != job]
        for folder in sorted(others, key=lambda other: other.stat().st_mtime)[: 1 - _NUM_JOBS]:
            shutil.rmtree(folder, ignore_errors=True)


def read_log(run_path: Path, job: str) -> tuple[int, str] | None:
    """How many characters of a job's log are no longer there, and the rest; None where its driver has kept none."""
    found: list[tuple[int, str]] = []
    if not _SAFE_NAME.fullmatch(job):
        return None
    folder = run_path.resolve() / LOGS / job
    for part in sorted(folder.glob("*.log")):
        with contextlib.suppress(FileNotFoundError):  # no log, or it was the oldest and is gone meanwhile
            if part.stem.isdecimal():
                with open_inside(folder, part) as file:
                    found.append((int(part.stem), file.read().decode("utf-8", "replace")))
    return (found[0][0], "".join(text for _, text in found)) if found else None
