"""``selective_scan_fn`` with the arguments and the meaning of mamba_ssm's, on any device and with any backend.

Shapes: u, z (B, D, L); delta (B, D, L) or fewer channels that divide D; A (D, N); G groups of channels share B and C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from slicemamba.ops.limits import refuse_unsupported
from slicemamba.ops.selective_scan import compute_dtype, selective_scan


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan as ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn`` has it; real numbers alone.

    Args:
        u: (B, D, L).
        delta: (B, D, L), step sizes before ``delta_bias`` and ``delta_softplus``; or (B, D / r, L), each for r
            neighbouring channels of u, as VMamba's kernels have it.
        A: (D, N), negative.
        B: (B, G, N, L), (B, N, L), or constant (D, N). C: as B, on its own.
        D: skip, (D,). z: gate, (B, D, L): the result is multiplied by SiLU(z).
        delta_bias: (D,), or as many as delta has channels.
        delta_softplus: apply softplus to the step sizes.
        return_last_state: return the state after the last place too. Unlike mamba_ssm's, it has a gradient.
        cu_seqlens: packed sequences, which are refused.

    Returns:
        y (B, D, L) in the dtype of u; with ``return_last_state`` also h (B, D, N), float32 (float64 for float64 input).

    Raises:
        ValueError: shapes that do not fit, complex numbers, or ``cu_seqlens``.
    """
    if cu_seqlens is not None:
        raise ValueError(
            "selective_scan_fn expects cu_seqlens=None, as packed sequences have no kernel here; pad them."
        )
    refuse_unsupported(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    _check(u, delta, A, B, C, z, delta_bias)
    dtype = compute_dtype(u)
    channels = u.shape[1]
    wide, delta = u.to(dtype), delta.to(dtype)
    delta = delta.repeat_interleave(channels // delta.shape[1], dim=1)
    bias = None if delta_bias is None else delta_bias.repeat_interleave(channels // delta_bias.shape[0])
    B, C = _of_equal_groups(_grouped(B.to(dtype), u), _grouped(C.to(dtype), u))
    if return_last_state:
        if bias is not None:
            delta = delta + bias[:, None].to(dtype)
        delta = functional.softplus(delta) if delta_softplus else delta
        y, state = _with_last_state(wide, delta, A.to(dtype), B, C)
        y = y if D is None else y + D[:, None] * wide
    else:
        y = selective_scan(wide, delta, A, B, C, D, delta_bias=bias, delta_softplus=delta_softplus)
    y = (y if z is None else y * functional.silu(z.to(dtype))).to(u.dtype)
    return (y, state) if return_last_state else y


def _grouped(projection: Tensor, u: Tensor) -> Tensor:
    """(B, G, N, L) of any form of B or C; a constant one has a group for each channel."""
    if projection.dim() == 2:
        return projection[None, :, :, None].expand(u.shape[0], -1, -1, u.shape[2])
    return projection if projection.dim() == 4 else projection[:, None]


def _of_equal_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    groups = math.lcm(B.shape[1], C.shape[1])
    return B.repeat_interleave(groups // B.shape[1], dim=1), C.repeat_interleave(groups // C.shape[1], dim=1)


def _with_last_state(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """y and the last state: N places more, where steps of 0 keep the state and C reads its numbers one by one."""
    length, states = u.shape[2], A.shape[1]
    u, delta, B = (functional.pad(tensor, (0, states)) for tensor in (u, delta, B))
    one_by_one = torch.eye(states, dtype=C.dtype, device=C.device).expand(*C.shape[:2], states, states)
    y = selective_scan(u, delta, A, B, torch.cat([C, one_by_one], dim=-1))
    return y[..., :length], y[..., length:]


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None, delta_bias: Tensor | None
) -> None:
    """What ``selective_scan`` would not find, or would say of shapes that the caller has never seen."""
    if u.dim() != 3 or delta.dim() != 3 or u.shape[1] % max(delta.shape[1], 1) or A.dim() != 2:
        raise ValueError(
            "selective_scan_fn expects u (B, D, L), delta (B, D, L) or with channels that divide D, and A (D, N), got "
            f"{tuple(u.shape)}, {tuple(delta.shape)} and {tuple(A.shape)}; pass that layout."
        )
    batch, channels, length = u.shape
    states = A.shape[1]
    for name, tensor in (("B", B), ("C", C)):
        groups = tensor.shape[1] if tensor.dim() == 4 else 1
        forms = [(channels, states), (batch, states, length), (batch, groups, states, length)]
        if tuple(tensor.shape) not in forms or channels % groups:
            raise ValueError(
                f"{name} expects (D, N), (B, N, L) or (B, G, N, L) with G that divides D, where D = {channels}, "
                f"N = {states}, B = {batch} and L = {length}; got {tuple(tensor.shape)}."
            )
    if z is not None and z.shape != u.shape:
        raise ValueError(f"z expects the shape of u, {tuple(u.shape)}; got {tuple(z.shape)}.")
    if delta_bias is not None and delta_bias.shape not in ((channels,), (delta.shape[1],)):
        raise ValueError(f"delta_bias expects a number for each channel of delta; got {tuple(delta_bias.shape)}.")
