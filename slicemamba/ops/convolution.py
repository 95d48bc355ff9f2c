"""The convolutional parts of the network as two operations on channels-last maps, so that each can be one native pass.

Shapes: B batch, H×W map, D channels, k odd width of the kernel.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of a depthwise convolution that keeps the map's size (zeros outside it).

    Args:
        x: (B, H, W, D). weight: (D, 1, k, k). bias: (D,).

    Returns:
        (B, H, W, D).
    """
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return F.silu(y).permute(0, 2, 3, 1)


def instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """Leaky ReLU of the instance norm: each channel of each image to mean 0 and variance 1 over H×W, scaled, shifted.

    Args:
        x: (B, H, W, D), H·W more than 1. weight, bias: (D,). slope: of the leaky ReLU below 0.

    Returns:
        (B, H, W, D).
    """
    y = F.instance_norm(x.permute(0, 3, 1, 2), weight=weight, bias=bias, eps=eps)
    return F.leaky_relu(y, slope).permute(0, 2, 3, 1)
