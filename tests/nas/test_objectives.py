"""Directions of the objectives, and losses of which less is better in every column."""

from __future__ import annotations

import numpy as np
import pytest

from nas.objectives import OBJECTIVES, Bound, format_count, loss_matrix, losses, violation


def test_scores_are_maximised_and_costs_minimised() -> None:
    maximised = {name for name, objective in OBJECTIVES.items() if objective.direction == "maximize"}
    assert maximised == {"dice", "miou", "sensitivity", "specificity", "worst_class_dice"}
    assert set(OBJECTIVES) - maximised == {"hd95", "latency_ms", "peak_memory_mb", "params", "flops"}


def test_losses_turn_maximised_objectives_round() -> None:
    metrics = {"dice": 0.8, "hd95": 12.0, "latency_ms": 3.0}
    assert losses(metrics, ("hd95", "dice")) == (12.0, -0.8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(317_400_000, "317 M"), (79_270, "79.3 k"), (1.556e9, "1.56 G"), (999_600, "1.00 M"), (12, "12"), (0, "0")],
)
def test_counts_are_told_in_three_figures_with_a_unit(value: float, text: str) -> None:
    assert format_count(value) == text


def test_loss_matrix_has_a_row_a_trial() -> None:
    rows = [{"dice": 0.8, "hd95": 12.0}, {"dice": 0.5, "hd95": 2.0}]
    assert np.array_equal(loss_matrix(rows, ("dice", "hd95")), [[-0.8, 12.0], [-0.5, 2.0]])
    assert loss_matrix([], ("dice", "hd95")).shape == (0, 2)


def test_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="hd95"):
        losses({"dice": 0.8}, ("dice", "hd95"))


def test_violation_is_the_sum_of_what_lies_outside_as_shares_of_the_limits() -> None:
    constraints = {"latency_ms": Bound(max=4.0), "dice": Bound(min=0.5, max=0.9)}
    assert violation({"latency_ms": 4.0, "dice": 0.5}, constraints) == 0
    assert violation({"latency_ms": 5.0, "dice": 0.9}, constraints) == pytest.approx(0.25)
    assert violation({"latency_ms": 5.0, "dice": 0.4}, constraints) == pytest.approx(0.25 + 0.2)
    assert violation({"latency_ms": 1.0, "dice": 0.99}, constraints) == pytest.approx(0.1)
    assert violation({"dice": 0.0}, {}) == 0


def test_excess_over_a_limit_of_zero_is_taken_as_it_is() -> None:
    assert Bound(max=0.0).excess(0.3) == pytest.approx(0.3)


def test_limit_that_is_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="latency_ms"):
        violation({"dice": 0.8}, {"latency_ms": Bound(max=4.0)})
