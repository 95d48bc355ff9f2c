"""The scans as operators of torch.library, so that autograd, torch.compile, torch.export and opcheck know them.

Each operator returns its result and a flat ``saved`` tensor for the backward pass, which is empty without gradients:
float32 from the native backend, bytes from Triton. The backend is chosen when an operator runs, not when it is traced,
so an exported program runs wherever this package is installed. The plain scan has no Triton kernel; torch runs it.

Shapes: x, y (B, H, W, Dm); u, delta (B, K·Dm, L); A (K·Dm, N); B, C (B, K, N, L); D, bias (K·Dm,) or empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slicemamba.ops import chunked, cpu, triton
from slicemamba.ops.backends import choose_backend
from slicemamba.ops.inputs import SequenceInputs, SliceInputs


def _native(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and choose_backend(tensor.device) == "native"


def _triton(x: Tensor) -> bool:
    return choose_backend(x.device) == "triton" and triton.supports(x)


@torch.library.custom_op("slicemamba::slice_scan", mutates_args=())
def _slice_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    rows: int,
    columns: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    inputs = SliceInputs(x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    with torch.autocast(x.device.type, enabled=False):
        if _triton(x):
            return triton.slice_scan(inputs, (rows, columns), save=save)
        wide = inputs._replace(x=x.to(A_log.dtype))  # another dtype only if traced for Triton, which takes half maps
        if _native(wide.x):
            y, saved = cpu.slice_scan(wide, (rows, columns), save=save)
        else:
            y, saved = chunked.slice_scan(wide, (rows, columns)), wide.x.new_empty(0)
    return y.to(x.dtype), saved


@torch.library.custom_op("slicemamba::slice_scan_backward", mutates_args=())
def _slice_scan_backward(
    grad_y: Tensor,
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    saved: Tensor,
    rows: int,
    columns: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = SliceInputs(x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    with torch.autocast(x.device.type, enabled=False):
        if saved.dtype == torch.uint8:
            return triton.slice_scan_backward(grad_y, inputs, saved, (rows, columns))
        grad, wide = grad_y.to(A_log.dtype), inputs._replace(x=x.to(A_log.dtype))
        if saved.numel():
            grads = cpu.slice_scan_backward(grad, wide, saved, (rows, columns))
        else:
            grads = chunked.slice_scan_backward(grad, wide, (rows, columns))
    return grads._replace(x=grads.x.to(x.dtype))


@torch.library.custom_op("slicemamba::scan", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, softplus: bool, save: bool
) -> tuple[Tensor, Tensor]:
    inputs = SequenceInputs(u, delta, A, B, C, D, bias)
    if _native(u):
        return cpu.scan(inputs, softplus, save=save)
    return chunked.channel_scan(inputs, softplus), u.new_empty(0)


@torch.library.custom_op("slicemamba::scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    saved: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = SequenceInputs(u, delta, A, B, C, D, bias)
    if saved.numel():
        return cpu.scan_backward(grad_y, inputs, saved, softplus)
    return chunked.channel_scan_backward(grad_y, inputs, softplus)


@_slice_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, _, _, save = arguments
    inputs = SliceInputs(*tensors)
    x, saved = inputs.x, 0
    if _triton(x):
        return x.new_empty(x.shape), x.new_empty(triton.saved_size(inputs) if save else 0, dtype=torch.uint8)
    if save and _native(x.to(inputs.A_log.dtype)):
        saved = cpu.saved_size(inputs)
    return x.new_empty(x.shape), inputs.A_log.new_empty(saved)


@_slice_scan_backward.register_fake
def _(grad_y: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in arguments[: len(SliceInputs._fields)])


@_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, _, save = arguments
    inputs = SequenceInputs(*tensors)
    batch, channels, length = inputs.u.shape
    groups, states = inputs.B.shape[1:3]
    kept = save and _native(inputs.u)
    size = cpu.checkpoint_size(batch, groups, length, channels // groups, states) if kept else 0
    return inputs.u.new_empty(inputs.u.shape), inputs.u.new_empty(size)


@_scan_backward.register_fake
def _(grad_y: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in arguments[: len(SequenceInputs._fields)])


def _save_slice_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.rows, ctx.columns, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or the backward pass would begin with as many zeros


def _backward_slice_scan(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 9
    grads = _slice_scan_backward(grad_y, *ctx.saved_tensors, ctx.rows, ctx.columns)
    return *grads, None, None, None


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or the backward pass would begin with as many zeros


def _backward_scan(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 9
    return *_scan_backward(grad_y, *ctx.saved_tensors, ctx.softplus), None, None


_slice_scan.register_autograd(_backward_slice_scan, setup_context=_save_slice_scan)
_scan.register_autograd(_backward_scan, setup_context=_save_scan)
