"""Eight small organs on a slice, drawn from a seed: nine classes and little foreground, as abdominal CT has them."""

from __future__ import annotations

import numpy as np

from slicemamba.data.base import Pixels, SegmentationData

NAME = "organs"
_SIZES = {"train": 48, "val": 12, "search": 12, "test": 48}
_SIDE = 64
_SHOWN = 0.7
"""Share of the slices on which an organ is seen."""


def draw(split: str) -> SegmentationData:
    """Slices 64×64 with ellipses on a ring, each organ near a place of its own, every second one darker.

    4 % of the pixels are foreground, and neighbouring organs touch now and then, so that place and brightness both
    count.
    """
    rng = np.random.default_rng([*map(ord, split)])
    slices = [_slice(rng) for _ in range(_SIZES[split])]
    images = np.stack([np.repeat(image[..., None], 3, axis=-1) for image, _ in slices])
    names = tuple(f"{split}_{number:02d}" for number in range(len(slices)))
    return SegmentationData(images, np.stack([mask for _, mask in slices]), names, split, 9, "zscore")


def _slice(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Image and mask, (H, W) uint8 each."""
    y, x = np.mgrid[:_SIDE, :_SIDE] - _SIDE / 2
    image, mask = rng.normal(90, 12, (_SIDE, _SIDE)), np.zeros((_SIDE, _SIDE), np.uint8)
    for organ in range(1, 9):
        if rng.random() > _SHOWN:
            continue
        angle, distance = 2 * np.pi * organ / 8 + rng.normal(0, 0.12), 0.3 * _SIDE + rng.normal(0, 2)
        height, width = rng.uniform(2, 4.5, 2)
        inside = ((y - distance * np.sin(angle)) / height) ** 2 + ((x - distance * np.cos(angle)) / width) ** 2 <= 1
        mask[inside] = organ
        image[inside] += 40 if organ % 2 else -40
    return np.clip(image, 0, 255).astype(np.uint8), mask
