"""Pareto fronts and hypervolumes as array functions. All take losses: smaller is better in every column (see
``objectives.losses``).
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]
_INF = float("inf")


def pareto_mask(losses: Losses) -> npt.NDArray[np.bool_]:
    """Which rows no other row dominates.

    A row dominates another when it is no worse in every column and better in at least one; equal rows do not dominate
    each other, so ties are all kept.

    Args:
        losses: (n, objectives), without NaN.

    Returns:
        (n,) mask.
    """
    if np.isnan(losses).any():
        raise ValueError("losses must not hold NaN; leave failed and infeasible trials out")
    mask = np.ones(len(losses), dtype=bool)
    front = np.empty_like(losses)
    size = 0
    # In lexicographic order no row is dominated by a later one, so each row is compared with the front so far only.
    for i in np.lexsort(losses.T[::-1]):
        row = losses[i]
        no_worse = (front[:size] <= row).all(axis=1)
        if no_worse.any() and (front[:size][no_worse] < row).any():
            mask[i] = False
        else:
            front[size] = row
            size += 1
    return mask


def nondominated_ranks(losses: Losses, violations: Losses | None = None) -> npt.NDArray[np.int64]:
    """Number of the front that each row is of: 0 for the rows that none dominates, 1 for those that are left …

    With violations, domination is constrained (Deb 2000; NSGA-II, section VI): of two rows with different violations
    the smaller one dominates, so that every feasible row comes before all others.

    Args:
        losses: (n, objectives), without NaN; n is a population's, as all pairs are compared.
        violations: (n,) 0 where every constraint is met.

    Returns:
        (n,) ranks.
    """
    no_worse, better = losses[:, None] <= losses[None], losses[:, None] < losses[None]
    dominates = np.asarray(no_worse.all(axis=2) & better.any(axis=2))
    if violations is not None:
        less, equal = violations[:, None] < violations[None], violations[:, None] == violations[None]
        dominates = less | (equal & dominates)
    ranks = np.full(len(losses), -1)
    rank = 0
    while len(left := np.flatnonzero(ranks < 0)):
        ranks[left[~dominates[np.ix_(left, left)].any(axis=0)]] = rank
        rank += 1
    return ranks


def crowding_distance(losses: Losses) -> npt.NDArray[np.float64]:
    """Crowding distance of each row within one front (Deb et al. 2002, NSGA-II, section III-B).

    Args:
        losses: (n, objectives).

    Returns:
        (n,) distances; infinite at the ends of each objective.
    """
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

    Two and three objectives are swept in O(n log n); more are taken apart as in WFG (While et al. 2012).

    Args:
        losses: (n, objectives), finite; rows need not be of one front. Those not better than the reference in every
            column add nothing.
        reference: (objectives,).
    """
    upper = np.asarray(reference, dtype=np.float64)
    if losses.ndim != 2 or upper.shape != losses.shape[1:]:
        raise ValueError(f"losses (n, k) need a reference (k,); got {losses.shape} and {upper.shape}")
    if not np.isfinite(losses).all() or not np.isfinite(upper).all():
        raise ValueError("hypervolume is of finite losses and a finite reference; leave failed trials out")
    return _volume(losses[(losses < upper).all(axis=1)], upper)


def _volume(points: Losses, upper: Losses) -> float:
    num_objectives = len(upper)
    if not len(points):
        return 0.0
    if num_objectives == 1:
        return float(upper[0] - points.min())
    if num_objectives == 2:
        return _area(points, upper)
    if num_objectives == 3:
        return _swept(points, upper)
    points = np.unique(points, axis=0)
    points = points[pareto_mask(points)]
    # Worst in the last column first: limited to a row, all later rows lie in its slice of that column.
    points = points[np.argsort(-points[:, -1], kind="stable")]
    volume = 0.0
    for i, row in enumerate(points):
        own = float(np.prod(upper[:-1] - row[:-1]))
        shared = _volume(np.maximum(points[i + 1 :, :-1], row[:-1]), upper[:-1])
        volume += float(upper[-1] - row[-1]) * (own - shared)
    return volume


def _area(points: Losses, upper: Losses) -> float:
    order = np.lexsort((points[:, 1], points[:, 0]))
    x, y = points[order, 0], np.minimum.accumulate(points[order, 1])
    widths = np.append(x[1:], upper[0]) - x
    return float((widths * (upper[1] - y)).sum())


def _swept(points: Losses, upper: Losses) -> float:
    """Sweeps the third column; the area that the rows passed so far dominate grows with each."""
    stairs = _Staircase(float(upper[0]), float(upper[1]))
    volume, last = 0.0, 0.0
    for x, y, z in points[np.argsort(points[:, 2], kind="stable")].tolist():
        volume += stairs.area * (z - last)
        last = z
        stairs.add(x, y)
    return volume + stairs.area * (float(upper[2]) - last)


class _Staircase:
    """The two-dimensional front, x rising and y falling, and the area that it dominates up to the reference."""

    def __init__(self, x: float, y: float) -> None:
        self._xs = [-_INF, x]
        self._ys = [y, -_INF]
        self.area = 0.0

    def add(self, x: float, y: float) -> None:
        place = bisect_left(self._xs, x)
        if (self._xs[place] == x and self._ys[place] <= y) or self._ys[place - 1] <= y:
            return
        left, height = x, self._ys[place - 1]
        end = place
        # Steps that the new point dominates are replaced; what they left uncovered is what it adds.
        while self._ys[end] >= y:
            self.area += (self._xs[end] - left) * (height - y)
            left, height = self._xs[end], self._ys[end]
            end += 1
        self.area += (self._xs[end] - left) * (height - y)
        self._xs[place:end] = [x]
        self._ys[place:end] = [y]


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
        if np.isnan(added).any():
            raise ValueError("losses must not hold NaN; leave failed and infeasible trials out")
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
