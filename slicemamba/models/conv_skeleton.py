"""The convolutional skeleton: a U-Net from full resolution on, with the searched blocks behind its convolutions.

    image → stage 0 ─────────────────────────── concatenate ──→ stage → head → logits
               └ pool → stage 1 ──────── concatenate ──→ stage ┘ expand
                           └ … pool → last stage ──┘ expand

A stage is two 3×3 convolutions with instance norm and leaky ReLU and a shortcut around both, then its blocks: as
MONAI's BasicUNet with the shortcuts of nnU-Net's ResEnc (arXiv 2404.09556). Blocks start as the identity, so a fresh
network is a U-Net whatever its architecture, and one with all blocks left out stays one. No norm keeps running
statistics, which the paths of a supernet would have to share.

Shapes: B batch, H×W map, C channels of the stage; features are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.architecture import Block, format_block
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.ops.convolution import instance_norm_act

SLOPE = 0.01
SUPERVISED_LEVELS = (1, 2)
"""Levels whose maps also predict, with deep supervision."""


class Features(NamedTuple):
    """All that the blocks to come need of those before.

    Attributes:
        x: the map, (B, H, W, C). skips: maps that the decoder awaits. predicted: logits of deep supervision so far.
    """

    x: Tensor
    skips: tuple[Tensor, ...] = ()
    predicted: tuple[Tensor, ...] = ()


class InstanceNorm(nn.Module):
    """Scale and shift of ``instance_norm_act``; without running statistics."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


class ConvPair(nn.Module):
    """(B, H, W, C_in) → (B, H, W, C): two 3×3 convolutions, each with norm and leaky ReLU, and a shortcut around both.

    ``forward`` takes a width: with ``half``, the map between the two has half the channels, the first of them.

    Args:
        in_dim, dim: C_in and C. divisor: C over the channels between, of the widest that is to run.
    """

    def __init__(self, in_dim: int, dim: int, divisor: int = 1) -> None:
        super().__init__()
        inner = dim // divisor
        self.conv1 = nn.Conv2d(in_dim, inner, 3, padding=1, bias=False)
        self.norm1 = InstanceNorm(inner)
        self.conv2 = nn.Conv2d(inner, dim, 3, padding=1, bias=False)
        self.norm2 = InstanceNorm(dim)
        self.shortcut = nn.Linear(in_dim, dim, bias=False) if in_dim != dim else None
        self._dim = dim

    def forward(self, x: Tensor, block: Block) -> Tensor:
        w1, scale, shift, w2 = self._inner(block)
        y = instance_norm_act(_conv(x, w1), scale, shift, slope=SLOPE)
        y = instance_norm_act(_conv(y, w2), self.norm2.weight, self.norm2.bias, slope=SLOPE)
        return y + (x if self.shortcut is None else self.shortcut(x))

    def weights(self, block: Block) -> dict[str, Tensor]:
        """The weights that this width uses, by name. Raises InputError for a wider one than this has weights for."""
        names = ("conv1.weight", "norm1.weight", "norm1.bias", "conv2.weight")
        return dict(self.named_parameters()) | dict(zip(names, self._inner(block), strict=True))

    def _inner(self, block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        whole, inner = self.conv1.weight.shape[0], self._dim // max(1, block.divisor)
        if not block.divisor or inner > whole:
            raise InputError(
                f"a stage of the conv skeleton begins with the width of its convolutions, full or half, at most "
                f"{'full' if whole == self._dim else 'half'} here; got {format_block(block)}"
            )
        if inner == whole:
            return self.conv1.weight, self.norm1.weight, self.norm1.bias, self.conv2.weight
        return (
            self.conv1.weight[:inner],
            self.norm1.weight[:inner],
            self.norm1.bias[:inner],
            self.conv2.weight[:, :inner],
        )


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)


class Expand(nn.Module):
    """(B, H, W, 2C) → (B, 2H, 2W, C): each vector spread over a 2×2 patch, as a transposed convolution does."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, 4 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x = self.linear(x).view(batch, height, width, 2, 2, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


class ConvSkeleton(nn.Module):
    """All of the network: convolutions, what lies between the resolutions, blocks and head.

    Args:
        config: levels, widths and block settings. num_classes: channels of the logits.
        make_conv: makes what stands for the convolutions of a stage from (C_in, C).
        make_block: makes a block from (C, drop path rate); called in forward order.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        make_conv: Callable[[int, int], nn.Module],
        make_block: Callable[[int, float], nn.Module],
        rates: Sequence[float],
    ) -> None:
        super().__init__()
        self.config = config
        dims = [config.embed_dim * 2**level for level in range(config.levels)]
        remaining = iter(rates)
        self.stages = nn.ModuleList()
        for stage, (level, depth) in enumerate(zip(config.stage_levels, config.depths, strict=True)):
            from_encoder = config.in_channels if stage == 0 else dims[level - 1]
            in_dim = from_encoder if stage < config.levels else 2 * dims[level]
            convolutions = make_conv(in_dim, dims[level])
            blocks = [make_block(dims[level], next(remaining)) for _ in range(depth - 1)]
            self.stages.append(nn.ModuleList([convolutions, *blocks]))
        self.expands = nn.ModuleList(Expand(dims[level]) for level in config.stage_levels[config.levels :])
        self.head = nn.Linear(dims[0], num_classes)
        supervised = SUPERVISED_LEVELS[: config.levels - 2] if config.deep_supervision else ()
        self.supervised = nn.ModuleDict({str(level): nn.Linear(dims[level], num_classes) for level in supervised})
        self._places = [(stage, place) for stage, depth in enumerate(config.depths) for place in range(depth)]

    def heads(self) -> list[nn.Linear | nn.Conv2d]:
        """The head, and with deep supervision those of the coarser maps."""
        coarser = [head for head in self.supervised.values() if isinstance(head, nn.Linear)]  # all, which mypy asks for
        return [self.head, *coarser]

    def blocks(self) -> Iterator[nn.Module]:
        """What stands in each place, in forward order."""
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            yield from stage

    def embed(self, image: Tensor) -> Features:
        """(B, channels, H, W), H and W multiples of the stride."""
        return Features(image.permute(0, 2, 3, 1).contiguous())

    def advance(self, features: Features, place: int, block: Block) -> Features:
        """Runs the place; the first of a stage after what lies between the stages."""
        (x, skips, predicted), (stage, number) = features, self._places[place]
        if number == 0 and stage:
            if stage < self.config.levels:
                skips, x = (*skips, x), _pool(x)
            else:
                x = torch.cat([self.expands[stage - self.config.levels](x), skips[-1]], dim=-1)
                skips = skips[:-1]
        blocks = self.stages[stage]
        assert isinstance(blocks, nn.ModuleList)
        x = blocks[number](x, block)
        level = str(self.config.stage_levels[stage])
        if self.training and stage >= self.config.levels and number == len(blocks) - 1 and level in self.supervised:
            predicted = (*predicted, self.supervised[level](x).permute(0, 3, 1, 2))
        return Features(x, skips, predicted)

    def logits(self, features: Features) -> Tensor:
        """(B, num_classes, H, W); in training with deep supervision (heads, B, num_classes, H, W), the finest first."""
        logits: Tensor = self.head(features.x).permute(0, 3, 1, 2)
        if not features.predicted:
            return logits
        coarser = [F.interpolate(each, size=logits.shape[2:]) for each in reversed(features.predicted)]
        return torch.stack([logits, *coarser])


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
