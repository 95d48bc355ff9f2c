"""LayerNorm(y) · SiLU(z) by Triton: launches the kernels of ``_triton_gating``. No atomics: runs repeat bit for bit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

MOST_CHANNELS = 1 << 14
_TILE = 4096  # values that a program holds of each map
_PROGRAMS = 512  # of the backward pass; each sums gradients of weight and bias of its own


def as_rows(tensor: Tensor) -> Tensor:
    """(…, D) → (rows, D), a view wherever the channels lie next to each other and the rows at equal distances."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


@lru_cache(maxsize=1)
def _kernels() -> Any:
    from slicemamba.ops import _triton_gating  # here, for triton is optional and slow to import

    return _triton_gating


def tile(channels: int) -> tuple[int, int]:
    """Rows and padded channels of the tile that a program on the GPU holds."""
    padded = 1 << (channels - 1).bit_length()
    return max(1, _TILE // padded), padded


def forward(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The gated norm of y, z (…, D) with float32 weight and bias (D,), in the dtype of y."""
    y_rows, z_rows = y.contiguous().view(-1, y.shape[-1]), as_rows(z)
    out = torch.empty_like(y_rows)
    num_rows, padded = tile(y.shape[-1])
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]
        _kernels().forward_kernel[(-(-len(y_rows) // num_rows),)](
            y_rows, z_rows, weight.contiguous(), bias.contiguous(), out, len(y_rows), z_rows.stride(0), eps,
            DM=y.shape[-1], ROWS=num_rows, COLUMNS=padded,
        )  # fmt: skip
    return out.view(y.shape)


def backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for y, z, weight and bias; grad is that of the result."""
    y_rows, z_rows, grad_rows = y.contiguous().view(-1, y.shape[-1]), as_rows(z), grad.contiguous()
    grad_y, grad_z = torch.empty_like(y_rows), torch.empty(z.shape, dtype=z.dtype, device=z.device)
    num_rows, padded = tile(y.shape[-1])
    programs = min(_PROGRAMS, -(-len(y_rows) // num_rows))
    sums = torch.empty(2, programs, y.shape[-1], dtype=torch.float32, device=y.device)
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]
        _kernels().backward_kernel[(programs,)](
            grad_rows, y_rows, z_rows, weight.contiguous(), bias.contiguous(),
            grad_y, grad_z, sums[0], sums[1], len(y_rows), z_rows.stride(0), eps,
            DM=y.shape[-1], ROWS=num_rows, COLUMNS=padded,
        )  # fmt: skip
    return grad_y.view(y.shape), grad_z, sums[0].sum(0), sums[1].sum(0)
