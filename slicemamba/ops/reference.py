"""The sequential truth: one plain loop over the sequence, in any floating dtype. Slow; all backends are held to it.

Shapes: u, delta (B, K·Dm, L); A (K·Dm, N); B, C (B, K, N, L); x, y (B, H, W, Dm).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slicemamba.ops.inputs import SliceInputs
from slicemamba.ops.slicing import AXES, slice_order


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
    batch, _, length = u.shape
    groups = B.shape[1] if B.dim() == 4 else 1
    B, C = (tensor.reshape(batch, groups, 1, -1, length) for tensor in (B, C))
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = functional.softplus(delta)
    step, inputs = (tensor.reshape(batch, groups, -1, 1, length) for tensor in (delta, delta * u))
    A = A.reshape(groups, -1, A.shape[1])
    h = u.new_zeros(batch, *A.shape)  # (B, K, Dm, N)
    outputs = []
    # unbind, not an index at each step: the gradient of an index is a tensor of the whole length
    for step_t, input_t, B_t, C_t in zip(*(tensor.unbind(-1) for tensor in (step, inputs, B, C)), strict=True):
        h = torch.exp(step_t * A) * h + input_t * B_t
        outputs.append((h * C_t).sum(-1))
    y = torch.stack(outputs, dim=-1).reshape(u.shape)
    return y if D is None else y + D[:, None] * u


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int]) -> Tensor:
    """The four directions gathered, scanned, put back and summed: x (B, H, W, Dm) to y (B, H, W, Dm)."""
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    batch, height, width, channels = x.shape
    rank, states = inputs.rank, inputs.states
    orders = []
    for axis in AXES:
        order = slice_order(height, width, slice_size, axis)
        orders += [order, order.flip(0)]
    flat = x.reshape(batch, height * width, channels)
    sequences = torch.stack([flat[:, order] for order in orders], dim=1)  # (B, 4, L, Dm)
    projected = sequences @ x_proj_weight.mT
    dt, B, C = projected[..., :rank], projected[..., rank : rank + states], projected[..., rank + states :]
    y = selective_scan(
        sequences.mT.flatten(1, 2),
        (dt @ dt_proj_weight.mT).mT.flatten(1, 2),
        -torch.exp(A_log),
        B.mT,
        C.mT,
        D,
        delta_bias=dt_proj_bias.flatten(),
        delta_softplus=True,
    )
    y = y.reshape(batch, 4, channels, -1).mT
    return sum((y[:, k, torch.argsort(orders[k])] for k in range(4)), torch.zeros_like(flat)).reshape(x.shape)


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of y (…, D) over its last axis, times SiLU(z), in torch's own operators."""
    return functional.layer_norm(y, weight.shape, weight, bias, eps) * functional.silu(z)


def gated_norm_backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`gated_norm` for y, z, weight and bias, where autograd does not look on."""
    normed, mean, scale = torch.native_layer_norm(y, weight.shape, weight, bias, eps)
    grad_z = torch.ops.aten.silu_backward(grad * normed, z)
    grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad * functional.silu(z), y, weight.shape, mean, scale, weight, bias, [True, True, True]
    )
    return grad_y, grad_z, grad_weight, grad_bias


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of a depthwise convolution of x (B, H, W, D), in torch's own operators."""
    y = functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return functional.silu(y).permute(0, 2, 3, 1)


def depthwise_silu_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`depthwise_silu` for x, weight and bias, where autograd does not look on."""
    x, pad = x.permute(0, 3, 1, 2), [weight.shape[-1] // 2] * 2
    y = functional.conv2d(x, weight, bias, padding=pad, groups=weight.shape[0])
    inner = torch.ops.aten.silu_backward(grad.permute(0, 3, 1, 2), y)
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        inner, x, weight, bias.shape, [1, 1], pad, [1, 1], False, [0, 0], weight.shape[0], [True, True, True]
    )
    return grad_x.permute(0, 2, 3, 1).contiguous(), grad_weight, grad_bias


def instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """Leaky ReLU of the instance norm of x (B, H, W, D), in torch's own operators."""
    y = functional.instance_norm(x.permute(0, 3, 1, 2), weight=weight, bias=bias, eps=eps)
    return functional.leaky_relu(y, slope).permute(0, 2, 3, 1)


def instance_norm_act_and_moments(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor]:
    """:func:`instance_norm_act`, and (B, 2, D): mean, and one over the deviation."""
    variance, mean = torch.var_mean(x, dim=(1, 2), correction=0)
    return instance_norm_act(x, weight, bias, eps, slope), torch.stack([mean, torch.rsqrt(variance + eps)], dim=1)


def instance_norm_act_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`instance_norm_act` for x, weight and bias, where autograd does not look on."""
    mean, scale = (moments[:, i, None, None] for i in (0, 1))
    normed = (x - mean) * scale
    inner = torch.where(normed * weight + bias > 0, grad, grad * slope)
    along = normed * (inner * normed).mean((1, 2), keepdim=True)
    grad_x = (inner - inner.mean((1, 2), keepdim=True) - along) * scale * weight
    return grad_x.contiguous(), (inner * normed).sum((0, 1, 2)), inner.sum((0, 1, 2))
