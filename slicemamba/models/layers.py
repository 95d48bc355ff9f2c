"""Patch embedding, merging and expanding of the U-shape, and stochastic depth.

Features are channels-last, (B, H, W, C), throughout; only images and logits are (B, channels, H, W).
Source: VM-UNet (arXiv 2402.02491), section 3, and VMamba (arXiv 2401.10166), section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.errors import InputError


def fit_image(image: Tensor, stride: int, channels: int = 3) -> Tensor:
    """(B, 1 or channels, H, W) → (B, channels, H', W'): grey repeated, edges repeated at the bottom and right.

    Args:
        stride: H' and W' are multiples of it.

    Raises:
        InputError: the image has another shape.
    """
    if image.ndim != 4 or image.shape[1] not in (1, channels):
        wanted = " or ".join(map(str, sorted({1, channels})))
        raise InputError(f"image must be (B, {wanted}, H, W); got shape {tuple(image.shape)}")
    if image.shape[1] != channels:
        image = image.expand(-1, channels, -1, -1)
    bottom, right = -image.shape[2] % stride, -image.shape[3] % stride
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


class PatchEmbed(nn.Module):
    """(B, 3, H, W) → (B, H/4, W/4, C): 4×4 convolution of stride 4, then LayerNorm. H and W are multiples of 4."""

    def __init__(self, dim: int, in_channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return normed


class PatchMerging(nn.Module):
    """(B, H, W, C) → (B, H/2, W/2, 2C): each 2×2 patch concatenated, LayerNorm, Linear. H and W are even."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        patches = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        merged: Tensor = self.reduction(self.norm(torch.cat(patches, dim=-1)))
        return merged


class PatchExpand(nn.Module):
    """(B, H, W, C) → (B, sH, sW, C'): Linear, each vector spread over an s×s patch, LayerNorm.

    C' is C/2 for s = 2 (between decoder stages) and C/4 for s = 4 (before the head).
    """

    def __init__(self, dim: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.out_dim = dim // scale
        self.expand = nn.Linear(dim, self.out_dim * scale * scale, bias=False)
        self.norm = nn.LayerNorm(self.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        s = self.scale
        x = self.expand(x).view(batch, height, width, s, s, self.out_dim)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * s, width * s, self.out_dim)
        normed: Tensor = self.norm(x)
        return normed


class DropPath(nn.Module):
    """Stochastic depth: in training, the branch of a sample is dropped with probability ``rate`` and else scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"
