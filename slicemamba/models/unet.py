"""The U-shaped network (SliceMamba, arXiv 2407.08481, figure 2; VM-UNet, arXiv 2402.02491).

    image → PatchEmbed → encoder stages ── S³ blocks, PatchMerging ──┐
                              │ skip: the stage's input              │
    logits ← head ← PatchExpand ×4 ← decoder stages ── (x + skip), PatchExpand ×2, S³ blocks

Module names are those of the published checkpoints: ``layers.{stage}.blocks.{block}``, ``layers_up.…``, ``final_up``, …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from slicemamba.architecture import SKIP, Architecture, Block
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block, SkippedBlock
from slicemamba.models.conv_skeleton import ConvPair, ConvSkeleton, Features
from slicemamba.models.layers import PatchEmbed, PatchExpand, PatchMerging, fit_image

BlockFactory = Callable[[int, float], nn.Module]  # (channels, drop path rate) → module with forward(x, block)
ConvFactory = Callable[[int, int], nn.Module]  # (channels in, out) → module with forward(x, width)


class Stage(nn.Module):
    """Blocks of one width, with a PatchExpand before them (decoder) or a PatchMerging after them (encoder)."""

    def __init__(self, blocks: list[nn.Module], upsample: nn.Module | None, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.upsample = upsample
        self.downsample = downsample

    def forward(self, x: Tensor, blocks: Sequence[Block]) -> Tensor:
        for place, block in enumerate(blocks):
            x = self.step(x, place, block)
        return x

    def step(self, x: Tensor, place: int, block: Block) -> Tensor:
        """Runs the block at ``place``; the first after the PatchExpand, the last before the PatchMerging."""
        if place == 0 and self.upsample is not None:
            x = self.upsample(x)
        x = self.blocks[place](x, block)
        return self.downsample(x) if self.downsample is not None and place == len(self.blocks) - 1 else x


class SliceUNet(nn.Module):
    """The U-shape, for any kind of block. ``SliceMambaUNet`` and ``Supernet`` differ only in the blocks they put in.

    Args:
        config: skeleton, widths, depths and block settings.
        num_classes: channels of the logits; 1 for binary segmentation.
        make_block: makes the block for a width and a drop path rate; called in forward order.
        make_conv: makes the convolutions of a stage of the convolutional skeleton for (channels in, out); called in
            forward order with the blocks.
    """

    def __init__(self, config: ModelConfig, num_classes: int, make_block: BlockFactory, make_conv: ConvFactory) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.conv: ConvSkeleton | None = None
        if config.skeleton == "conv":
            self.conv = ConvSkeleton(config, num_classes, make_conv, make_block, _conv_rates(config))
        else:
            self._build_published(make_block)
        if config.linear_init == "published" or (config.linear_init is None and config.skeleton == "published"):
            self.apply(init_linear)
        if config.skeleton == "conv":
            start_as_identity(self)

    def _build_published(self, make_block: BlockFactory) -> None:
        config, dims = self.config, stage_dims(self.config)
        self.patch_embed = PatchEmbed(dims[0], config.in_channels)
        self.layers = encoder_stages(config, make_block)
        rates = _rates(config.drop_path_rate, config.decoder_depths, falling=True)
        self.layers_up = nn.ModuleList(
            Stage(
                [make_block(dim, rate) for rate in rates[i]],
                upsample=PatchExpand(2 * dim, 2) if i > 0 else None,
                downsample=None,
            )
            for i, dim in enumerate(reversed(dims))
        )
        self._places = [(stage, place) for stage, depth in enumerate(config.depths) for place in range(depth)]
        self.final_up = PatchExpand(dims[0], 4)
        self.final_conv = nn.Conv2d(dims[0] // 4, self.num_classes, 1)

    @property
    def stride(self) -> int:
        """Height and width are padded to a multiple of this inside ``run``."""
        return self.config.stride

    def blocks(self) -> Iterator[nn.Module]:
        """What stands in each place, in forward order, as ``Architecture.blocks`` gives what it takes."""
        if self.conv is not None:
            yield from self.conv.blocks()
            return
        for stage in (*self.layers, *self.layers_up):
            yield from stage.blocks

    def heads(self) -> list[nn.Linear | nn.Conv2d]:
        """What gives the logits; with deep supervision the heads of the coarser maps too."""
        if self.conv is None:
            return [self.final_conv]
        return self.conv.heads()

    def run(self, image: Tensor, architecture: Architecture) -> Tensor:
        """The forward pass with the given architecture.

        Args:
            image: (B, 1 or in_channels, H, W), any H and W; edges are repeated up to a multiple of ``stride`` and
                cropped again.
            architecture: what each block takes.

        Returns:
            Logits (B, num_classes, H, W); in training with deep supervision (heads, B, num_classes, H, W).

        Raises:
            InputError: the architecture's depths are not the network's, or the image has another number of channels.
        """
        if architecture.depths != self.config.depths:
            raise InputError(
                f"architecture must have stages of depths {self.config.depths}, as the network; "
                f"got {architecture.depths}"
            )
        features = self.embed(image)
        for place, block in enumerate(architecture.blocks()):
            features = self.advance(features, place, block)
        return self.logits(features, image.shape[2:])

    def embed(self, image: Tensor) -> Features:
        """The first of the three parts of ``run``: what the first block gets."""
        fitted = fit_image(image, self.stride, self.config.in_channels)
        return Features(self.patch_embed(fitted)) if self.conv is None else self.conv.embed(fitted)

    def advance(self, features: Features, place: int, block: Block) -> Features:
        """The second part of ``run``, to be called for each block in turn, ``place`` counting from 0.

        What it is given stays as it is, so that several architectures may go on from the same features.
        """
        if self.conv is not None:
            return self.conv.advance(features, place, block)
        (x, skips, _), (stage, number) = features, self._places[place]
        if number == 0 and 0 < stage < len(self.layers):  # nothing takes up what the first stage gets
            skips = (*skips, x)
        elif number == 0 and stage > len(self.layers):
            x, skips = x + skips[-1], skips[:-1]
        return Features((*self.layers, *self.layers_up)[stage].step(x, number, block), skips)

    def logits(self, features: Features, size: Sequence[int]) -> Tensor:
        """The last part of ``run``: logits as it gives them, for an image of ``size`` (H, W)."""
        if self.conv is not None:
            logits = self.conv.logits(features)
        else:
            logits = self.final_conv(self.final_up(features.x).permute(0, 3, 1, 2))
        return logits[..., : size[0], : size[1]].contiguous()


class SliceMambaUNet(SliceUNet):
    """A network with one fixed architecture; 35.80 M parameters at the published widths."""

    def __init__(self, config: ModelConfig, num_classes: int, architecture: Architecture) -> None:
        if architecture.depths != config.depths:
            raise InputError(f"architecture has stages of depths {architecture.depths}, the network {config.depths}")
        places = architecture.blocks()
        super().__init__(
            config,
            num_classes,
            lambda dim, drop_path: make_block(config, dim, drop_path, [next(places)]),
            lambda in_dim, dim: ConvPair(in_dim, dim, next(places).divisor or 1),
        )
        self.architecture = architecture

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or in_channels, H, W) → logits (B, num_classes, H, W)."""
        return self.run(image, self.architecture)


