"""The slice scan in operators that every torch and ONNX Runtime has, for programs that leave this package.

One ``scan`` over the sequence, all directions and channels abreast: a loop in the program, not a copy of its body for
every place. The slice orders are made by padding, viewing and permuting the map, so the program holds no index tables.
A padded place has the step size 0, for which exp(0·A) = 1 and 0·B·x = 0: the state passes it unchanged.

Shapes: x, y (B, H, W, Dm); sequences (L, 4, B, F), L the places of the padded map; state (4, B, Dm, N).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slicemamba.ops.inputs import SliceInputs

Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor]]


def unrolled(step: Step, state: Tensor, sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What torch's ``scan`` gives: the last state, and (L, …) of what ``step`` gave beside each state."""
    given = []
    for now in zip(*(sequence.unbind() for sequence in sequences), strict=True):
        state, y = step(state, now)
        given.append(y)
    return state, torch.stack(given)


scan: Callable[..., tuple[Tensor, Tensor]]
try:
    from torch._higher_order_ops.scan import scan
except ImportError:  # torch does not promise it
    warnings.warn(
        f"torch {torch.__version__} is not one this version was tested with (its scan operator is elsewhere): exported "
        "programs repeat the scan's body for every place and are large; install a torch of the range in pyproject.toml",
        RuntimeWarning,
        stacklevel=2,
    )
    scan = unrolled


def slice_scan_operator(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The forward pass of the operator ``slicemamba::slice_scan``, with its arguments and results.

    Raises:
        ValueError: ``save``, as there is no backward pass.
    """
    *tensors, rows, columns, save = arguments
    if save:
        raise ValueError("the portable scan expects save=False, as it has no backward pass; trace it without gradients")
    y = slice_scan(SliceInputs(*tensors), (rows, columns))
    return y, y.new_zeros(0)


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int]) -> Tensor:
    """Forward of the slice scan, (B, H, W, Dm) to the same."""
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    rows, columns = slice_size
    batch, height, width, channels = x.shape
    rank, states = inputs.rank, inputs.states
    flat = x.reshape(batch * height * width, channels)
    projected = (flat @ x_proj_weight.flatten(0, 1).mT).view(-1, 4, rank + 2 * states).transpose(0, 1)
    dt, B_and_C = projected[..., :rank], projected[..., rank:]
    delta = functional.softplus(torch.bmm(dt, dt_proj_weight.mT) + dt_proj_bias[:, None])
    per_place = torch.cat([delta, delta * flat, B_and_C], dim=-1).view(4, batch, height, width, -1)
    sequences = torch.split(_unfold(per_place, rows, columns), [channels, channels, states, states], dim=-1)
    A = -torch.exp(A_log).view(4, 1, channels, states)

    def step(h: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        delta_t, input_t, B_t, C_t = now
        h = torch.exp(delta_t[..., None] * A) * h + input_t[..., None] * B_t[..., None, :]
        return h, (h * C_t[..., None, :]).sum(-1)

    _, y = scan(step, x.new_zeros(4, batch, channels, states), sequences)
    return _fold(y, height, width, rows, columns) + x * D.view(4, channels).sum(0)


def _unfold(per_place: Tensor, rows: int, columns: int) -> Tensor:
    """(4, B, H, W, F) → (L, 4, B, F): each direction in its order, the map padded by zeros to whole slices."""
    _, batch, height, width, features = per_place.shape
    bottom, right = -height % rows, -width % columns
    padded = functional.pad(per_place, (0, 0, 0, right, 0, bottom))
    high, wide = height + bottom, width + right
    horizontal = padded[:2].view(2, batch, high // rows, rows, wide, features).permute(2, 4, 3, 0, 1, 5)
    vertical = padded[2:].view(2, batch, high, wide // columns, columns, features).permute(3, 2, 4, 0, 1, 5)
    h, v = (axis.reshape(high * wide, 2, batch, features) for axis in (horizontal, vertical))
    return torch.cat([h[:, :1], h[:, 1:].flip(0), v[:, :1], v[:, 1:].flip(0)], dim=1)


def _fold(y: Tensor, height: int, width: int, rows: int, columns: int) -> Tensor:
    """(L, 4, B, Dm) → (B, H, W, Dm): the orders undone, the padding cut off, the directions summed."""
    _, _, batch, channels = y.shape
    high, wide = height + -height % rows, width + -width % columns
    horizontal = (y[:, 0] + y[:, 1].flip(0)).view(high // rows, wide, rows, batch, channels).permute(3, 0, 2, 1, 4)
    vertical = (y[:, 2] + y[:, 3].flip(0)).view(wide // columns, high, columns, batch, channels).permute(3, 1, 0, 2, 4)
    total = horizontal.reshape(batch, high, wide, channels) + vertical.reshape(batch, high, wide, channels)
    return total[:, :height, :width]
