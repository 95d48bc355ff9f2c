"""Pareto fronts and hypervolumes as array functions, by moocore. All take losses: smaller is better in every column
(see ``objectives.losses``).

Losses are finite in all functions: NaN and infinities have no place on a front, no distance and no volume, so each
function but ``hypervolume_curves`` refuses them with the same ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping

import moocore
import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]


def pareto_mask(losses: Losses) -> npt.NDArray[np.bool_]:
    """Which rows no other row dominates.

    A row dominates another when it is no worse in every column and better in at least one; equal rows do not dominate
    each other, so ties are all kept.

    Args:
        losses: (n, objectives), finite.

    Returns:
        (n,) mask.
    """
    _check_finite(losses)
    if not len(losses):
        return np.ones(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(losses, keep_weakly=True), dtype=bool)


def measurable_front(losses: Losses, resolution: Losses) -> npt.NDArray[np.bool_]:
    """Which rows of a front are better than each other by more than can be told from chance.

    A row covers another that is in no column better than it by more than the resolution of the two (ε-dominance,
    Laumanns et al. 2002). The cheapest in the columns without noise come first, then the best; a row joins unless a
    member covers it. So every row is covered by a member, no member by another, and what costs more must be measurably
    better for it. With noise in more than one column, members that a later one covers are taken out again.

    Args:
        losses: (n, objectives), finite.
        resolution: (n, n, objectives), symmetric: differences of two rows up to this are none. 0 where there is no
            noise.

    Returns:
        (n,) mask.
    """
    _check_finite(losses)
    if not len(losses):
        return np.ones(0, dtype=bool)
    better = losses[:, None] < losses[None] - resolution  # (i, j, objective): i is measurably better than j
    covers = np.logical_not(np.any(better, axis=2)).T  # (i, j): j is better than i nowhere
    members: list[int] = []
    for row in _cheapest_first(losses, resolution):
        if not covers[members, row].any():
            members = [member for member in members if not covers[row, member]] + [row]
    mask = np.zeros(len(losses), dtype=bool)
    mask[members] = True
    return mask


def _cheapest_first(losses: Losses, resolution: Losses) -> list[int]:
    """Rows by their sum in the columns without noise, each as a share of its span, then by that in the others."""
    noisy = (resolution > 0).any(axis=(0, 1))
    span = np.ptp(losses, axis=0)
    shares = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
    exact, others = shares[:, ~noisy].sum(axis=1), shares[:, noisy].sum(axis=1)
    return [int(row) for row in np.lexsort((np.arange(len(losses)), others, exact))]


def nondominated_ranks(losses: Losses, violations: Losses | None = None) -> npt.NDArray[np.int64]:
    """Number of the front that each row is of: 0 for the rows that none dominates, 1 for those that are left …

    With violations, domination is constrained (Deb 2000; NSGA-II, section VI): of two rows with different violations
    the smaller one dominates, so that every feasible row comes before all others.

    Args:
        losses: (n, objectives), finite.
        violations: (n,) 0 where every constraint is met.

    Returns:
        (n,) ranks.
    """
    _check_finite(losses)
    classes = np.zeros(len(losses)) if violations is None else violations
    _check_finite(classes)
    ranks = np.empty(len(losses), dtype=np.int64)
    first = 0
    for violation in np.unique(classes):
        alike = classes == violation
        ranks[alike] = first + np.asarray(moocore.pareto_rank(losses[alike]))
        first = int(ranks[alike].max()) + 1
    return ranks


def _check_finite(values: Losses) -> None:
    if not np.isfinite(values).all():
        raise ValueError("losses must be finite, not NaN or infinite; leave failed and infeasible trials out")


def crowding_distance(losses: Losses) -> npt.NDArray[np.float64]:
    """Crowding distance of each row within one front (Deb et al. 2002, NSGA-II, section III-B).

    Args:
        losses: (n, objectives), finite.

    Returns:
        (n,) distances; infinite at the ends of each objective.
    """
    _check_finite(losses)
    count, num_objectives = losses.shape
    distance = np.zeros(count)
    for column in range(num_objectives):
        order = np.argsort(losses[:, column], kind="stable")
        values = losses[order, column]
        span = values[-1] - values[0] if count else 0.0
        if span > 0:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
        if count:
            distance[order[[0, -1]]] = np.inf
    return distance


def crowded_order(losses: Losses, violations: Losses | None = None) -> npt.NDArray[np.int64]:
    """Rows from the best to the worst as NSGA-II has it: by rank, in a rank the least crowded first.

    Of rows that are alike in both the latest comes first, so that old ones make room for new ones.

    Args:
        losses, violations: as of ``nondominated_ranks``.
    """
    ranks = nondominated_ranks(losses, violations)
    crowding = np.empty(len(losses))
    for rank in range(ranks.max(initial=-1) + 1):
        crowding[ranks == rank] = crowding_distance(losses[ranks == rank])
    return np.lexsort((-np.arange(len(losses)), -crowding, ranks))


def hypervolume(losses: Losses, reference: npt.ArrayLike) -> float:
    """Volume of what the rows dominate, up to the reference point; exact for any number of objectives.

    Args:
        losses: (n, objectives), finite; rows need not be of one front. Those not better than the reference in every
            column add nothing.
        reference: (objectives,), finite.
    """
    upper = np.asarray(reference, dtype=np.float64)
    if losses.ndim != 2 or upper.shape != losses.shape[1:]:
        raise ValueError(f"losses (n, k) need a reference (k,); got {losses.shape} and {upper.shape}")
    _check_finite(losses)
    _check_finite(upper)
    return _volume(losses[(losses < upper).all(axis=1)], upper)


def _volume(points: Losses, upper: Losses) -> float:
    return float(moocore.hypervolume(points, ref=upper)) if len(points) else 0.0


class ParetoFront:
    """The front of a growing set of losses, and its hypervolume, kept up at a cost of the front's size a row.

    Args:
        num_objectives: columns of a row.
        reference: of the hypervolume, (objectives,); without one it is not kept.
    """

    def __init__(self, num_objectives: int, reference: npt.ArrayLike | None = None) -> None:
        self._rows = np.empty((8, num_objectives))
        self._size = 0
        self._reference = None if reference is None else np.asarray(reference, dtype=np.float64)
        self.hypervolume = 0.0

    def __len__(self) -> int:
        return self._size

    @property
    def losses(self) -> Losses:
        """(front, objectives), in the order in which rows came."""
        return self._rows[: self._size].copy()

    def add(self, row: npt.ArrayLike) -> bool:
        """Takes a row in unless one dominates it; equal rows are all kept. Returns whether it did."""
        added = np.asarray(row, dtype=np.float64)
        _check_finite(added)
        front = self._rows[: self._size]
        no_worse, no_better = (front <= added).all(axis=1), (front >= added).all(axis=1)
        if (no_worse & ~no_better).any():
            return False
        if self._reference is not None and not no_worse.any():
            self.hypervolume += self._own_volume(added, self._reference)
        kept = front[~no_better | no_worse]
        if len(kept) == len(self._rows):
            self._rows = np.resize(self._rows, (2 * len(self._rows), len(added)))
        self._rows[: len(kept)] = kept
        self._rows[len(kept)] = added
        self._size = len(kept) + 1
        return True

    def dominates(self, rows: Losses) -> npt.NDArray[np.bool_]:
        """(n,) which of (n, objectives) rows a row of the front dominates, so that ``add`` would refuse them."""
        front = self._rows[: self._size, None]
        no_worse = (front <= rows).all(axis=2)
        return np.asarray((no_worse & (front < rows).any(axis=2)).any(axis=0))

    def _own_volume(self, row: Losses, reference: Losses) -> float:
        """What the row dominates and the front does not."""
        if not (row < reference).all():
            return 0.0
        limited = np.maximum(self._rows[: self._size], row)
        limited = limited[(limited < reference).all(axis=1)]
        return float(np.prod(reference - row)) - _volume(limited, reference)


def hypervolume_curves(curves: Mapping[str, Losses]) -> dict[str, list[float]]:
    """Share of the objectives' box that each search has won after each evaluation, 0…1.

    The box is the same for all curves: from the best value of each objective that any of them has seen to the worst, a
    tenth of the range added so that the ends of a front count too.

    Args:
        curves: (n, objectives) losses by name, in the order of evaluation; rows of NaN for those that win nothing.
    """
    rows = np.concatenate(list(curves.values()))
    rows = rows[~np.isnan(rows).any(axis=1)]
    if not len(rows):
        return {name: [0.0] * len(losses) for name, losses in curves.items()}
    ideal, worst = rows.min(axis=0), rows.max(axis=0)
    span = np.where(worst > ideal, worst - ideal, 1.0)
    return {name: _curve((losses - ideal) / span) for name, losses in curves.items()}


def _curve(scaled: Losses) -> list[float]:
    reference = np.full(scaled.shape[1], 1.1)
    front, volume, curve = np.empty((0, scaled.shape[1])), 0.0, []
    for row in scaled:
        # A point that the front is no worse than adds nothing, and most are such.
        if not np.isnan(row).any() and not (front <= row).all(axis=1).any():
            front = np.vstack([front, row])
            front = front[pareto_mask(front)]
            volume = hypervolume(front, reference) / float(np.prod(reference))
        curve.append(volume)
    return curve
