"""Pareto fronts against the definition, spelt out, and against Optuna."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nas.pareto import (
    ParetoFront,
    crowded_order,
    crowding_distance,
    hypervolume,
    nondominated_ranks,
    pareto_mask,
)

# Few values, so that rows and columns tie often.
matrices = st.tuples(st.integers(0, 25), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1.0, 1e300, -1e300]))
)


def by_definition(losses: NDArray[np.float64]) -> list[bool]:
    def dominates(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and any(
            a < b for a, b in zip(one, other, strict=True)
        )

    return [not any(dominates(other, row) for other in losses) for row in losses]


@given(matrices)
def test_front_is_that_of_the_definition(losses: NDArray[np.float64]) -> None:
    assert pareto_mask(losses).tolist() == by_definition(losses)


@given(matrices, st.integers(0, 25))
def test_growing_front_knows_what_it_would_refuse(losses: NDArray[np.float64], size: int) -> None:
    front = ParetoFront(losses.shape[1])
    for row in losses[:size]:
        front.add(row)
    refused = front.dominates(losses)
    for row, expected in zip(losses, refused.tolist(), strict=True):
        alone = ParetoFront(losses.shape[1])
        for member in front.losses:
            alone.add(member)
        assert alone.add(row) is not expected


@given(matrices, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(losses: NDArray[np.float64], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(losses)))
    random.shuffle(order)
    assert pareto_mask(losses[order]).tolist() == pareto_mask(losses)[order].tolist()


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_front_is_that_of_optuna(num_objectives: int) -> None:
    losses = np.random.default_rng(num_objectives).integers(0, 6, (60, num_objectives)).astype(float)
    study = optuna.create_study(directions=["minimize"] * num_objectives)
    study.add_trials([optuna.create_trial(values=row.tolist()) for row in losses])
    assert {trial.number for trial in study.best_trials} == set(np.flatnonzero(pareto_mask(losses)))


def test_equal_rows_are_all_kept() -> None:
    assert pareto_mask(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [0.0, 5.0]])).tolist() == [True, True, False, True]


def test_one_objective_keeps_the_least() -> None:
    assert pareto_mask(np.array([[3.0], [1.0], [1.0], [2.0]])).tolist() == [False, True, True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "function",
    [
        pareto_mask,
        nondominated_ranks,
        crowding_distance,
        crowded_order,
        lambda losses: hypervolume(losses, (9, 9)),
        lambda losses: hypervolume(np.zeros((1, 2)), losses[0]),
        lambda losses: ParetoFront(2).add(losses[0]),
        lambda losses: nondominated_ranks(np.zeros((1, 2)), losses[0, 1:]),
    ],
)
def test_what_is_not_finite_is_refused_everywhere(function: Callable[..., object], value: float) -> None:
    with pytest.raises(ValueError, match="must be finite, not NaN or infinite; leave failed and infeasible trials out"):
        function(np.array([[1.0, value]]))


def test_crowding_distance_equals_a_count_by_hand() -> None:
    # Spans 4 and 10; each inner row gets (next - previous) / span in each column.
    losses = np.array([[0.0, 10.0], [4.0, 0.0], [1.0, 6.0], [3.0, 1.0]])
    assert crowding_distance(losses) == pytest.approx(
        [np.inf, np.inf, (3 - 0) / 4 + (10 - 1) / 10, (4 - 1) / 4 + (6 - 0) / 10]
    )


def test_crowding_distance_of_few_or_equal_rows() -> None:
    assert crowding_distance(np.empty((0, 2))).tolist() == []
    assert crowding_distance(np.array([[1.0, 2.0]])).tolist() == [np.inf]
    assert crowding_distance(np.array([[1.0], [2.0]])).tolist() == [np.inf, np.inf]
    same = crowding_distance(np.ones((4, 2)))
    assert not np.isnan(same).any()
