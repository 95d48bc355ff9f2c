"""The convolutional parts of the network as two operations on channels-last maps, each one native pass on a CPU.

As torch has them, they are chains of reads and writes of whole maps, some of them copies into another layout. The
native backend takes float32 and kernels of 3, 5 and 7; everything else, and every other device, is left to torch. For
the backward pass the inputs are kept alone (and, of the norm, mean and deviation): what lies between is computed anew.

Shapes: B batch, H×W map, D channels, k odd width of the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slicemamba.ops import cpu, reference
from slicemamba.ops._native_structs import DepthwiseSilu, InstanceNorm, Map
from slicemamba.ops.backends import choose_backend
from slicemamba.ops.limits import refuse_unsupported

_KERNELS = (3, 5, 7)
_TASKS = 8  # parts that a backward pass is cut into for a single image; fixed, so that sums never depend on threads
_BAND = 8  # least rows of one
_CHUNK = 8192  # numbers, at most, of places that the norm sums by themselves: they fit into the fastest cache


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of a depthwise convolution that keeps the map's size (zeros outside it).

    Args:
        x: (B, H, W, D), for example one half of a projection: its rows need not lie next to each other.
        weight: (D, 1, k, k). bias: (D,).

    Returns:
        (B, H, W, D). In float32 it keeps float32 under autocast, where it runs natively.

    Raises:
        ValueError: shapes that do not fit each other.
        InputError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    channels, kernel = x.shape[-1], weight.shape[-1]
    if x.dim() != 4 or weight.shape != (channels, 1, kernel, kernel) or bias.shape != (channels,) or not kernel % 2:
        raise ValueError(
            "depthwise_silu expects x (B, H, W, D), weight (D, 1, k, k) with k odd and bias (D,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}; make them fit."
        )
    refuse_unsupported(x=x, weight=weight, bias=bias)
    if kernel not in _KERNELS or not _native(x, weight, bias) or torch.onnx.is_in_onnx_export():
        return reference.depthwise_silu(x, weight, bias)
    result: Tensor = torch.ops.slicemamba.depthwise_silu(x, weight, bias)
    return result


def instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """Leaky ReLU of the instance norm: each channel of each image to mean 0 and variance 1 over H×W, scaled, shifted.

    Args:
        x: (B, H, W, D), H·W more than 1. weight, bias: (D,). eps: added to the variance. slope: of the leaky ReLU
            below 0.

    Returns:
        (B, H, W, D).

    Raises:
        ValueError: shapes that do not fit each other, or a map of one place.
        InputError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    if x.dim() != 4 or x.shape[1] * x.shape[2] < 2 or not weight.shape == bias.shape == x.shape[-1:]:
        raise ValueError(
            "instance_norm_act expects x (B, H, W, D) of more than one place, and weight and bias (D,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}; make them fit."
        )
    refuse_unsupported(x=x, weight=weight, bias=bias)
    if not _native(x, weight, bias) or torch.onnx.is_in_onnx_export():
        return reference.instance_norm_act(x, weight, bias, eps, slope)
    result: Tensor = torch.ops.slicemamba.instance_norm_act(x, weight, bias, eps, slope)[0]
    return result


