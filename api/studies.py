"""Trials of searches, read from their studies. Nothing is ever written to a study here."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from optuna.storages import BaseStorage

from api.problems import bad_parameter
from cluster.run_folder import RunFolder
from nas.objectives import OBJECTIVES
from nas.study import Trial, TrialState, find_trials, open_storage, pareto_front

MAX_OPEN = 64


class Studies:
    """Keeps the storages of the searches last asked for open, as Optuna reads only what was added since.

    A study that does not exist yet has no trials, and is not made by asking for it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, BaseStorage] = OrderedDict()
        self._lock = Lock()

    def trials(self, search_id: str, folder: RunFolder, study: str) -> list[Trial]:
        """All trials of one study of a search, by number."""
        storage = self._storage(search_id, folder)
        return [] if storage is None else find_trials(storage, folder.study_name(study))

    def forget(self, search_id: str) -> None:
        with self._lock:
            self._open.pop(search_id, None)

    def _storage(self, search_id: str, folder: RunFolder) -> BaseStorage | None:
        with self._lock:
            if search_id not in self._open:
                location = folder.study_location
                if isinstance(location, Path) and not location.exists():
                    return None
                self._open[search_id] = open_storage(location)
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
