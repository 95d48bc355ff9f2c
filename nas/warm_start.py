"""The best architectures of an earlier search, to be evaluated early in another. Its scores are not taken over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nas.objectives import loss_matrix
from nas.pareto import Losses, crowded_order, pareto_mask
from nas.space import SearchSpace
from nas.study import find_settings, find_trials, open_storage
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

_POINTER = "/search/warm_start/study"


def best_architectures(location: str | Path, name: str, space: SearchSpace, top: int) -> list[Architecture]:
    """Up to ``top`` architectures of a study that are in ``space``, by what that study optimised, the best first.

    Members of its frontier come first, the ends of each objective before the least crowded; then the next front.

    Args:
        location, name: of the earlier study, as of ``Study``.

    Raises:
        InputError: there is no such study, none of its trials completed within its constraints, or none fits the space.
    """
    if isinstance(location, Path) and not location.is_file():
        raise InputError(
            f"there is no earlier search in {location.parent}: it holds no {location.name}", pointer=_POINTER
        )
    storage = open_storage(location)
    settings = find_settings(storage, name)
    if settings is None:
        raise InputError(f"there is no study {name!r} in the storage; give the folder of its run", pointer=_POINTER)
    eligible = [trial for trial in find_trials(storage, name) if trial.eligible]
    if not eligible:
        raise InputError(f"study {name!r} has no completed trial to start from", pointer=_POINTER)
    losses = loss_matrix([trial.metrics for trial in eligible], settings["objectives"])
    found: list[Architecture] = []
    refusals = []
    for i in _ranked(losses):
        if len(found) == top:
            break
        architecture = Architecture.parse(eligible[i].architecture)
        try:
            space.check(architecture)
        except InputError as error:
            refusals.append(error.message)
        else:
            found.append(architecture)
    if not found:
        raise InputError(
            f"none of the architectures of study {name!r} is in this search's space; of its best, {refusals[0]}",
            pointer=_POINTER,
        )
    return found


def _ranked(losses: Losses) -> Iterator[int]:
    """Rows from the best to the worst, as ``crowded_order`` has them; front by front, for it compares all pairs."""
    left = np.arange(len(losses))
    while len(left):
        on_front = pareto_mask(losses[left])
        front = left[on_front]
        yield from front[crowded_order(losses[front])].tolist()
        left = left[~on_front]
