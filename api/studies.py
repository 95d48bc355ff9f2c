"""Trials of searches, read from their studies. Nothing is ever written to a study here."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from api.problems import bad_parameter
from cluster.run_folder import RunFolder
from nas.objectives import OBJECTIVES
from nas.study import Trial, TrialReader, TrialState, open_storage, pareto_front

MAX_OPEN = 64
STUDIES = ("search", "random")


class Studies:
    """Keeps the searches last asked for open, so that only what was added since is read.

    A study that does not exist yet has no trials, and is not made by asking for it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, dict[str, TrialReader]] = OrderedDict()
        self._lock = Lock()

    def trials(self, search_id: str, folder: RunFolder, study: str) -> list[Trial]:
        """All trials of one study of a search, by number; not to be changed."""
        with self._lock:
            readers = self._readers(search_id, folder)
            return readers[study].read() if readers else []

    def forget(self, search_id: str) -> None:
        with self._lock:
            self._open.pop(search_id, None)

    def _readers(self, search_id: str, folder: RunFolder) -> dict[str, TrialReader]:
        if search_id not in self._open:
            location = folder.study_location
            if isinstance(location, Path) and not location.exists():
                return {}
            storage = open_storage(location)
            self._open[search_id] = {name: TrialReader(storage, folder.study_name(name)) for name in STUDIES}
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(search_id)
        return self._open[search_id]


def measured(trials: Sequence[Trial]) -> list[str]:
    """Names of the objectives that all completed trials have a finite value of; all names while there is no trial."""
    rows = [trial.metrics for trial in trials if trial.state is TrialState.COMPLETED]
    return [name for name in OBJECTIVES if all(math.isfinite(row.get(name, math.nan)) for row in rows)]


def front(trials: list[Trial], objectives: tuple[str, ...]) -> list[Trial]:
    """The Pareto frontier over any measured objectives. Raises ProblemError (422) that lists the measured ones."""
    known = measured(trials)
    unknown = [name for name in objectives if name not in known]
    if unknown or not objectives or len(set(objectives)) != len(objectives):
        what = f"{', '.join(unknown)} was not measured in this search" if unknown else "each needs to be there once"
        raise bad_parameter("objectives", f"{what}; give some of {', '.join(known)}, separated by commas")
    return pareto_front(trials, objectives)


def sort_trials(trials: Sequence[Trial], order: str) -> list[Trial]:
    """By ``number``, ``seconds`` or a metric; ``-`` before the name turns the order round. Without a value: last.

    Raises:
        ProblemError: 422, a name that no trial has a value of.
    """
    descending, name = order.startswith("-"), order.removeprefix("-")
    if name == "number":
        return sorted(trials, key=lambda trial: trial.number, reverse=descending)
    values = [_value(trial, name) for trial in trials]
    if trials and all(value is None for value in values):
        known = sorted({metric for trial in trials for metric in trial.metrics})
        raise bad_parameter("sort", f"must be one of {', '.join(['number', 'seconds', *known])}; got {order!r}")
    sign = -1 if descending else 1
    keyed = [(value is None, sign * (value or 0.0), trial.number) for value, trial in zip(values, trials, strict=True)]
    return [trial for _, trial in sorted(zip(keyed, trials, strict=True), key=lambda pair: pair[0])]


def _value(trial: Trial, name: str) -> float | None:
    value = trial.seconds if name == "seconds" else trial.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def image_scores(path: Path) -> list[tuple[str, float, float]]:
    """(name, Dice, IoU) of each image of a trial, over all foreground classes, in the split's order.

    Both are 1 where neither prediction nor truth marks a pixel (docs/metrics.md).

    Args:
        path: the trial's counts, as ``RunFolder.counts_path`` names them. Raises FileNotFoundError where it has none.
    """
    with np.load(path, allow_pickle=False) as stored:
        counts, names = stored["counts"].astype(np.int64), stored["names"].tolist()
    tp, fp, fn, _ = (counts if counts.shape[1] == 1 else counts[:, 1:]).sum(axis=1).T
    union = tp + fp + fn
    dice = np.where(union > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)
    iou = np.where(union > 0, tp / np.maximum(union, 1), 1.0)
    return list(zip(map(str, names), dice.tolist(), iou.tolist(), strict=True))
