"""A configuration proposed from what a data set holds, with a reason for each option."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from slicemamba.config import DataConfig
from slicemamba.data.fit import count_windows
from slicemamba.data.reports import DatasetReport
from slicemamba.recipes import TRAININGS

_STEP, _SMALLEST = 16, 32
"""Sides are multiples of the one and no less than the other, which the skeleton of `laptop` needs."""
_MOST_STRETCHED = 1.5
"""Largest aspect ratio by the smallest at which all images are stretched to one; a convention."""
_AIR = -500.0
"""Hounsfield units below which there is only air: lower values tell CT."""
_LARGE = 2
"""Times by which images are larger than the network's from which patches are proposed, if lesions would be lost."""
_LOST = 16
"""Pixels below which a lesion is as good as lost: 4×4, one pixel of a map at a quarter of the resolution."""
_RARE, _THRESHOLD = 0.1, 0.3
"""Share of the train images below which a class is called rare, and that from which it is drawn as often as others;
conventions."""


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

    How long to train is another matter, as it depends on the machine.
    """
    found = [
        Proposal("data.name", config.name, "the folder's name"),
        Proposal("data.root", str(config.root), "where it lies"),
    ]
    sizing = _windows(report, longest_side) or _resized(report, longest_side)
    found += sizing
    train = _samples(report, sizing)
    low, _ = report.value_range or (0.0, 0.0)
    if low < _AIR and config.window is None:
        found.append(Proposal("data.window", [-125, 275], f"values from {low:g} are Hounsfield units; this is abdomen"))
        found.append(Proposal("data.intensity", "unit", "the window gives values of 0 to 1"))
    else:
        found.append(Proposal("data.intensity", "zscore", "small networks learn faster with it from scratch"))
    batch = min(16, 2 ** max(1, int(math.log2(max(2, train / 8)))))
    for part in TRAININGS:
        found.append(
            Proposal(f"{part}.batch_size", batch, f"{math.ceil(train / batch)} steps an epoch of {train} samples")
        )
    return found + [one for part in TRAININGS for one in _rare_classes(report, part)]


def _rare_classes(report: DatasetReport, part: str) -> list[Proposal]:
    """That images of the rarest class are drawn more often, if few show it."""
    shown = {label: share for label, share in enumerate(report.class_images) if label and share}
    if not shown or min(shown.values()) >= _RARE:
        return []
    label = min(shown, key=lambda one: shown[one])
    name = report.class_names[label] if report.class_names else f"class {label}"
    times = math.sqrt(_THRESHOLD / shown[label])
    reason = f"{name} is in {shown[label]:.1%} of the train images; they are drawn {times:.1f} times as often"
    return [Proposal(f"{part}.rare_class_threshold", _THRESHOLD, reason)]


def _resized(report: DatasetReport, longest_side: int) -> list[Proposal]:
    """Images at the size that the network can bear, padded where their aspects differ."""
    height, width = report.median_size
    size = _size_of(report, longest_side)
    found = [
        Proposal("data.image_size", size, f"the aspect of images of {height}×{width} (median), at most {longest_side}")
    ]
    if report.smallest_lesion is not None:
        pixels = report.smallest_lesion[0] * math.prod(size)
        found[-1] = replace(found[-1], reason=f"{found[-1].reason}; the smallest lesion has {pixels:.1f} pixels then")
    narrow, _, wide = report.aspect_ratios or (1.0, 1.0, 1.0)
    if wide > _MOST_STRETCHED * narrow:
        reason = f"width / height runs from {narrow:.2f} to {wide:.2f}; stretched, a shape would look another in each"
        found.append(Proposal("data.fit", "pad", reason))
    return found


def _size_of(report: DatasetReport, longest_side: int) -> list[int]:
    scale = min(1.0, longest_side / max(report.median_size))
    return [max(_SMALLEST, round(side * scale / _STEP) * _STEP) for side in report.median_size]


def _windows(report: DatasetReport, longest_side: int) -> list[Proposal]:
    """Windows of images at their own size, where the small lesions of half of the images would be lost; else none."""
    height, width = report.median_size
    share = 0.0 if report.smallest_lesion is None else report.smallest_lesion[1]
    left, stored = share * math.prod(_size_of(report, longest_side)), share * height * width
    if max(height, width) < _LARGE * longest_side or not left < _LOST <= stored:
        return []
    side = max(_SMALLEST, longest_side // _STEP * _STEP)
    reason = (
        f"images of {height}×{width} (median) are large: resized to {longest_side}, the smallest lesion of an image "
        f"would have {left:.1f} pixels, of {stored:.0f} stored ones (median)"
    )
    return [
        Proposal("data.image_size", [side, side], "of a window"),
        Proposal("data.fit", "patch", reason),
    ]


def _samples(report: DatasetReport, sizing: list[Proposal]) -> int:
    """Images, or windows of them, that a training sees in an epoch."""
    told = {one.option: one.value for one in sizing}
    windows = 1 if told.get("data.fit") != "patch" else count_windows(report.median_size, told["data.image_size"])
    return report.num_images["train"] * windows


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
