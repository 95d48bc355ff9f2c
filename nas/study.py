"""The trial store: the one truth about which architectures were evaluated and what came out.

Kept in an Optuna storage (a journal file by default, a database by URL), so that Optuna's own tools can read it. The
storage is used directly, without ``Study.ask``: a trial is written whole in one operation when it starts and once more
when it ends, so a killed process leaves a RUNNING trial and nothing half-written.

A study has one writer, the one that claimed it last. Who claims it leaves its name in the study, and each write looks
first whether that is still there. Between the look and the write lie microseconds; a writer that is halted in just
them, for as long as it takes another to claim the study, still adds that one record when it goes on.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from nas.damage import check_journal
from nas.objectives import OBJECTIVES, Constraints, loss_matrix, losses, violation
from nas.pareto import pareto_mask
from nas.record import bring_in_line, note, record_path
from nas.retries import DatabaseRetries
from nas.space import SearchSpace
from nas.trial import Trial as Trial
from nas.trial import TrialState as TrialState
from slicemamba.architecture import Architecture, format_block
from slicemamba.errors import InputError, RunFailedError

optuna.logging.set_verbosity(optuna.logging.WARNING)

_WRITER = "writer"
_MEND_BYTES = 1 << 16


def _name_objectives(study: str, storage: BaseStorage, objectives: tuple[str, ...]) -> None:
    """So that Optuna's dashboard and plots call them what they are, not 0 and 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.load_study(study_name=study, storage=storage).set_metric_names(list(objectives))


def open_storage(location: str | Path | BaseStorage) -> BaseStorage:
    """A journal file for a path, a database for an SQLAlchemy URL; a storage that is open already as it is.

    Raises:
        InputError: the journal is damaged; says how to go on.
    """
    if isinstance(location, BaseStorage):
        return location
    if isinstance(location, str) and "://" in location:
        return get_storage(location)
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_journal(path)
    return JournalStorage(JournalFileBackend(str(path)))


def mend_journal(path: Path) -> None:
    """Cuts off a record that was written in part, as a full disk leaves it.

    The next one would be appended to it, and the journal could not be read from there on.
    """
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))  # so that no record is taken for cut short that is being written
    lock.acquire()
    try:
        with path.open("rb+") as file:
            file.truncate(_end_of_last_line(file))
    finally:
        lock.release()


def _end_of_last_line(file: BinaryIO) -> int:
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _MEND_BYTES)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


