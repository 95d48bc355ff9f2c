"""The record of a study's trials beside its journal: what those read who only look.

A line for each trial when it is handed out and one when it has ended, ``<run>/.trials/<study>.jsonl``. The study stays
the truth: whoever opens it to write brings the record in line with it first. Optuna's own reader makes parameters and
distributions of every trial, and takes several times as long and as much memory for a large study.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from nas.trial import Trial
from slicemamba.files import open_inside, writing

RECORDS = ".trials"


def record_path(journal: Path, study: str) -> Path:
    """Where the record of a study in a journal file is; there is none of a study from an earlier version."""
    return journal.parent / RECORDS / f"{study}.jsonl"


def note(path: Path, trial: Trial) -> None:
    """Adds a trial that has begun or ended to a record."""
    with path.open("ab", buffering=0) as file:
        file.write(trial.model_dump_json().encode() + b"\n")


def bring_in_line(path: Path, trials: list[Trial]) -> None:
    """Makes a file the record of these trials."""
    if path.exists() and RecordReader(path).read() == trials:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, lasting=False) as draft:
        draft.write_bytes(b"".join(trial.model_dump_json().encode() + b"\n" for trial in trials))


class RecordReader:
    """Trials of one study. What was read is not read again; safe to be used by several threads.

    Args:
        path: of the file; where there is none, there are no trials.

    Attributes:
        version: another one each time the file was found to be another one, so that trials may be others too.
        bytes_read: of all of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self.bytes_read = self.version = 0
        self._begin(None)

    def _begin(self, file: tuple[int, int] | None) -> None:
        self.version += 1
        self._file = file
        self._offset = 0
        self._by_number: dict[int, Trial] = {}
        self._trials: list[Trial] = []

    def read(self) -> list[Trial]:
        """All trials by number: the same list for as long as nothing is new."""
        with self._lock:
            try:
                file = open_inside(self._path.parent.parent.resolve(), self._path)
            except FileNotFoundError:
                if self._file is not None:
                    self._begin(None)
                return self._trials
            with file:
                facts = os.fstat(file.fileno())
                identity = (facts.st_dev, facts.st_ino)
                if self._file != identity or facts.st_size < self._offset:
                    self._begin(identity)
                file.seek(self._offset)
                if self._take(file):
                    self._trials = [self._by_number[number] for number in sorted(self._by_number)]
            return self._trials

    def _take(self, lines: Iterable[bytes]) -> bool:
        """Whether there are whole ones. What a full disk cut short is passed over: the next driver notes it anew."""
        before = self.bytes_read
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            self.bytes_read += len(line)
            with contextlib.suppress(ValueError):
                trial = Trial.model_validate_json(line)
                self._by_number[trial.number] = trial
        return self.bytes_read > before
