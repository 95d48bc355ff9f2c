"""The order in which sliced scanning visits a map, in closed form, for any height and width.

Shapes: L = H·W; an order is (L,): the row-major position in the map of the t-th place in the sequence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Axis = Literal["horizontal", "vertical"]
AXES: tuple[Axis, Axis] = ("horizontal", "vertical")


def slice_order(height: int, width: int, slice_size: tuple[int, int], axis: Axis) -> Tensor:
    """Position in the row-major map of each place in the sequence, (L,) int64.

    Horizontal slices are ``slice_size[0]`` rows high and are read column by column; vertical slices are
    ``slice_size[1]`` columns wide and are read row by row (SliceMamba, arXiv 2407.08481, section III-B). Where the map
    does not divide by the slice, the last slice is smaller; no place is padded and none is dropped.

    Raises:
        ValueError: a size below 1, or an axis other than "horizontal" and "vertical".
    """
    rows, columns = slice_size
    if min(height, width, rows, columns) < 1:
        raise ValueError(
            f"slice_order expects sizes of at least 1, got a map of {height}×{width} and slices of {rows}×{columns}; "
            "pass a non-empty map and positive slice sizes."
        )
    if axis == "horizontal":
        across, along = _places(height, width, rows)
        return across * width + along
    if axis == "vertical":
        across, along = _places(width, height, columns)
        return along * width + across
    raise ValueError(f'slice_order expects axis "horizontal" or "vertical", got {axis!r}; pass one of the two.')


def _places(size: int, length: int, thickness: int) -> tuple[Tensor, Tensor]:
    """Coordinates (across the slices, along them) of every place, for slices of ``thickness`` cut from ``size``."""
    t = torch.arange(size * length)
    first = t // (thickness * length) * thickness
    actual = (size - first).clamp(max=thickness)  # the last slice may be thinner
    rest = t - first * length
    return first + rest % actual, rest // actual


@lru_cache(maxsize=256)
def scan_orders(height: int, width: int, slice_size: tuple[int, int]) -> Tensor:
    """The orders of the four directions, (4, L) int64: horizontal, the same reversed, vertical, the same reversed.

    Cached, so not to be written to.
    """
    with torch.inference_mode(False):  # else training could not use what an evaluation has put into the cache
        horizontal, vertical = (slice_order(height, width, slice_size, axis) for axis in AXES)
        return torch.stack([horizontal, horizontal.flip(0), vertical, vertical.flip(0)])