class Study:
    """Trials of one search.

    Args:
        location: path of the journal file, a database URL, or an open storage.
        name: the study's name in that storage.
        space, objectives, searcher, constraints: of the search; kept with the study, and a study made with others is
            refused.
        retries: waits for a database that is locked or away; without, its error is raised at once.

    Raises:
        InputError: the storage holds a study of this name with another space, objectives or searcher.
    """

    def __init__(
        self,
        location: str | Path | BaseStorage,
        name: str,
        space: SearchSpace,
        objectives: tuple[str, ...],
        searcher: str,
        constraints: Constraints | None = None,
        retries: DatabaseRetries | None = None,
    ) -> None:
        self.space = space
        self.objectives = objectives
        self.constraints = dict(constraints or {})
        self._retried = retries or (lambda call: call())
        self._writer: str | None = None
        self._storage = self._retried(lambda: open_storage(location))
        self._distributions = {
            f"block_{i:02d}": CategoricalDistribution([format_block(space.choices[gene]) for gene in options])
            for i, options in enumerate(space.options, 1)
        }
        meta: dict[str, Any] = {
            "objectives": list(objectives),
            "choices": [format_block(size) for size in space.choices],
            "depths": list(space.depths),
            "searcher": searcher,
        }
        if self.constraints:  # absent without any, as in studies from before there were constraints
            meta["constraints"] = {name: bound.model_dump() for name, bound in self.constraints.items()}
        self._study_id = self._retried(lambda: self._open(name, meta))
        self._record = record_path(location, name) if isinstance(location, Path) else None
        if self._record is not None:
            bring_in_line(self._record, self.trials())

    def _open(self, name: str, meta: dict[str, Any]) -> int:
        directions = [
            StudyDirection.MAXIMIZE if OBJECTIVES[o].direction == "maximize" else StudyDirection.MINIMIZE
            for o in self.objectives
        ]
        try:
            study_id = self._storage.create_new_study(directions, name)
            _name_objectives(name, self._storage, self.objectives)
            self._storage.set_study_user_attr(study_id, "search", meta)
        except DuplicatedStudyError:
            study_id = self._storage.get_study_id_from_name(name)
        found = self._storage.get_study_user_attrs(study_id).get("search")
        if found is None:  # killed between the two writes above
            self._storage.set_study_user_attr(study_id, "search", meta)
        elif found != meta:
            differing = [
                f"{key}: {found.get(key)!r} before, {meta.get(key)!r} now"
                for key in sorted({*found, *meta})
                if found.get(key) != meta.get(key)
            ]
            raise InputError(
                f"study {name!r} exists with other settings; give the search a new folder or the same settings",
                details=differing,
            )
        return study_id

    def claim(self, writer: str) -> None:
        """Makes this object the study's only writer: whoever was it before finds out at its next write."""
        self._retried(lambda: self._storage.set_study_user_attr(self._study_id, _WRITER, writer))
        self._writer = writer

    def _check_writer(self) -> None:
        """Raises RunFailedError where another process has claimed the study since."""
        if self._writer is None:
            return
        if self._storage.get_study_user_attrs(self._study_id).get(_WRITER) != self._writer:
            raise RunFailedError("another driver has taken over the study; this one stops and writes nothing more")

    def start(
        self,
        architecture: Architecture,
        *,
        origin: str,
        asked_after: int,
        reference: tuple[int, ...] = (),
        peers: tuple[int, ...] = (),
    ) -> Trial:
        """Writes a RUNNING trial."""
        template = create_trial(
            state=OptunaState.RUNNING,
            params=dict(zip(self._distributions, map(format_block, architecture.blocks()), strict=True)),
            distributions=dict(self._distributions),
            user_attrs={
                "architecture": str(architecture),
                "origin": origin,
                "asked_after": asked_after,
                "reference": list(reference),
                "peers": list(peers),
            },
        )
        begun = False

        def write() -> Trial:
            nonlocal begun
            self._check_writer()
            if begun:  # a try whose answer got lost may have written it; no architecture comes twice in a study
                for trial in reversed(read_trials(self._storage, self._study_id)):
                    if trial.architecture == str(architecture):
                        return trial
            begun = True
            return to_trial(self._storage.get_trial(self._storage.create_new_trial(self._study_id, template)))

        return self._noted(self._retried(write))

    def _noted(self, trial: Trial) -> Trial:
        if self._record is not None:
            note(self._record, trial)
        return trial

    def complete(
        self,
        number: int,
        metrics: Mapping[str, float],
        *,
        ended_as: int,
        seconds: float | None,
        work: Mapping[str, int] | None = None,
    ) -> Trial:
        """Ends a trial with its metrics; INFEASIBLE when one of them is not finite."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            reason = ", ".join(f"{name} = {metrics[name]}" for name in bad)
            return self.fail(number, f"not finite: {reason}", ended_as=ended_as, infeasible=True)
        outcome = {"metrics": dict(metrics), "ended_as": ended_as, "seconds": seconds, "work": dict(work or {})}
        values = [metrics[name] for name in self.objectives]
        if self.constraints:
            outcome["violation"] = violation(metrics, self.constraints)
        return self._end(number, OptunaState.COMPLETE, outcome, values)

    def prune(self, number: int, *, ended_as: int, seconds: float | None, work: Mapping[str, int]) -> Trial:
        """Ends a trial that racing has given up; ``work["images"]`` says after how many images."""
        outcome = {"ended_as": ended_as, "seconds": seconds, "work": dict(work)}
        return self._end(number, OptunaState.PRUNED, outcome, None)

    def fail(self, number: int, reason: str, *, ended_as: int, infeasible: bool = False) -> Trial:
        """Ends a trial without values."""
        state = TrialState.INFEASIBLE if infeasible else TrialState.FAILED
        reason = reason.encode(errors="replace").decode()  # names of files may hold what is no character
        outcome = {"state": state.value, "error": reason, "ended_as": ended_as}
        return self._end(number, OptunaState.FAIL, outcome, None)

    def _end(self, number: int, state: OptunaState, outcome: dict[str, Any], values: list[float] | None) -> Trial:
        def write() -> Trial:
            self._check_writer()
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            try:
                self._storage.set_trial_user_attr(trial_id, "outcome", outcome)
                if "violation" in outcome:  # where Optuna's own tools look for it
                    self._storage.set_trial_system_attr(trial_id, "constraints:violation", outcome["violation"])
                self._storage.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:  # a try whose answer got lost has written it
                if self._storage.get_trial(trial_id).user_attrs.get("outcome") != outcome:
                    raise
            return to_trial(self._storage.get_trial(trial_id))

        return self._noted(self._retried(write))

    def trials(self) -> list[Trial]:
        """All trials by number."""
        return self._retried(lambda: read_trials(self._storage, self._study_id))

    def warm_start(self, choose: Callable[[], list[Architecture]]) -> list[Architecture]:
        """What ``choose`` gave the first time; kept, so that a resumed search does not depend on the earlier one."""
        kept = self._retried(lambda: self._storage.get_study_user_attrs(self._study_id)).get("warm_start")
        if kept is None:
            kept = [str(architecture) for architecture in choose()]
            self._retried(lambda: self._storage.set_study_user_attr(self._study_id, "warm_start", kept))
        return [Architecture.parse(text) for text in kept]


def read_trials(storage: BaseStorage, study_id: int) -> list[Trial]:
    return [to_trial(frozen) for frozen in storage.get_all_trials(study_id, deepcopy=False)]


def find_trials(storage: BaseStorage, name: str) -> list[Trial]:
    """Trials of the study of this name, read only; an empty list where the search has not made it yet."""
    try:
        return read_trials(storage, storage.get_study_id_from_name(name))
    except KeyError:
        return []


def delete_studies(location: str | Path, names: Iterable[str]) -> None:
    """Deletes studies with their trials; names that the storage does not know are passed over."""
    storage = open_storage(location)
    for name in names:
        with contextlib.suppress(KeyError):
            storage.delete_study(storage.get_study_id_from_name(name))


class TrialReader:
    """Reads the trials of one study again and again: one that has ended does not change, and is converted once.

    Args:
        storage: of the study. name: the study's.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._study_id: int | None = None
        self._trials: list[Trial] = []
        self._first_open = 0

    def read(self) -> list[Trial]:
        """All trials by number, for reading; an empty list where the search has not made the study yet."""
        if self._study_id is None:
            try:
                self._study_id = self._storage.get_study_id_from_name(self._name)
            except KeyError:
                return []
        found = self._storage.get_all_trials(self._study_id, deepcopy=False)
        known = self._trials[: self._first_open]
        open_ones = [
            old if old is not None and old.ended else to_trial(frozen)
            for frozen, old in zip_longest(found[len(known) :], self._trials[len(known) : len(found)])
        ]
        self._trials = known + open_ones
        while self._first_open < len(self._trials) and self._trials[self._first_open].ended:
            self._first_open += 1
        return self._trials