def _native(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == bias.dtype == torch.float32 and x.numel() > 0
    return fits and choose_backend(x.device) == "native"


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


@torch.library.custom_op("slicemamba::depthwise_silu", mutates_args=())
def _depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not _native(x, weight, bias):  # asked again: an exported program may run elsewhere than where it was traced
        with _full_precision(x):
            return reference.depthwise_silu(x, weight, bias).contiguous()
    x, out = _readable(x), x.new_empty(x.shape)
    problem, _kept = _depthwise_problem(x, weight, bias)
    problem.out = out.data_ptr()
    cpu.call("slicemamba_depthwise_silu_forward", problem)
    return out


@torch.library.custom_op("slicemamba::depthwise_silu_backward", mutates_args=())
def _depthwise_silu_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not _native(x, weight, bias):
        with _full_precision(x):
            return reference.depthwise_silu_backward(grad, x, weight, bias)
    x, grad, grad_x = _readable(x), _readable(grad), x.new_empty(x.shape)
    problem, _kept = _depthwise_problem(x, weight, bias)
    problem.bands = max(1, min(-(-_TASKS // x.shape[0]), x.shape[1] // _BAND))
    places = problem.kernel**2
    grads = x.new_empty(problem.batches * problem.bands, places + 1, problem.channels)
    problem.grad_out, problem.grad_x, problem.grad_weight = _map(grad), grad_x.data_ptr(), grads.data_ptr()
    cpu.call("slicemamba_depthwise_silu_backward", problem)
    return grad_x, grads[0, :places].t().contiguous().view(weight.shape), grads[0, places].clone()


def _depthwise_problem(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[DepthwiseSilu, tuple[Tensor, ...]]:
    """The description, and what must live as long as it: the kernel as (k·k, D), and the bias."""
    kept = weight.flatten(1).t().contiguous(), bias.contiguous()
    isa = cpu.INSTRUCTION_SETS.index(cpu.instruction_set())
    problem = DepthwiseSilu(*x.shape, weight.shape[-1], torch.get_num_threads(), isa)
    problem.x, (problem.weight, problem.bias) = _map(x), (tensor.data_ptr() for tensor in kept)
    return problem, kept


@torch.library.custom_op("slicemamba::instance_norm_act", mutates_args=())
def _instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor]:
    """The result and the moments (B, 2, D) that its gradient needs: mean, and one over the deviation."""
    if not _native(x, weight, bias):
        with _full_precision(x):
            out, moments = reference.instance_norm_act_and_moments(x, weight, bias, eps, slope)
        return out.contiguous(), moments
    x, out = _evenly_apart(x), x.new_empty(x.shape)
    moments = x.new_empty(x.shape[0], 2, x.shape[3])
    problem, _kept = _norm_problem(x, weight, bias, moments, eps, slope)
    problem.out = out.data_ptr()
    cpu.call("slicemamba_instance_norm_forward", problem)
    return out, moments


@torch.library.custom_op("slicemamba::instance_norm_act_backward", mutates_args=())
def _instance_norm_act_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    if not _native(x, weight, bias):
        with _full_precision(x):
            return reference.instance_norm_act_backward(grad, x, weight, bias, moments, slope)
    x, grad, grad_x = _evenly_apart(x), _evenly_apart(grad), x.new_empty(x.shape)
    problem, _kept = _norm_problem(x, weight, bias, moments, 0, slope)
    affine = torch.empty_like(moments)
    problem.grad_out, problem.grad_x, problem.grad_affine = _map(grad), grad_x.data_ptr(), affine.data_ptr()
    cpu.call("slicemamba_instance_norm_backward", problem)
    return grad_x, affine[0, 0].clone(), affine[0, 1].clone()


def _norm_problem(
    x: Tensor, weight: Tensor, bias: Tensor, moments: Tensor, eps: float, slope: float
) -> tuple[InstanceNorm, tuple[Tensor, ...]]:
    batch, height, width, channels = x.shape
    places, chunk = height * width, max(16, _CHUNK // channels)
    kept = weight.contiguous(), bias.contiguous(), moments, x.new_empty(batch, -(-places // chunk), 2, channels)
    isa = cpu.INSTRUCTION_SETS.index(cpu.instruction_set())
    problem = InstanceNorm(batch, places, channels, torch.get_num_threads(), isa, chunk, eps, slope, _map(x))
    problem.weight, problem.bias, problem.moments, problem.sums = (tensor.data_ptr() for tensor in kept)
    return problem, kept


def _readable(x: Tensor) -> Tensor:
    """A map whose channels lie next to each other: itself, wherever they do."""
    return x if x.stride(3) == 1 else x.contiguous()


def _evenly_apart(x: Tensor) -> Tensor:
    """A map whose places, too, are evenly apart, as in a chunk of channels, not in a crop."""
    return x if x.stride(3) == 1 and x.stride(1) == x.shape[2] * x.stride(2) else x.contiguous()


def _map(x: Tensor) -> Map:
    return Map(x.data_ptr(), *x.stride()[:3])


@_depthwise_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_depthwise_silu_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, weight, bias))


@_instance_norm_act.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], 2, x.shape[3])


@_instance_norm_act_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Tensor, slope: float) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, weight, bias))


def _save_depthwise(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    grads: tuple[Tensor, ...] = _depthwise_silu_backward(grad, *ctx.saved_tensors)
    return grads


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.slope = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or the backward pass would begin with as many zeros


def _backward_norm(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    return *_instance_norm_act_backward(grad, *ctx.saved_tensors, ctx.slope), None, None


_depthwise_silu.register_autograd(_backward_depthwise, setup_context=_save_depthwise)
_instance_norm_act.register_autograd(_backward_norm, setup_context=_save_norm)
