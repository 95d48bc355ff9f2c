"""The torch backend: the scan in plain torch on any device, in chunks, with its gradients written out.

Shapes: u, delta, y (B, K, L, Dm); A (K, Dm, N); B, C (B, K, L, N); states (B, K, Dm, N).

Inside a segment the sequence is cut in chunks that all advance together, one step at a time, each from a zero state and
with the running product of its decays; a short second loop then carries the true state from chunk to chunk. Products of
decays lie in [0, 1] and nothing is divided by them, so long sequences and large steps cannot overflow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slicemamba.ops.inputs import SequenceInputs, SliceInputs
from slicemamba.ops.slicing import scan_orders

_CHUNK = 16
_SEGMENT_ELEMENTS = 1 << 22  # bounds the (B, K, segment, Dm, N) temporaries


class ScanGradients(NamedTuple):
    """Gradients of :func:`scan`, each in the shape of its input."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """y_t = C_t · h_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t; no gradient is recorded."""
    y = torch.empty_like(u)
    state = _zero_state(u, A)
    for part in _segments(u, A):
        _, states = _segment_states(u[:, :, part], delta[:, :, part], A, B[:, :, part], state)
        y[:, :, part] = (states * C[:, :, part, None]).sum(-1)
        state = states[:, :, -1]
    return y


def scan_backward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, grad_y: Tensor) -> ScanGradients:
    """Gradients of :func:`scan`: states are computed anew a segment at a time, then the adjoint runs right to left."""
    grads = ScanGradients(*(torch.zeros_like(tensor) for tensor in (u, delta, A, B, C)))
    parts = _segments(u, A)
    starts = [_zero_state(u, A)]
    for part in parts[:-1]:
        _, states = _segment_states(u[:, :, part], delta[:, :, part], A, B[:, :, part], starts[-1])
        starts.append(states[:, :, -1].clone())
    adjoint = _zero_state(u, A)  # exp(delta_{t+1} A) dh_{t+1}, carried from the segment to the right
    for part, start in zip(reversed(parts), reversed(starts), strict=True):
        adjoint = _segment_backward(
            u[:, :, part],
            delta[:, :, part],
            A,
            B[:, :, part],
            C[:, :, part],
            grad_y[:, :, part],
            start,
            adjoint,
            ScanGradients(*(g if g is grads.A else g[:, :, part] for g in grads)),
        )
    return grads


def channel_scan(inputs: SequenceInputs, softplus: bool) -> Tensor:
    """Forward of ``selective_scan``."""
    u, delta, A, B, C, D, bias = inputs
    rows, step = _by_place((u, _step_sizes(delta, bias, softplus)), B.shape[1])
    y = scan(rows, step, _of_groups(A, B), B.mT, C.mT).mT.reshape(u.shape)
    return (y + D[:, None] * u if D.numel() else y).contiguous()


def channel_scan_backward(grad_y: Tensor, inputs: SequenceInputs, softplus: bool) -> SequenceInputs:
    """Gradients of :func:`channel_scan`."""
    u, delta, A, B, C, D, bias = inputs
    rows, step, grad_rows = _by_place((u, _step_sizes(delta, bias, softplus), grad_y), B.shape[1])
    g = scan_backward(rows, step, _of_groups(A, B), B.mT, C.mT, grad_rows)
    grad_u, grad_delta = (tensor.mT.reshape(u.shape) for tensor in (g.u, g.delta))
    if softplus:  # its derivative, 1 - exp(-softplus)
        grad_delta = grad_delta * -torch.expm1(-step.mT.reshape(u.shape))
    grad_D = (grad_y * u).sum((0, 2))[: D.numel()].clone()
    return SequenceInputs(
        u=(grad_u + D[:, None] * grad_y if D.numel() else grad_u).contiguous(),
        delta=grad_delta.contiguous(),
        A=g.A.flatten(0, 1),
        B=g.B.mT.contiguous(),
        C=g.C.mT.contiguous(),
        D=grad_D,
        bias=grad_delta.sum((0, 2))[: bias.numel()].clone(),
    )


def _step_sizes(delta: Tensor, bias: Tensor, softplus: bool) -> Tensor:
    step = delta + bias[:, None] if bias.numel() else delta
    return functional.softplus(step) if softplus else step


def _by_place(tensors: tuple[Tensor, ...], groups: int) -> list[Tensor]:
    """(B, K·Dm, L) → (B, K, L, Dm)."""
    return [tensor.reshape(tensor.shape[0], groups, -1, tensor.shape[2]).mT for tensor in tensors]


def _of_groups(A: Tensor, B: Tensor) -> Tensor:
    """(K·Dm, N) → (K, Dm, N), K as B has it."""
    return A.reshape(B.shape[1], -1, A.shape[1])


def _segment_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    grad_y: Tensor,
    start: Tensor,
    adjoint: Tensor,
    out: ScanGradients,
) -> Tensor:
    """Fill ``out`` (views of the whole gradients) for one segment; return the adjoint for the segment to the left."""
    decay, states = _segment_states(u, delta, A, B, start)
    previous = torch.cat([start[:, :, None], states[:, :, :-1]], dim=2)
    # dh_t = C_t dy_t + decay_{t+1} dh_{t+1}: the same recurrence on the reversed sequence, decays shifted by one.
    shifted = torch.cat([torch.ones_like(decay[:, :, :1]), decay[:, :, 1:].flip(2)], dim=2)
    grad_h = _recur(shifted, (grad_y[..., None] * C[..., None, :]).flip(2), adjoint).flip(2)
    through_decay = grad_h * decay * previous
    grad_input = (grad_h * B[..., None, :]).sum(-1)  # with respect to delta_t u_t
    out.u.copy_(grad_input * delta)
    out.delta.copy_(grad_input * u + (through_decay * A[:, None]).sum(-1))
    out.A.add_(torch.einsum("bkldn,bkld->kdn", through_decay, delta))
    out.B.copy_(torch.einsum("bkldn,bkld->bkln", grad_h, delta * u))
    out.C.copy_(torch.einsum("bkldn,bkld->bkln", states, grad_y))
    return decay[:, :, 0] * grad_h[:, :, 0]


def _segment_states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (B, K, S, Dm, N) of one segment, from the state before it."""
    decay = torch.exp(delta[..., None] * A[:, None])
    return decay, _recur(decay, (delta * u)[..., None] * B[..., None, :], start)


