"""What a slicing is judged by. Values are measured in ``nas.evaluator``; here are names, directions and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

ObjectiveName = Literal["dice", "miou", "hd95", "sensitivity", "specificity", "latency_ms", "params", "flops"]


@dataclass(frozen=True)
class Objective:
    """An objective with its direction and the unit its values are given in."""

    name: ObjectiveName
    direction: Literal["maximize", "minimize"]
    unit: str
    title: str


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("dice", "maximize", "0…1", "Dice"),
        Objective("miou", "maximize", "0…1", "mIoU"),
        Objective("hd95", "minimize", "pixels", "HD95"),
        Objective("sensitivity", "maximize", "0…1", "Sensitivity"),
        Objective("specificity", "maximize", "0…1", "Specificity"),
        Objective("latency_ms", "minimize", "ms", "Latency"),
        Objective("params", "minimize", "count", "Parameters"),
        Objective("flops", "minimize", "count", "FLOPs"),
    )
}
assert set(OBJECTIVES) == set(get_args(ObjectiveName))


def losses(metrics: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """The objectives' values with maximised ones negated, so that smaller is better in each."""
    return tuple(-metrics[name] if OBJECTIVES[name].direction == "maximize" else metrics[name] for name in names)


def loss_matrix(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """``losses`` of many, as an array (trials, objectives)."""
    return np.array([losses(row, names) for row in rows], dtype=np.float64).reshape(len(rows), len(names))
