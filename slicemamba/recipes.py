"""Sets of defaults for training, chosen by a job's ``recipe``; what a job sets itself goes before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

RecipeName = Literal["published", "scratch"]

TRAININGS = ("supernet", "retrain")
SCRATCH: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "min_learning_rate": 0.0,
    "t_max": None,
    "warmup_epochs": 1,
    "clip_grad_norm": 1.0,
    "ema_decay": 0.99,
    "validate_every": 5,
}
"""Many small stable steps: what the studies train all networks with (docs/studies.md)."""
_SCRATCH_MODEL: dict[str, Any] = {"drop_path_rate": 0.0, "linear_init": "width"}

FEW_STEPS = 1000
"""Optimiser steps below which a training from scratch is warned of; a convention (docs/training.md)."""


def with_recipe(values: Mapping[str, Any], trainings: tuple[str, ...]) -> dict[str, Any]:
    """The values of a job with what its recipe sets and they leave out.

    Args:
        values: of a job, not checked yet; parts that are no mappings are left as they are. trainings: its parts that
            train.
    """
    if values.get("recipe", "published") != "scratch":
        return dict(values)
    filled = {part: _fill(values.get(part, {}), SCRATCH) for part in trainings}
    return {**values, **filled, "model": _fill(values.get("model", {}), _SCRATCH_MODEL)}


def _fill(given: Any, defaults: Mapping[str, Any]) -> Any:
    return {**defaults, **given} if isinstance(given, Mapping) else given
