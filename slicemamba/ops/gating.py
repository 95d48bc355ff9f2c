"""LayerNorm(y) · SiLU(z), the end of a mixer (SliceMamba, arXiv 2407.08481, section III), in one pass over memory.

As torch has it, this is a chain of reads and writes of whole maps: LayerNorm, SiLU, product, and their gradients. Here
the native and the Triton backend of the scan do it row by row; the others leave it to torch. Mean, deviation and
sigmoid are computed anew in the backward pass, which needs y and z alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slicemamba.ops import cpu, reference, triton_gating
from slicemamba.ops._native_structs import GatedNorm
from slicemamba.ops.backends import choose_backend
from slicemamba.ops.limits import refuse_unsupported
from slicemamba.ops.triton_gating import as_rows

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PART_ROWS, _PARTS = 64, 32  # least rows, and most parts, that gradients of weight and bias are summed in on the CPU


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm of y over its last axis, with weight and bias, times SiLU(z).

    Args:
        y: (…, D), float32, bfloat16, float16 or float64.
        z: (…, D), for example one half of a projection: its rows need not lie next to each other.
        weight: (D,).
        bias: (D,).
        eps: added to the variance.

    Returns:
        (…, D). The native and Triton backends compute in float32 and give the dtype of y; the others give what torch
        gives for the expression, which under autocast is float32.

    Raises:
        ValueError: shapes that do not fit each other.
        InputError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    channels = y.shape[-1:]
    if z.shape != y.shape or weight.shape != channels or bias.shape != channels:
        raise ValueError(
            "gated_norm expects y and z of one shape (…, D) and weight and bias (D,), got "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in (y, z, weight, bias))}; make them fit."
        )
    refuse_unsupported(y=y, z=z, weight=weight, bias=bias)
    if _backend(y) == "torch" or torch.onnx.is_in_onnx_export():
        return reference.gated_norm(y, z, weight, bias, eps)
    result: Tensor = torch.ops.slicemamba.gated_norm(y, z, weight.float(), bias.float(), eps)
    return result


def _backend(y: Tensor) -> str:
    chosen = choose_backend(y.device)
    usable = (
        chosen in ("native", "triton")
        and y.dtype in _DTYPES
        and y.numel() > 0
        and y.shape[-1] <= triton_gating.MOST_CHANNELS
    )
    return chosen if usable else "torch"


@torch.library.custom_op("slicemamba::gated_norm", mutates_args=())
def _gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    with torch.autocast(y.device.type, enabled=False):
        backend = _backend(y)  # again, for an exported program may run elsewhere than where it was traced
        if backend == "triton":
            return triton_gating.forward(y, z, weight, bias, eps)
        y_wide, z_wide = y.float(), z.float()
        run = _native_forward if backend == "native" else reference.gated_norm
        return run(y_wide, z_wide, weight, bias, eps).to(y.dtype)


@torch.library.custom_op("slicemamba::gated_norm_backward", mutates_args=())
def _gated_norm_backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(y.device.type, enabled=False):
        backend = _backend(y)
        if backend == "triton":
            return triton_gating.backward(grad, y, z, weight, bias, eps)
        run = _native_backward if backend == "native" else reference.gated_norm_backward
        grad_y, grad_z, grad_weight, grad_bias = run(grad.float(), y.float(), z.float(), weight, bias, eps)
        return grad_y.to(y.dtype), grad_z.to(z.dtype), grad_weight, grad_bias


@_gated_norm.register_fake
def _(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return y.new_empty(y.shape)


@_gated_norm_backward.register_fake
def _(grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    return y.new_empty(y.shape), z.new_empty(z.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_norm_backward(grad, *ctx.saved_tensors, ctx.eps), None


_gated_norm.register_autograd(_backward, setup_context=_save)


def _native_problem(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> GatedNorm:
    isa = cpu.INSTRUCTION_SETS.index(cpu.instruction_set())
    problem = GatedNorm(y.shape[0], y.shape[1], z.stride(0), torch.get_num_threads(), isa, eps)
    problem.y, problem.z, problem.weight, problem.bias = (t.data_ptr() for t in (y, z, weight, bias))
    return problem


def _native_forward(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = torch.empty(y.shape)
    tensors = y.contiguous().view(-1, y.shape[-1]), as_rows(z), weight.contiguous(), bias.contiguous()
    problem = _native_problem(*tensors, eps)
    problem.out = out.data_ptr()
    cpu.call("slicemamba_gated_norm_forward", problem)
    return out


def _native_backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, ...]:
    grad = grad.contiguous()
    tensors = y.contiguous().view(-1, y.shape[-1]), as_rows(z), weight.contiguous(), bias.contiguous()
    problem = _native_problem(*tensors, eps)
    problem.parts = max(1, min(_PARTS, problem.rows // _PART_ROWS))
    grads = torch.empty(y.shape), torch.empty(z.shape), *torch.empty(2, problem.parts, problem.width).unbind()
    problem.grad_out = grad.data_ptr()
    problem.grad_y, problem.grad_z, problem.grad_weight, problem.grad_bias = (tensor.data_ptr() for tensor in grads)
    cpu.call("slicemamba_gated_norm_backward", problem)
    return grads[0], grads[1], grads[2][0].clone(), grads[3][0].clone()
