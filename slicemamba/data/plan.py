"""A configuration proposed from what a data set holds, with a reason for each option."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from slicemamba.config import DataConfig
from slicemamba.data.reports import DatasetReport

_STEP, _SMALLEST = 16, 32
"""Sides are multiples of the one and no less than the other, which the skeleton of `laptop` needs."""
_MOST_STRETCHED = 1.5
"""Largest aspect ratio by the smallest at which all images are stretched to one; a convention."""
_AIR = -500.0
"""Hounsfield units below which there is only air: lower values tell CT."""
_STEPS = 3000
"""Optimiser steps of a training; a convention, not a measurement."""


@dataclass(frozen=True)
class Proposal:
    """An option with its value, and why."""

    option: str
    value: Any
    reason: str


def propose(config: DataConfig, report: DatasetReport, longest_side: int) -> list[Proposal]:
    """Options for a search on a data set.

    Args:
        config: as ``resolve_root`` gives it. report: of its checks.
        longest_side: of the network's images, in pixels, as the machine can bear it.
    """
    height, width = report.median_size
    scale = min(1.0, longest_side / max(height, width))
    size = [max(_SMALLEST, round(side * scale / _STEP) * _STEP) for side in (height, width)]
    found = [
        Proposal("data.name", config.name, "the folder's name"),
        Proposal("data.root", str(config.root), "where it lies"),
        Proposal("data.image_size", size, f"the aspect of images of {height}×{width} (median), at most {longest_side}"),
    ]
    if report.smallest_lesion is not None:
        pixels = report.smallest_lesion[0] * math.prod(size)
        found[-1] = replace(found[-1], reason=f"{found[-1].reason}; the smallest lesion has {pixels:.1f} pixels then")
    narrow, _, wide = report.aspect_ratios or (1.0, 1.0, 1.0)
    if wide > _MOST_STRETCHED * narrow:
        reason = f"width / height runs from {narrow:.2f} to {wide:.2f}; stretched, a shape would look another in each"
        found.append(Proposal("data.fit", "pad", reason))
    train = report.num_images["train"]
    low, _ = report.value_range or (0.0, 0.0)
    if low < _AIR and config.window is None:
        found.append(Proposal("data.window", [-125, 275], f"values from {low:g} are Hounsfield units; this is abdomen"))
        found.append(Proposal("data.intensity", "unit", "the window gives values of 0 to 1"))
    else:
        found.append(Proposal("data.intensity", "zscore", "small networks learn faster with it from scratch"))
    batch = min(16, 2 ** max(1, int(math.log2(max(2, train / 8)))))
    epochs = max(30, min(300, math.ceil(_STEPS / math.ceil(train / batch))))
    for part in ("supernet", "retrain"):
        found.append(
            Proposal(f"{part}.batch_size", batch, f"{math.ceil(train / batch)} steps an epoch with {train} images")
        )
        found.append(Proposal(f"{part}.epochs", epochs, f"about {_STEPS} steps, within 30 to 300 epochs"))
    return found


def as_yaml(proposals: list[Proposal]) -> str:
    """The options as YAML, each below its reason."""
    parts: dict[str, list[Proposal]] = {}
    for one in proposals:
        parts.setdefault(one.option.split(".")[0], []).append(one)
    lines = []
    for part, options in parts.items():
        lines.append(f"{part}:")
        for one in options:
            value = json.dumps(one.value, ensure_ascii=False)  # which is YAML, too
            lines += [f"  # {one.reason}", f"  {one.option.split('.')[1]}: {value}"]
    return "\n".join(lines) + "\n"