def _recur(decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + inputs_t along dimension 2, for all places at once; ``start`` is h before the first."""
    batch, groups, length, channels, states = decay.shape
    chunks = (batch, groups, -1, _CHUNK, channels, states)
    pad = (0, 0, 0, 0, 0, -length % _CHUNK)
    product = functional.pad(decay, pad, value=1.0).view(chunks).clone()
    h = functional.pad(inputs, pad).view(chunks).clone()
    for t in range(1, _CHUNK):
        h[:, :, :, t].addcmul_(product[:, :, :, t], h[:, :, :, t - 1])
        product[:, :, :, t].mul_(product[:, :, :, t - 1])
    state = start
    for chunk in range(h.shape[2]):
        h[:, :, chunk].addcmul_(product[:, :, chunk], state[:, :, None])
        state = h[:, :, chunk, -1]
    return h.view(batch, groups, -1, channels, states)[:, :, :length]


def _zero_state(u: Tensor, A: Tensor) -> Tensor:
    return u.new_zeros(u.shape[0], *A.shape)


def _segments(u: Tensor, A: Tensor) -> list[slice]:
    """Cut the sequence so that one (B, K, segment, Dm, N) temporary stays small; 16 chunks are the best compromise."""
    per_chunk = u.shape[0] * A.numel() * _CHUNK
    size = _CHUNK * max(1, min(_CHUNK, _SEGMENT_ELEMENTS // max(per_chunk, 1)))
    return [slice(first, first + size) for first in range(0, u.shape[2], size)]


class _Directions(NamedTuple):
    """What the scan reads, gathered in the orders of the four directions."""

    order: Tensor  # (4, L)
    x: Tensor  # (B, 4, L, Dm)
    dt: Tensor  # (B, 4, L, R)
    raw_delta: Tensor  # (B, 4, L, Dm), before softplus
    A: Tensor  # (4, Dm, N)
    B: Tensor  # (B, 4, L, N)
    C: Tensor  # (B, 4, L, N)


def _project(inputs: SliceInputs, slice_size: tuple[int, int]) -> _Directions:
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, _ = inputs
    batch, height, width, channels = x.shape
    order = scan_orders(height, width, slice_size).to(x.device)
    flat = x.reshape(batch, height * width, channels)
    # The projection is pointwise, so it is made once, before the order is applied.
    projected = (flat @ x_proj_weight.flatten(0, 1).mT).view(batch, height * width, 4, -1)
    projected = torch.stack([projected[:, order[k], k] for k in range(4)], dim=1)
    rank, states = inputs.rank, inputs.states
    dt, B, C = projected[..., :rank], projected[..., rank : rank + states], projected[..., rank + states :]
    raw_delta = dt @ dt_proj_weight.mT + dt_proj_bias[:, None]
    A = -torch.exp(A_log).view(4, channels, states)
    return _Directions(order, flat[:, order], dt, raw_delta, A, B, C)


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int]) -> Tensor:
    """Forward of the slice scan, (B, H, W, Dm) to the same; all tensors in one floating dtype."""
    d, x = _project(inputs, slice_size), inputs.x
    y = scan(d.x, functional.softplus(d.raw_delta), d.A, d.B, d.C)
    total = x.flatten(1, 2) * inputs.D.view(4, -1).sum(0)
    return _merge(total, y, d.order).view(x.shape)


def slice_scan_backward(grad_y: Tensor, inputs: SliceInputs, slice_size: tuple[int, int]) -> SliceInputs:
    """Gradients of :func:`slice_scan`."""
    d = _project(inputs, slice_size)
    x, x_proj_weight, dt_proj_weight, _, _, D = inputs
    grad_flat = grad_y.reshape(x.shape[0], -1, x.shape[3])
    g = scan_backward(d.x, functional.softplus(d.raw_delta), d.A, d.B, d.C, grad_flat[:, d.order])
    grad_raw = g.delta * torch.sigmoid(d.raw_delta)
    grad_projected = torch.cat([grad_raw @ dt_proj_weight, g.B, g.C], dim=-1)
    grad_x = _merge(grad_flat * D.view(4, -1).sum(0), g.u + grad_projected @ x_proj_weight, d.order)
    grad_D = (grad_flat * x.flatten(1, 2)).sum((0, 1))  # the same for every direction
    return SliceInputs(
        x=grad_x.view(x.shape),
        x_proj_weight=torch.einsum("bklj,bkld->kjd", grad_projected, d.x),
        dt_proj_weight=torch.einsum("bkld,bklr->kdr", grad_raw, d.dt),
        dt_proj_bias=grad_raw.sum((0, 2)),
        A_log=(g.A * d.A).flatten(0, 1),  # A = -exp(A_log), so dA/dA_log = A
        D=grad_D.repeat(4),
    )


def _merge(total: Tensor, parts: Tensor, order: Tensor) -> Tensor:
    """Add the four directions (B, 4, L, Dm) to ``total`` (B, L, Dm), each put back into row-major order."""
    for k in range(4):
        total[:, order[k]] += parts[:, k]
    return total
