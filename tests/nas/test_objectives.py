"""Directions of the objectives, and losses of which less is better in every column."""

from __future__ import annotations

import numpy as np
import pytest

from nas.objectives import OBJECTIVES, loss_matrix, losses


def test_scores_are_maximised_and_costs_minimised() -> None:
    maximised = {name for name, objective in OBJECTIVES.items() if objective.direction == "maximize"}
    assert maximised == {"dice", "miou", "sensitivity", "specificity", "worst_class_dice"}
    assert set(OBJECTIVES) - maximised == {"hd95", "latency_ms", "peak_memory_mb", "params", "flops"}


def test_losses_turn_maximised_objectives_round() -> None:
    metrics = {"dice": 0.8, "hd95": 12.0, "latency_ms": 3.0}
    assert losses(metrics, ("hd95", "dice")) == (12.0, -0.8)


def test_loss_matrix_has_a_row_a_trial() -> None:
    rows = [{"dice": 0.8, "hd95": 12.0}, {"dice": 0.5, "hd95": 2.0}]
    assert np.array_equal(loss_matrix(rows, ("dice", "hd95")), [[-0.8, 12.0], [-0.5, 2.0]])
    assert loss_matrix([], ("dice", "hd95")).shape == (0, 2)


def test_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="hd95"):
        losses({"dice": 0.8}, ("dice", "hd95"))
