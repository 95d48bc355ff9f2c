"""Windows of the network's size over larger images: where they lie, how their outputs are joined, random ones to train
on.

A place is a window's upper left corner, (row, column). Sizes are (height, width); no image is smaller than a window
(``fit.enlarge``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicemamba.data.reading import IGNORED

Place = tuple[int, int]
Size = tuple[int, int]

OVERLAP = 0.25
"""Share of a window that its neighbour covers again."""
FORCED = 1 / 3
"""Share of the windows of a batch that are sure to show something marked, as in nnU-Net."""
_SIGMA = 1 / 8
_LEAST_WEIGHT = 1e-3


def places(size: Size, window: Size, overlap: float = OVERLAP) -> list[Place]:
    """Windows that cover an image of ``size``, evenly spread and overlapping by ``overlap`` at least, row by row."""
    rows, columns = (_starts(side, part, overlap) for side, part in zip(size, window, strict=True))
    return [(row, column) for row in rows for column in columns]


def _starts(side: int, part: int, overlap: float) -> list[int]:
    steps = math.ceil((side - part) / max(1, int(part * (1 - overlap))))
    return [round(i * (side - part) / steps) for i in range(steps + 1)] if steps else [0]


def cut(image: Tensor, found: Sequence[Place], window: Size) -> Tensor:
    """Windows (T, C, *window) of an image (C, h, w)."""
    return torch.stack([image[:, top : top + window[0], left : left + window[1]] for top, left in found])


def join(outputs: Iterable[Tensor], found: Sequence[Place], size: Size) -> Tensor:
    """Outputs (K, *window) of windows → (K, *size): their mean, weighted by a Gaussian about each window's centre."""
    total, weight = None, None
    for output, (top, left) in zip(outputs, found, strict=True):
        if len(found) == 1:
            return output
        if total is None or weight is None:
            total, weight = output.new_zeros((len(output), *size)), output.new_zeros(size)
        own = _weights(output.shape[1], output.shape[2]).to(output)
        inside = (slice(top, top + output.shape[1]), slice(left, left + output.shape[2]))
        total[(slice(None), *inside)] += output * own
        weight[inside] += own
    assert total is not None
    assert weight is not None
    return total / weight


@cache
def _weights(height: int, width: int) -> Tensor:
    """(height, width): a window's border, where the network sees only half of what surrounds a pixel, counts little."""
    sides = [
        torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (_SIGMA * side)) ** 2) for side in (height, width)
    ]
    return (sides[0][:, None] * sides[1]).clamp(min=_LEAST_WEIGHT)


def slide(
    forward: Callable[[Tensor], Tensor], image: Tensor, window: Size, batch_size: int, overlap: float = OVERLAP
) -> Tensor:
    """What ``forward``, (T, C, *window) → (T, K, *window), gives for an image (C, h, w) as a whole: (K, h, w)."""
    size = (image.shape[1], image.shape[2])
    found = places(size, window, overlap)
    parts = (found[start : start + batch_size] for start in range(0, len(found), batch_size))
    return join((output for part in parts for output in forward(cut(image, part, window))), found, size)


def random_place(mask: NDArray[np.uint8], window: Size, rng: np.random.Generator, *, marked: bool) -> Place:
    """A random window of an image with this mask (h, w).

    Args:
        marked: about a random pixel of a random class that the mask holds, if it holds any.
    """
    room = [side - part for side, part in zip(mask.shape, window, strict=True)]
    counts = np.bincount(mask.ravel(), minlength=256) if marked else np.zeros(256)
    classes = [label for label in np.flatnonzero(counts) if label not in (0, IGNORED)]
    if not classes:
        return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
    pixels = np.flatnonzero(mask == rng.choice(classes))
    centre = np.unravel_index(rng.choice(pixels), mask.shape)
    top, left = (int(np.clip(at - part // 2, 0, most)) for at, part, most in zip(centre, window, room, strict=True))
    return top, left
