"""Trials of searches, read from their studies. Nothing is ever written to a study here.

All that a page shows of a study is kept up, not made anew: only trials that have ended since it was last asked for are
looked at, so that an answer takes as long for 100,000 trials as for 100.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import BinaryIO

import numpy as np

from api.server.problems import ProblemError, bad_parameter
from cluster.run_folder import RunFolder
from nas.objectives import OBJECTIVES, losses
from nas.pareto import ParetoFront
from nas.record import RecordReader, record_path
from nas.study import Trial, TrialReader, TrialState, open_storage, reference_point, reference_trials

MAX_OPEN = 64
MAX_WAITING = 8
"""Requests that may wait while a large study is read for the first time, or its first front is found. Each keeps one of
the server's threads, of which there are 40 for all; those beyond are asked to come again."""
STUDIES = ("search", "random")
_MAX_ORDERS = 8  # a study's last asked for; a table that is paged through asks for one again and again
_MAX_FRONTS = 32
_CHUNK = 256
_MANY = 10_000  # trials that take a while to be looked at


class Front:
    """The Pareto frontier of a study over some objectives, kept up as trials end.

    Attributes:
        reference: what the hypervolume is measured from, as losses; None: it is not measured.
        curve: (trial, number that have ended with it, hypervolume) of each that enlarged the hypervolume.
    """

    def __init__(self, objectives: tuple[str, ...], reference: tuple[float, ...] | None) -> None:
        self._objectives = objectives
        self._front = ParetoFront(len(objectives), reference)
        self._members: list[tuple[tuple[float, ...], Trial]] = []
        self.reference = reference
        self.taken = 0
        self.curve: list[tuple[Trial, int, float]] = []

    @property
    def hypervolume(self) -> float:
        return self._front.hypervolume

    def take(self, ended: Sequence[Trial]) -> None:
        """Takes those of ``ended``, all in the order in which they did, that it has not taken yet."""
        while self.taken < len(ended):
            some = ended[self.taken : self.taken + _CHUNK]
            rows = [losses(trial.metrics, self._objectives) if trial.eligible else None for trial in some]
            # Most are dominated from the start, which is found out for many at once.
            known = np.array([row for row in rows if row is not None]).reshape(-1, len(self._objectives))
            dominated = iter(self._front.dominates(known).tolist())
            for trial, row in zip(some, rows, strict=True):
                before = self._front.hypervolume
                if row is not None and not next(dominated):
                    self._add(trial, row)
                self.taken += 1
                if self._front.hypervolume > before or not self.curve:
                    self.curve.append((trial, self.taken, self._front.hypervolume))

    def _add(self, trial: Trial, row: tuple[float, ...]) -> None:
        if self._front.add(row):
            kept = [member for member in self._members if member[0] == row or not _no_worse(row, member[0])]
            self._members = [*kept, (row, trial)]

    def trials(self) -> list[Trial]:
        """Best first in the first objective, then the next."""
        return [trial for _, trial in sorted(self._members, key=lambda member: (member[0], member[1].number))]


