"""Hypervolumes against the definition, a count by hand and Optuna, and fronts kept up against those made at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

from nas.pareto import ParetoFront, hypervolume, nondominated_ranks, pareto_mask

# On a grid, so that the definition can be counted and rows and columns tie often.
SIDE = 4
grids = st.tuples(st.integers(0, 12), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([float(i) for i in range(SIDE + 2)]))
)


def counted(losses: NDArray[np.float64]) -> float:
    """Cells of a unit grid below the reference (SIDE, SIDE, …) that some row dominates."""
    cells = itertools.product(range(SIDE), repeat=losses.shape[1])
    return float(sum((losses <= np.array(cell)).all(axis=1).any() for cell in cells))


@given(grids)
def test_hypervolume_is_that_of_the_definition(losses: NDArray[np.float64]) -> None:
    assert hypervolume(losses, [SIDE] * losses.shape[1]) == pytest.approx(counted(losses), abs=1e-9)


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("on_a_front", [False, True])
def test_hypervolume_is_that_of_optuna(num_objectives: int, on_a_front: bool) -> None:
    losses = np.random.default_rng(num_objectives).normal(size=(60, num_objectives))
    if on_a_front:
        losses = np.abs(losses) / np.linalg.norm(losses, axis=1, keepdims=True) * -1
    reference = losses.max(axis=0) * 0.9 + 0.05
    inside = losses[(losses < reference).all(axis=1)]
    assert hypervolume(losses, reference) == pytest.approx(compute_hypervolume(inside, reference), rel=1e-9)


def test_hypervolume_by_hand() -> None:
    two = np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [2.0, 0.0], [9.0, -9.0]])
    assert hypervolume(two, (3, 3)) == 3 + 2 + 1
    assert hypervolume(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, -1.0]]), (2, 2, 2)) == 8 + 1
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0


@pytest.mark.parametrize(
    ("losses", "reference", "said"),
    [
        ([[0.0, math.nan]], [1, 1], "leave failed and infeasible trials out"),
        ([[0.0, -math.inf]], [1, 1], "leave failed and infeasible trials out"),
        ([[0.0, 0.0]], [1, math.inf], "leave failed and infeasible trials out"),
        ([[0.0, 0.0]], [1], r"need a reference \(k,\); got \(1, 2\) and \(1,\)"),
    ],
)
def test_hypervolume_without_meaning_is_refused(losses: list[list[float]], reference: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        hypervolume(np.array(losses), reference)


@given(grids)
def test_front_kept_up_is_the_front_made_at_once(losses: NDArray[np.float64]) -> None:
    reference = [SIDE] * losses.shape[1]
    front = ParetoFront(losses.shape[1], reference)
    for count, row in enumerate(losses, 1):
        so_far = losses[:count]
        mask = pareto_mask(so_far)
        assert front.add(row) == mask[-1]
        assert front.losses.tolist() == so_far[mask].tolist()
        assert front.hypervolume == pytest.approx(hypervolume(so_far, reference), abs=1e-9)
    assert len(front) == pareto_mask(losses).sum()


def test_front_refuses_nan() -> None:
    with pytest.raises(ValueError, match="leave failed and infeasible trials out"):
        ParetoFront(2).add([0.0, math.nan])


@given(grids)
def test_ranks_peel_front_after_front(losses: NDArray[np.float64]) -> None:
    ranks = nondominated_ranks(losses)
    left = np.arange(len(losses))
    for rank in range(ranks.max(initial=-1) + 1):
        mask = pareto_mask(losses[left])
        assert set(left[mask]) == set(np.flatnonzero(ranks == rank))
        left = left[~mask]
    assert len(left) == 0


def test_rows_that_meet_the_constraints_rank_before_all_others() -> None:
    losses = np.array([[5.0, 5.0], [6.0, 4.0], [6.0, 6.0], [0.0, 0.0], [1.0, 1.0], [0.0, 9.0]])
    violations = np.array([0.0, 0.0, 0.0, 0.5, 0.2, 0.5])
    assert nondominated_ranks(losses, violations).tolist() == [0, 0, 1, 3, 2, 4]