def find_settings(storage: BaseStorage, name: str) -> dict[str, Any] | None:
    """Objectives, space, searcher and constraints that a study was made with; None where there is no such study."""
    try:
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return None
    settings: dict[str, Any] | None = attributes.get("search")
    return settings


_STATES = {
    OptunaState.WAITING: TrialState.PENDING,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.COMPLETED,
    OptunaState.PRUNED: TrialState.PRUNED,
}


def to_trial(frozen: FrozenTrial) -> Trial:
    """Our view of an Optuna trial, whose moments without a zone are local."""
    attrs = frozen.user_attrs
    outcome = attrs.get("outcome", {}) if frozen.state.is_finished() else {}
    return Trial(
        number=frozen.number,
        state=_STATES.get(frozen.state) or TrialState(outcome.get("state", "FAILED")),
        architecture=attrs["architecture"],
        origin=attrs["origin"],
        metrics=outcome.get("metrics", {}),
        violation=outcome.get("violation", 0.0),
        error=outcome.get("error"),
        asked_after=attrs["asked_after"],
        ended_as=outcome.get("ended_as"),
        seconds=outcome.get("seconds"),
        reference=tuple(attrs.get("reference", ())),
        peers=tuple(attrs.get("peers", ())),
        work=outcome.get("work", {}),
        started_at=_utc(frozen.datetime_start),
        ended_at=_utc(frozen.datetime_complete),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(timezone.utc)


def pareto_front(trials: list[Trial], objectives: tuple[str, ...]) -> list[Trial]:
    """The completed trials within all constraints that no other dominates, best first in the first objective, then the
    next.
    """
    eligible = [trial for trial in trials if trial.eligible]
    rows = loss_matrix([trial.metrics for trial in eligible], objectives)
    mask = pareto_mask(rows)
    front = [(tuple(row), trial) for row, trial, keep in zip(rows, eligible, mask, strict=True) if keep]
    return [trial for _, trial in sorted(front, key=lambda pair: (pair[0], pair[1].number))]


def dominating(trials: Iterable[Trial], front: Sequence[Trial], objectives: tuple[str, ...]) -> list[Trial]:
    """Those of other trials that dominate a member of a front, as those of a random search may."""
    members = loss_matrix([trial.metrics for trial in front], objectives)

    def beats_one(trial: Trial) -> bool:
        row = loss_matrix([trial.metrics], objectives)
        return bool(((row <= members).all(axis=1) & (row < members).any(axis=1)).any())

    return [trial for trial in trials if trial.eligible and beats_one(trial)]


_REFERENCE_MARGIN = 0.1


def reference_point(trials: list[Trial], objectives: tuple[str, ...]) -> tuple[float, ...] | None:
    """The point that hypervolumes of a study are measured from, as losses.

    In each objective the worst of the fixed slicings, a tenth of its size worse: what anyone has without a search, with
    room for what is somewhat worse in one objective and better in another. A study evaluates them first, so the point
    does not move while it searches, and it is the same for all searchers on one supernet. Without fixed slicings, the
    first completed trial takes their place. None while there is no such trial.
    """
    anchors = reference_trials(trials)
    if not anchors:
        return None
    worst = loss_matrix([trial.metrics for trial in anchors], objectives).max(axis=0)
    return tuple((worst + _REFERENCE_MARGIN * abs(worst)).tolist())


def reference_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Those that ``reference_point`` is taken from: the completed fixed slicings, else the first completed trial."""
    completed = sorted((trial for trial in trials if trial.state is TrialState.COMPLETED), key=lambda one: one.number)
    return [trial for trial in completed if trial.origin == "fixed"] or completed[:1]


def loss_rows(trials: Sequence[Trial], objectives: Sequence[str]) -> NDArray[np.float64]:
    """(n, objectives) losses, NaN for trials that can be on no frontier: not completed, or outside the constraints."""
    missing = (float("nan"),) * len(objectives)
    rows = [losses(trial.metrics, objectives) if trial.eligible else missing for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