def _no_worse(row: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(mine <= theirs for mine, theirs in zip(row, other, strict=True))


class _Source:
    """A study of a search: its record beside the journal or, where there is none, the study itself by Optuna."""

    def __init__(self, location: Path | str, name: str) -> None:
        self._location = location
        self._name = name
        self._path = record_path(location, name) if isinstance(location, Path) else None
        self._record = None if self._path is None else RecordReader(self._path)
        self._reader: TrialReader | None = None
        self._lock = Lock()

    def read(self) -> tuple[int, list[Trial]]:
        """Its trials; and a number that changes when they are others, not merely more."""
        if self._record is not None and self._path is not None:
            found = self._record.read()
            if self._path.exists() or not Path(self._location).exists():
                return self._record.version, found
        if isinstance(self._location, Path) and not self._location.is_file():  # Optuna would wait for a pipe for ever
            return 0, []
        with self._lock:
            if self._reader is None:
                self._reader = TrialReader(open_storage(self._location), self._name)
            return 0, self._reader.read()


class StudyView:
    """One study as pages show it. Safe to be asked by several threads at once.

    Args:
        source: where the study is; None where there is none yet.
    """

    def __init__(self, source: _Source | None = None) -> None:
        self._source = source
        self._lock = Lock()
        self._waiting = BoundedSemaphore(MAX_WAITING)
        self._is_read = self._is_long = False
        self._begin(0)

    def _begin(self, version: int) -> None:
        self._version = version
        self._floor = 0  # all trials before it have ended and are counted
        self._counted: set[int] = set()
        self._measured = list(OBJECTIVES)
        self._anchors: list[Trial] = []
        self._ended: list[Trial] = []
        self._fronts: OrderedDict[tuple[tuple[str, ...], tuple[float, ...] | None], Front] = OrderedDict()
        self._orders: OrderedDict[tuple[frozenset[TrialState], str], list[Trial]] = OrderedDict()
        self.trials: list[Trial] = []
        self.num_completed = 0
        self.worker_seconds = 0.0  # of all that have ended

    def refresh(self) -> StudyView:
        """Reads what has been added. Raises ProblemError (503) where too many wait for the first reading already."""
        if self._source is None:
            return self
        with self._turn(long=not self._is_read):
            version, found = self._source.read()
            if version != self._version:  # as when an older copy of the folder was brought back
                self._begin(version)
            if found is not self.trials and found != self.trials:
                self._orders.clear()
                self.trials = found
                self._count(found)
            self._is_read = True
        return self

    @contextmanager
    def _turn(self, *, long: bool) -> Iterator[None]:
        """Holds the lock; where that will be ``long``, few may wait for it meanwhile."""
        if not self._lock.acquire(blocking=False):
            self._await_turn()
        self._is_long = long
        try:
            yield
        finally:
            self._is_long = False
            self._lock.release()

    def _await_turn(self) -> None:
        if not self._is_long:
            self._lock.acquire()
            return
        if not self._waiting.acquire(blocking=False):
            detail = "the trials of this search are being read for the first time; try again in a second"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
        try:
            self._lock.acquire()
        finally:
            self._waiting.release()

    def _count(self, found: list[Trial]) -> None:
        new = [trial for trial in found[self._floor :] if trial.ended and trial.number not in self._counted]
        self._counted.update(trial.number for trial in new)
        while self._floor in self._counted:
            self._counted.remove(self._floor)
            self._floor += 1
        for trial in new:
            self.worker_seconds += trial.seconds or 0.0
            if trial.state is TrialState.COMPLETED:
                self.num_completed += 1
                row = trial.metrics
                self._measured = [name for name in self._measured if math.isfinite(row.get(name, math.nan))]
                self._anchors = reference_trials([*self._anchors, trial])
        new.sort(key=_end)
        if self._ended and new and _end(new[0]) < _end(self._ended[-1]):
            self._ended = sorted([*self._ended, *new], key=_end)
            self._fronts.clear()
        else:
            self._ended += new

    def measured(self) -> list[str]:
        """Objectives that all completed trials have a finite value of; all of them while there is no such trial."""
        return self._measured

    def reference(self, objectives: tuple[str, ...]) -> tuple[float, ...] | None:
        """``nas.study.reference_point`` of this study. Raises ProblemError (422) as ``front`` does."""
        self._check(objectives)
        return reference_point(self._anchors, objectives)

    def front(self, objectives: tuple[str, ...], reference: tuple[float, ...] | None = None) -> Front:
        """The frontier over any measured objectives. Raises ProblemError (422) that lists the measured ones."""
        self._check(objectives)
        key = (objectives, reference)
        known = self._fronts.get(key)
        with self._turn(long=len(self._ended) - (known.taken if known else 0) > _MANY):
            front = self._fronts.setdefault(key, Front(objectives, reference))
            self._fronts.move_to_end(key)
            if len(self._fronts) > _MAX_FRONTS:
                self._fronts.popitem(last=False)
            front.take(self._ended)
            return front

    def curve(self, objectives: tuple[str, ...], reference: tuple[float, ...]) -> list[tuple[Trial, int, float]]:
        """(trial, number that have ended with it, hypervolume) of the first, of each that enlarged it, and of the last.

        Raises ProblemError (422) as ``front`` does.
        """
        front = self.front(objectives, reference)
        curve = list(front.curve)
        if curve and curve[-1][1] < front.taken:
            curve.append((self._ended[front.taken - 1], front.taken, front.hypervolume))
        return curve

    def _check(self, objectives: tuple[str, ...]) -> None:
        known = self._measured
        unknown = [name for name in objectives if name not in known]
        if unknown or not objectives or len(set(objectives)) != len(objectives):
            what = f"{', '.join(unknown)} was not measured in this search" if unknown else "each needs to be there once"
            raise bad_parameter("objectives", f"{what}; give some of {', '.join(known)}, separated by commas")

    def chosen(self, states: Sequence[TrialState], order: str) -> list[Trial]:
        """Trials in any of the states (all when empty), ordered as ``sort_trials`` does; not to be changed.

        Raises ProblemError (422) for an order by what is neither an objective nor measured.
        """
        if not states and order == "number":
            return self.trials
        key = (frozenset(states), order)
        with self._lock:
            found = self._orders.get(key)
            if found is None:
                # Of all trials: those in a state such as RUNNING may have no value yet.
                known = {metric for trial in self.trials for metric in trial.metrics}
                name = order.removeprefix("-")
                if name not in ("number", "seconds", *known, *OBJECTIVES):
                    told = ", ".join(["number", "seconds", *sorted(known or OBJECTIVES)])
                    raise bad_parameter("sort", f"must be one of {told}; got {order!r}")
                wanted = [trial for trial in self.trials if trial.state in key[0]] if states else self.trials
                found = self._orders[key] = sort_trials(wanted, order)
                if len(self._orders) > _MAX_ORDERS:
                    self._orders.popitem(last=False)
        return found


def _end(trial: Trial) -> tuple[int, int]:
    return trial.ended_as or 0, trial.number


class Studies:
    """Keeps the searches last asked for open, so that only what was added since is read.

    A study that does not exist yet has no trials, and is not made by asking for it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, dict[str, StudyView]] = OrderedDict()
        self._lock = Lock()

    def view(self, search_id: str, folder: RunFolder, study: str) -> StudyView:
        """One study of a search, as it is now."""
        with self._lock:  # held for no longer than it takes to find it: a large study is read for seconds at first
            views = self._views(search_id, folder)
        return (views[study] if views else StudyView()).refresh()

    def forget(self, search_id: str) -> None:
        with self._lock:
            self._open.pop(search_id, None)

    def _views(self, search_id: str, folder: RunFolder) -> dict[str, StudyView]:
        if search_id not in self._open:
            location = folder.study_location
            if isinstance(location, Path) and not location.exists():
                return {}
            self._open[search_id] = {name: StudyView(_Source(location, folder.study_name(name))) for name in STUDIES}
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(search_id)
        return self._open[search_id]


def sort_trials(trials: Sequence[Trial], order: str) -> list[Trial]:
    """By ``number``, ``seconds`` or a metric; ``-`` before the name turns the order round. Without a value: last."""
    descending, name = order.startswith("-"), order.removeprefix("-")
    if name == "number":
        return list(reversed(trials)) if descending else list(trials)
    values = np.array([_value(trial, name) for trial in trials], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan  # which numpy sorts last
    return [trials[i] for i in np.argsort(-values if descending else values, kind="stable").tolist()]


def _value(trial: Trial, name: str) -> float:
    value = trial.seconds if name == "seconds" else trial.metrics.get(name)
    return math.nan if value is None else value


def image_scores(file: BinaryIO) -> list[tuple[str, float, float]]:
    """(name, Dice, IoU) of each image of a trial, over all foreground classes, in the split's order.

    Both are 1 where neither prediction nor truth marks a pixel (docs/metrics.md).

    Args:
        file: the trial's counts, where ``RunFolder.counts_path`` names them.
    """
    with np.load(file, allow_pickle=False) as stored:
        counts, names = stored["counts"].astype(np.int64), stored["names"].tolist()
    tp, fp, fn, _ = (counts if counts.shape[1] == 1 else counts[:, 1:]).sum(axis=1).T
    union = tp + fp + fn
    dice = np.where(union > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)
    iou = np.where(union > 0, tp / np.maximum(union, 1), 1.0)
    return list(zip(map(str, names), dice.tolist(), iou.tolist(), strict=True))
