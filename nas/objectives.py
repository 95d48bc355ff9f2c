"""What a slicing is judged by. Values are measured in ``nas.evaluator``; here are names, directions and units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from slicemamba.config import Config

ObjectiveName = Literal[
    "dice",
    "miou",
    "hd95",
    "sensitivity",
    "specificity",
    "worst_class_dice",
    "latency_ms",
    "peak_memory_mb",
    "params",
    "flops",
]


@dataclass(frozen=True)
class Objective:
    """An objective with its direction and the unit its values are given in."""

    name: ObjectiveName
    direction: Literal["maximize", "minimize"]
    unit: str
    title: str

    @property
    def heading(self) -> str:
        """Title, unit where it is no share or count, and the better direction: ``HD95 (pixels) ↓``."""
        unit = "" if self.unit in ("0…1", "count") else f" ({self.unit})"
        return f"{self.title}{unit} {'↑' if self.direction == 'maximize' else '↓'}"


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("dice", "maximize", "0…1", "Dice"),
        Objective("miou", "maximize", "0…1", "mIoU"),
        Objective("hd95", "minimize", "pixels", "HD95"),
        Objective("sensitivity", "maximize", "0…1", "Sensitivity"),
        Objective("specificity", "maximize", "0…1", "Specificity"),
        Objective("worst_class_dice", "maximize", "0…1", "Dice of the worst class"),
        Objective("latency_ms", "minimize", "ms", "Latency"),
        Objective("peak_memory_mb", "minimize", "MiB", "Peak memory"),
        Objective("params", "minimize", "count", "Parameters"),
        Objective("flops", "minimize", "count", "FLOPs"),
    )
}
assert set(OBJECTIVES) == set(get_args(ObjectiveName))


def format_value(name: str, value: float | None) -> str:
    """A metric's value for people: shares with four digits, counts as 317 M, the rest with four figures in all.

    ``–`` stands for none, or one that is not finite.
    """
    if value is None or not math.isfinite(value):
        return "–"
    objective = OBJECTIVES.get(name)
    if objective is not None and objective.unit == "count":
        return format_count(value)
    return f"{value:.4f}" if objective is not None and objective.unit == "0…1" else f"{value:.4g}"


def format_count(value: float) -> str:
    """Three figures with a unit: ``317 M``, ``35.8 M``, ``1.56 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(abs(scaled)))))}f} {unit}"
    return f"{value:.3g}"


def losses(metrics: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """The objectives' values with maximised ones negated, so that smaller is better in each."""
    return tuple(-metrics[name] if OBJECTIVES[name].direction == "maximize" else metrics[name] for name in names)


def loss_matrix(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """``losses`` of many, as an array (trials, objectives)."""
    return np.array([losses(row, names) for row in rows], dtype=np.float64).reshape(len(rows), len(names))


class Bound(Config):
    """Limits of a metric: one of the two, or both.

    Attributes:
        min: lowest allowed value, in the metric's own unit.
        max: highest allowed value.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("a constraint needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) must not exceed max ({self.max})")
        return self

    def excess(self, value: float) -> float:
        """How far a value lies outside, as a share of the limit it passes (itself where that is 0)."""
        limits = [(limit, sign) for limit, sign in ((self.min, -1), (self.max, 1)) if limit is not None]
        return sum(max(0.0, sign * (value - limit)) / (abs(limit) or 1.0) for limit, sign in limits)


Constraints = Mapping[ObjectiveName, Bound]


def violation(metrics: Mapping[str, float], constraints: Constraints) -> float:
    """Sum of what the constraints are exceeded by, each as a share of its limit; 0 where all are met."""
    return sum((bound.excess(metrics[name]) for name, bound in constraints.items()), 0.0)


COUNTED = ("dice", "miou", "worst_class_dice", "sensitivity", "specificity")
"""Objectives that follow from per-image counts."""


def primary_metric(objectives: Sequence[str]) -> str:
    """The first objective that has per-image counts behind it, by which the audit compares; else Dice."""
    return next((name for name in objectives if name in COUNTED), "dice")
