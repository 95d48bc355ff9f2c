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
    parameters = (x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    with torch.autocast(x.device.type, enabled=False):
        if _triton(x):
            return triton.slice_scan(x, *parameters, (rows, columns), save=save)
        wide = x.to(A_log.dtype)  # of another dtype only if this was traced for Triton, which takes half maps
        if _native(wide):
            y, saved = cpu.slice_scan(wide, *parameters, (rows, columns), save=save)
        else:
            y, saved = chunked.slice_scan(wide, *parameters, (rows, columns)), wide.new_empty(0)
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
    parameters = (x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    with torch.autocast(x.device.type, enabled=False):
        if saved.dtype == torch.uint8:
            return triton.slice_scan_backward(grad_y, x, *parameters, saved, (rows, columns))
        inputs = (grad_y.to(A_log.dtype), x.to(A_log.dtype), *parameters)
        if saved.numel():
            grad_x, *grads = cpu.slice_scan_backward(*inputs, saved, (rows, columns))
        else:
            grad_x, *grads = chunked.slice_scan_backward(*inputs, (rows, columns))
    return grad_x.to(x.dtype), grads[0], grads[1], grads[2], grads[3], grads[4]


@torch.library.custom_op("slicemamba::scan", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, softplus: bool, save: bool
) -> tuple[Tensor, Tensor]:
    if _native(u):
        return cpu.scan(u, delta, A, B, C, D, bias, softplus, save=save)
    return chunked.channel_scan(u, delta, A, B, C, D, bias, softplus), u.new_empty(0)


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
    if saved.numel():
        return cpu.scan_backward(grad_y, u, delta, A, B, C, D, bias, saved, softplus)
    return chunked.channel_scan_backward(grad_y, u, delta, A, B, C, D, bias, softplus)


@_slice_scan.register_fake
def _(
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
    batch, height, width, channels = x.shape
    if _triton(x):
        return x.new_empty(x.shape), x.new_empty(
            triton.saved_size(x, dt_proj_weight, A_log) if save else 0, dtype=torch.uint8
        )
    saved = 0
    if save and _native(x.to(A_log.dtype)):
        saved = cpu.saved_size(batch, height * width, channels, A_log.shape[1], x_proj_weight.shape[1])
    return x.new_empty(x.shape), A_log.new_empty(saved)


@_slice_scan_backward.register_fake
def _(
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
) -> tuple[Tensor, ...]:
    inputs = (x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs)


@_scan.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, softplus: bool, save: bool
) -> tuple[Tensor, Tensor]:
    batch, channels, length = u.shape
    groups, states = B.shape[1:3]
    size = cpu.checkpoint_size(batch, groups, length, channels // groups, states) if save and _native(u) else 0
    return u.new_empty(u.shape), u.new_empty(size)


@_scan_backward.register_fake
def _(
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
) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (u, delta, A, B, C, D, bias))


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
