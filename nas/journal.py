"""Reads trials straight from the lines of an Optuna journal file, for those who only read.

Optuna's own reader makes parameters and distributions of every trial; what ``nas.study`` wants of them takes a seventh
of its time and of its memory. The lines are those that ``optuna.storages.JournalStorage`` writes and replays
(``JournalOperation`` there), a format that Optuna does not promise: ``is_understood`` says whether the Optuna that is
installed writes it still, and ``tests/nas/test_journal.py`` holds the two readers together.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState

from nas.damage import parse_record
from nas.space import SearchSpace
from nas.study import Study, Trial, TrialReader, as_trial, open_storage
from slicemamba.architecture import Block

_CREATE_STUDY, _DELETE_STUDY, _CREATE_TRIAL, _SET_STATE, _SET_USER_ATTR = 0, 1, 4, 6, 8
_NOT_NEEDED = frozenset({2, 3, 5, 7, 9, 10})
"""Attributes of a study; parameters, intermediate values and system attributes of a trial; what Optuna passes over."""


@dataclass(eq=False)
class _Study:
    """Trials of a study by number, those of them that have changed and not ended, and what was answered last."""

    trials: list[Trial | None] = field(default_factory=list)
    changed: dict[int, _OpenTrial] = field(default_factory=dict)
    answered: list[Trial] | None = None

    def answer(self) -> list[Trial]:
        """All trials; the same list for as long as nothing is new."""
        for number, trial in self.changed.items():
            self.trials[number] = trial.as_trial()
        self.changed.clear()
        if self.answered is None:
            self.answered = [trial for trial in self.trials if trial is not None]
        return self.answered

    def note(self, trial: _OpenTrial) -> None:
        """Keeps a trial that is new or has changed. One that has ended is made now, the others when they are wanted."""
        self.answered = None
        if trial.state.is_finished():
            self.changed.pop(trial.number, None)
            self.trials[trial.number] = trial.as_trial()
        else:
            self.changed[trial.number] = trial


@dataclass(eq=False)
class _OpenTrial:
    """A trial that has not ended, as far as the lines tell."""

    study: _Study
    number: int
    state: OptunaState
    user_attrs: dict[str, Any]
    started: str | None
    ended: str | None

    def as_trial(self) -> Trial:
        return as_trial(self.number, self.state, self.user_attrs, _moment(self.started), _moment(self.ended))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@cache
def is_understood() -> bool:
    """Whether this reader sees what Optuna writes; looked at once, on a small study. A warning tells where it is not:
    then trials are to be read by Optuna itself (``nas.study.TrialReader``), which takes several times as long.
    """
    space = SearchSpace((Block(2, 2), Block(4, 4)), (1, 1))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probe.journal"
        study = Study(path, "probe", space, ("dice",), "random")
        for number, genes in enumerate(([0, 0], [0, 1], [1, 0])):
            study.start(space.decode(genes), origin="random", asked_after=number)
        study.complete(0, {"dice": 0.5}, ended_as=0, seconds=1.0)
        study.fail(1, "probe", ended_as=1)
        expected = TrialReader(open_storage(path), "probe").read()
        try:
            understood = JournalReader(path).read("probe") == expected
        except (KeyError, TypeError, ValueError):
            understood = False
    if not understood:
        warnings.warn(
            f"Optuna {optuna.__version__} is not one this version was tested with (its journal has another format): "
            "large studies are read more slowly; install an Optuna of the range in pyproject.toml",
            RuntimeWarning,
            stacklevel=2,
        )
    return understood


class JournalReader:
    """Trials of all studies in a journal file. What was read is not read again; safe to be used by several threads.

    Args:
        path: of the file; where there is none, there are no studies.

    Attributes:
        files_read: 1, and one more each time the file was found to be another one, so that trials may be others too.
        bytes_read: of all of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self.bytes_read = self.files_read = 0
        self._begin()

    def _begin(self) -> None:
        self.files_read += 1
        self._offset = 0
        self._file: tuple[int, int] | None = None
        self._studies: dict[int, tuple[str, _Study]] = {}
        self._num_studies = 0
        self._num_trials = 0
        self._open: dict[int, _OpenTrial] = {}

    def read(self, name: str) -> list[Trial]:
        """Trials of the study of this name, by number: the same list for as long as nothing is new.

        Of a journal that is damaged in the middle those before the damage, as ``nas.damage`` keeps them.

        Raises:
            ValueError: a record is of a later version.
        """
        with self._lock:
            self._catch_up()
            study = next((study for known, study in self._studies.values() if known == name), None)
            return [] if study is None else study.answer()

    def _catch_up(self) -> None:
        """Reads the whole lines that were added. A file that was replaced by another one is read from its start."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            if self._file is not None:
                self._begin()
            return
        with file:
            facts = os.fstat(file.fileno())
            identity = (facts.st_dev, facts.st_ino)
            if self._file not in (None, identity) or facts.st_size < self._offset:
                self._begin()
            self._file = identity
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = parse_record(line)
                except ValueError:  # the last one may yet be written anew; behind any other nothing can be taken up
                    return
                self._apply(record)
                self._offset += len(line)
                self.bytes_read += len(line)

    def _apply(self, record: dict[str, Any]) -> None:
        operation = record["op_code"]
        if operation == _CREATE_TRIAL:
            self._create_trial(record)
        elif operation == _SET_USER_ATTR:
            trial = self._open.get(record["trial_id"])
            if trial is not None:
                trial.user_attrs.update(record["user_attr"])
                trial.study.note(trial)
        elif operation == _SET_STATE:
            self._set_state(record)
        elif operation == _CREATE_STUDY:
            if record["study_name"] not in [name for name, _ in self._studies.values()]:
                self._studies[self._num_studies] = (record["study_name"], _Study())
                self._num_studies += 1
        elif operation == _DELETE_STUDY:
            self._studies.pop(record["study_id"], None)
        elif operation not in _NOT_NEEDED:
            raise ValueError(f"{self._path} has a record of kind {operation}, which this version does not know")

    def _create_trial(self, record: dict[str, Any]) -> None:
        if record["study_id"] not in self._studies:
            return
        _, study = self._studies[record["study_id"]]
        trial = _OpenTrial(
            study,
            number=len(study.trials),
            state=OptunaState(record.get("state", OptunaState.RUNNING)),
            user_attrs=record.get("user_attrs", {}),
            started=record["datetime_start"],
            ended=record.get("datetime_complete"),
        )
        study.trials.append(None)
        study.note(trial)
        if not trial.state.is_finished():
            self._open[self._num_trials] = trial
        self._num_trials += 1

    def _set_state(self, record: dict[str, Any]) -> None:
        trial, state = self._open.get(record["trial_id"]), OptunaState(record["state"])
        if trial is None or (state == trial.state == OptunaState.RUNNING):  # it has ended, or runs elsewhere already
            return
        trial.state = state
        if state == OptunaState.RUNNING:
            trial.started = record["datetime_start"]
        if state.is_finished():
            trial.ended = record["datetime_complete"]
            del self._open[record["trial_id"]]
        trial.study.note(trial)
