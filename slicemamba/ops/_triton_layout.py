"""What the Triton kernels are given: sizes, the numbers behind the row index, and padded weights.

Shapes: L = H·W; Rp, Np are R and N padded to powers of two, Jp = Rp + 2·Np.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 32  # steps between two saved states
TILE = 32  # channels of a program, which is one warp
_LEAST_SEGMENT = 4 * CHUNK  # places; what a segment carries must be little beside its own work
LOG2_E = 1.4426950408889634
_UNIT = 1 << 40  # of fixed-point reciprocals, as in the kernels


class Segments(NamedTuple):
    """How sequences are cut, so that there are enough programs for the GPU: ``num`` of ``size`` places each."""

    num: int
    size: int


def cut(length: int, wanted: int) -> Segments:
    """About ``wanted`` segments, of whole chunks each but for the last; none shorter than ``_LEAST_SEGMENT``."""
    size = max(_LEAST_SEGMENT, -(-length // (wanted * CHUNK)) * CHUNK)
    return Segments(-(-length // size), size)


class Sizes(NamedTuple):
    """Sizes of one slice scan, and the shapes of its buffers."""

    batch: int
    length: int
    channels: int
    states: int
    rank: int

    @property
    def padded_states(self) -> int:
        return _power_of_two(self.states)

    @property
    def padded_rank(self) -> int:
        return _power_of_two(self.rank)

    @property
    def width(self) -> int:
        return self.padded_rank + 2 * self.padded_states

    @property
    def tiles(self) -> int:
        return -(-self.channels // TILE)

    @property
    def programs(self) -> int:
        return self.batch * 4 * self.tiles

    @property
    def projected_count(self) -> int:
        """Floats of the projections (B, L, 4, Jp)."""
        return self.batch * self.length * 4 * self.width

    @property
    def checkpoint_count(self) -> int:
        """Floats of the states before every chunk, (B, 4, ⌈L/CHUNK⌉, Np, channels padded)."""
        return self.programs * TILE * self.padded_states * -(-self.length // CHUNK)


def sizes_of(x: Tensor, dt_proj_weight: Tensor, A_log: Tensor) -> Sizes:
    """Sizes of the scan of x (B, H, W, Dm) with these parameters."""
    batch, height, width, channels = x.shape
    return Sizes(batch, height * width, channels, A_log.shape[1], dt_proj_weight.shape[2])


def _power_of_two(value: int) -> int:
    return max(4, 1 << (value - 1).bit_length())  # from 4 on, so that rows of four floats stay 16-byte aligned


@lru_cache(maxsize=256)
def geometry(height: int, width: int, slice_size: tuple[int, int], device: torch.device) -> Tensor:
    """What the kernels' row index needs, (2, 9) int64, for horizontal and vertical slices. Cached: not to be written.

    Size along the slices, thickness, thickness of the last slice, places before that slice, strides across and along
    the slices; reciprocals (2^40 over, rounded up) of a slice's places, of the thickness and of the last one.
    """
    rows = []
    axes = ((height, width, slice_size[0], width, 1), (width, height, slice_size[1], 1, width))
    for size, along, wanted, across_stride, along_stride in axes:
        thickness = min(wanted, size)
        last = size % thickness or thickness
        reciprocals = [-(-_UNIT // divisor) for divisor in (thickness * along, thickness, last)]
        rows.append([along, thickness, last, (size - last) * along, across_stride, along_stride, *reciprocals])
    return torch.tensor(rows, device=device)


class Weights(NamedTuple):
    """Parameters as the kernels read them; zeros where states and ranks are padded."""

    x_proj: Tensor  # (4·Jp, Dm)
    dt_proj: Tensor  # (4, Rp, Dm)
    a: Tensor  # (4, Np, Dm), A·log2(e)


def padded_weights(x_proj_weight: Tensor, dt_proj_weight: Tensor, A_log: Tensor, sizes: Sizes) -> Weights:
    """The parameters of ``slice_scan``, laid out for the kernels."""
    rank, states = sizes.rank, sizes.states
    dt, B, C = torch.split(x_proj_weight, [rank, states, states], dim=1)
    rows = [_pad_rows(dt, sizes.padded_rank), _pad_rows(B, sizes.padded_states), _pad_rows(C, sizes.padded_states)]
    a = (-LOG2_E * torch.exp(A_log)).view(4, sizes.channels, states).mT
    return Weights(
        torch.cat(rows, dim=1).flatten(0, 1),
        _pad_rows(dt_proj_weight.mT, sizes.padded_rank).contiguous(),
        _pad_rows(a, sizes.padded_states).contiguous(),
    )


def _pad_rows(tensor: Tensor, rows: int) -> Tensor:
    """(4, n, Dm) → (4, rows, Dm), with zeros."""
    return functional.pad(tensor, (0, 0, 0, rows - tensor.shape[1]))