def stage_dims(config: ModelConfig) -> list[int]:
    """Channels of the encoder's stages."""
    return [config.embed_dim * 2**i for i in range(len(config.encoder_depths))]


def encoder_stages(config: ModelConfig, make_block: BlockFactory) -> nn.ModuleList:
    """The stages of the encoder, a PatchMerging after each but the last."""
    dims, rates = stage_dims(config), _rates(config.drop_path_rate, config.encoder_depths)
    return nn.ModuleList(
        Stage(
            [make_block(dim, rate) for rate in rates[i]],
            upsample=None,
            downsample=PatchMerging(dim) if dim < dims[-1] else None,
        )
        for i, dim in enumerate(dims)
    )


def make_block(
    config: ModelConfig, dim: int, drop_path: float, blocks: Sequence[Block] | None = None
) -> S3Block | SkippedBlock:
    """An S³ block that can be any of ``blocks``, and is no larger than they need; of the configuration's sizes if None.

    Sizes that a block leaves open are the configuration's.
    """
    present = [Block(1, 1)] if blocks is None else [block for block in blocks if block != SKIP and not block.divisor]
    if not present:
        return SkippedBlock()
    scanning = [block for block in present if block.scans]
    return S3Block(
        dim,
        drop_path=drop_path,
        d_state=max((block.d_state or config.d_state for block in scanning), default=config.d_state),
        expand=max(block.expand or config.expand for block in present),
        d_conv=config.d_conv,
        kernel=max(block.kernel or config.d_conv for block in present),
        scan=bool(scanning),
    )


def start_as_identity(network: nn.Module) -> None:
    """Sets the last projection of every S³ block to 0, so that what comes in goes out."""
    for module in network.modules():
        if isinstance(module, S3Block):
            nn.init.zeros_(module.self_attention.out_proj.weight)


def _conv_rates(config: ModelConfig) -> list[float]:
    """Drop path rates of the convolutional skeleton's blocks: rising over the encoder, falling over the decoder."""
    numbers = [depth - 1 for depth in config.depths]
    encoder, decoder = numbers[: config.levels], numbers[config.levels :]
    rising = _rates(config.drop_path_rate, encoder)
    return [rate for stage in (*rising, *_rates(config.drop_path_rate, decoder, falling=True)) for rate in stage]


def _rates(largest: float, depths: Sequence[int], *, falling: bool = False) -> list[list[float]]:
    """Drop path rates by stage: 0 … largest, linear over the blocks; reversed when falling."""
    rates = iter(np.linspace(largest if falling else 0, 0 if falling else largest, sum(depths)).tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


@torch.no_grad()
def init_linear(module: nn.Module) -> None:
    """The published initialisation of linear layers; for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
