"""What the training tests share: a plain ``fit`` that keeps reports and states."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.training.trainer import EpochReport, State, fit


def blobs(num_images: int, size: tuple[int, int] = (32, 32)) -> SegmentationData:
    """Bright squares on a dark ground: learnt in a few steps. Each image differs from all others."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 60, (num_images, *size, 3), dtype=np.uint8)
    masks = np.zeros((num_images, *size), dtype=np.uint8)
    for i, (y, x) in enumerate(rng.integers(0, 16, (num_images, 2))):
        masks[i, y : y + 14, x : x + 14] = 1
        images[i][masks[i] > 0] += 150
    return SegmentationData(images, masks, tuple(f"blob_{i}" for i in range(num_images)), "train", num_classes=1)


class Recorder:
    """Receives a training's epochs; keeps a copy of each state."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.states: list[State] = []

    def __call__(self, report: EpochReport, state: Callable[[], State]) -> None:
        self.reports.append(report)
        self.states.append(copy.deepcopy(state()))


def train(
    network: nn.Module,
    data: SegmentationData,
    config: TrainConfig,
    *,
    draw: Callable[[int], Architecture] | None = None,
    state: State | None = None,
    validate: Callable[[], dict[str, float]] = dict,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Recorder:
    recorder = Recorder()
    fit(network, data, config, validate=validate, on_epoch=recorder, draw=draw, state=state, on_step=on_step)
    return recorder


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Paths at which two nested states differ in any bit."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.dtype == other.dtype and bool((one == other).all())
        return [] if same else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {one.keys() ^ other.keys()}"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{path}/{i}")]
    return [] if one == other else [path]
