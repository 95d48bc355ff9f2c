"""The sequential truth: one plain loop over the sequence, in any floating dtype. Slow; every other backend is held to it.

Shapes: u, delta (B, K·Dm, L); A (K·Dm, N); B, C (B, K, N, L); x, y (B, H, W, Dm).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slicemamba.ops.slicing import AXES, slice_order, slice_order_inverse


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Selective scan (S6; Gu and Dao, arXiv 2312.00752, algorithm 2) of u (B, K·Dm, L), state by state."""
    batch, channels, length = u.shape
    groups = B.shape[1] if B.dim() == 4 else 1
    B = B.reshape(batch, groups, -1, length).repeat_interleave(channels // groups, dim=1)  # (B, K·Dm, N, L)
    C = C.reshape(batch, groups, -1, length).repeat_interleave(channels // groups, dim=1)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    h = u.new_zeros(batch, channels, A.shape[1])
    outputs = []
    for t in range(length):
        decay = torch.exp(delta[:, :, t, None] * A)
        h = decay * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        outputs.append((h * C[..., t]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    return y if D is None else y + D[:, None] * u


def slice_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    slice_size: tuple[int, int],
) -> Tensor:
    """The four directions scanned one after the other and summed: x (B, H, W, Dm) to y (B, H, W, Dm)."""
    batch, height, width, channels = x.shape
    states = A_log.shape[1]
    flat = x.reshape(batch, height * width, channels)
    total = torch.zeros_like(flat)
    for k in range(4):
        axis, reverse = AXES[k // 2], k % 2 == 1
        order = slice_order(height, width, slice_size, axis)
        inverse = slice_order_inverse(height, width, slice_size, axis)
        sequence = flat[:, order].flip(1) if reverse else flat[:, order]
        projected = sequence @ x_proj_weight[k].T
        dt, B, C = projected.split([dt_proj_weight.shape[2], states, states], dim=-1)
        rows = slice(k * channels, (k + 1) * channels)
        y = selective_scan(
            sequence.mT,
            (dt @ dt_proj_weight[k].T).mT,
            -torch.exp(A_log[rows]),
            B.mT,
            C.mT,
            D[rows],
            delta_bias=dt_proj_bias[k],
            delta_softplus=True,
        ).mT
        total = total + (y.flip(1) if reverse else y)[:, inverse]
    return total.reshape(x.shape)
