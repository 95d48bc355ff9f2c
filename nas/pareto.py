"""Pareto fronts as array functions. All take losses: smaller is better in every column (see ``objectives.losses``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]


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
    # In lexicographic order no row is dominated by a later one, so each row is compared with the front so far only.
    order = np.lexsort(losses.T[::-1])
    front = np.empty((0, losses.shape[1]))
    for i in order:
        row = losses[i]
        no_worse = (front <= row).all(axis=1)
        mask[i] = not (no_worse & (front < row).any(axis=1)).any()
        if mask[i]:
            front = np.vstack([front, row])
    return mask


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


def hypervolume(points: Losses, reference: Losses) -> float:
    """tmp"""
    from optuna._hypervolume import compute_hypervolume

    return float(compute_hypervolume(points, reference))
