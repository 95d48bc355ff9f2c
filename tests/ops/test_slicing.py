"""Slice orders against the closed form of the paper, and as permutations for maps that do not divide."""

import pytest
import torch
from scan_cases import SLICE_SIZES

from slicemamba.ops import slice_order


def closed_form(height: int, width: int, slice_size: tuple[int, int], axis: str) -> list[int]:
    """Position of each place, for maps that divide by the slice."""
    m, n = slice_size
    positions = []
    for t in range(height * width):
        if axis == "horizontal":
            s, w, r = t // (m * width), t % (m * width) // m, t % m
            positions.append((s * m + r) * width + w)
        else:
            s, h, c = t // (n * height), t % (n * height) // n, t % n
            positions.append(h * width + s * n + c)
    return positions


def by_loops(height: int, width: int, slice_size: tuple[int, int], axis: str) -> list[int]:
    """The same by plain loops over slices, for any map."""
    m, n = slice_size
    if axis == "horizontal":
        return [
            row * width + column
            for top in range(0, height, m)
            for column in range(width)
            for row in range(top, min(top + m, height))
        ]
    return [
        row * width + column
        for left in range(0, width, n)
        for row in range(height)
        for column in range(left, min(left + n, width))
    ]


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
@pytest.mark.parametrize("slice_size", [(1, 1), (2, 2), (2, 4), (4, 2), (4, 4), (8, 4)])
def test_equals_the_closed_form_where_the_map_divides(slice_size, axis):
    assert slice_order(16, 8, slice_size, axis).tolist() == closed_form(16, 8, slice_size, axis)


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
@pytest.mark.parametrize("slice_size", SLICE_SIZES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (5, 7), (9, 13), (3, 16)])
def test_covers_any_map_once_with_a_smaller_last_slice(height, width, slice_size, axis):
    order = slice_order(height, width, slice_size, axis)
    assert order.dtype == torch.int64
    assert order.tolist() == by_loops(height, width, slice_size, axis)
    assert sorted(order.tolist()) == list(range(height * width))


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"0×2.*positive slice sizes"):
        slice_order(4, 4, (0, 2), "horizontal")
    with pytest.raises(ValueError, match="'diagonal'"):
        slice_order(4, 4, (2, 2), "diagonal")
