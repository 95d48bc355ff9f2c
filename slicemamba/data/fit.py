"""How an image comes to the network's size: stretched, at its own aspect with its edge continued around it, or not.

Sizes are (height, width). The pixels around an image are ``IGNORED`` in its mask, so that they count in no loss and no
score. They continue its edge, as a black frame would change the lowest value by which intensities are scaled.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import Fit

Value = TypeVar("Value", bound=np.generic)


class Box(NamedTuple):
    """Where an image lies in the network's: its upper left corner, and its size there."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def inside(self) -> tuple[Any, ...]:
        """Index of the image's own pixels in arrays and tensors (…, H, W)."""
        return ..., slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def box_in(image: tuple[int, int], size: tuple[int, int], fit: Fit) -> Box:
    """The place of an image of size ``image`` in one of ``size``: all of it, or as large as its aspect allows, centred.

    Args:
        fit: as in DataConfig.
    """
    if fit == "stretch":
        return Box(0, 0, *size)
    scale = min(size[0] / image[0], size[1] / image[1])
    height, width = (max(1, min(whole, round(side * scale))) for side, whole in zip(image, size, strict=True))
    return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)


def pad(array: NDArray[Value], size: tuple[int, int], box: Box, value: int | None = None) -> NDArray[Value]:
    """An array (h, w) or (h, w, C) of the box's size at ``size``, with ``value`` around it, or with its edge."""
    if array.shape[:2] == size:
        return array
    rows, columns = (box.top, size[0] - box.top - box.height), (box.left, size[1] - box.left - box.width)
    widths = [rows, columns, *[(0, 0)] * (array.ndim - 2)]
    if value is None:
        return np.pad(array, widths, mode="edge")
    return np.pad(array, widths, constant_values=value)


def count_windows(size: tuple[int, int], window: tuple[int, int]) -> int:
    """Windows that an image has room for, begun ones included: as many are drawn from it in an epoch."""
    return math.prod(math.ceil(side / part) for side, part in zip(size, window, strict=True))


def enlarge(array: NDArray[Value], size: tuple[int, int], value: int | None = None) -> NDArray[Value]:
    """An array (h, w) or (h, w, C) of ``size`` at least, with ``value``, or its edge continued, below and to the right:
    where images are not resized, none may be smaller than a window.
    """
    height, width = array.shape[:2]
    whole = (max(height, size[0]), max(width, size[1]))
    return pad(array, whole, Box(0, 0, height, width), value)
