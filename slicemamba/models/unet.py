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

from slicemamba.architecture import Architecture, SliceSize
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block
from slicemamba.models.layers import PatchEmbed, PatchExpand, PatchMerging, fit_image

BlockFactory = Callable[[int, float], nn.Module]  # (channels, drop path rate) → module with forward(x, slice_size)


class Stage(nn.Module):
    """Blocks of one width, with a PatchExpand before them (decoder) or a PatchMerging after them (encoder)."""

    def __init__(self, blocks: list[nn.Module], upsample: nn.Module | None, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.upsample = upsample
        self.downsample = downsample

    def forward(self, x: Tensor, slice_sizes: Sequence[SliceSize]) -> Tensor:
        if self.upsample is not None:
            x = self.upsample(x)
        for block, slice_size in zip(self.blocks, slice_sizes, strict=True):
            x = block(x, slice_size)
        return x if self.downsample is None else self.downsample(x)


class SliceUNet(nn.Module):
    """The U-shape, for any kind of block. ``SliceMambaUNet`` and ``Supernet`` differ only in the blocks they put in.

    Args:
        config: widths, depths and block settings.
        num_classes: channels of the logits; 1 for binary segmentation.
        make_block: makes the block for a width and a drop path rate.
    """

    def __init__(self, config: ModelConfig, num_classes: int, make_block: BlockFactory) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        dims = stage_dims(config)
        self.patch_embed = PatchEmbed(dims[0])
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
        self.final_up = PatchExpand(dims[0], 4)
        self.final_conv = nn.Conv2d(dims[0] // 4, num_classes, 1)
        self.apply(init_linear)

    @property
    def stride(self) -> int:
        """Height and width are padded to a multiple of this inside ``run``."""
        return int(4 * 2 ** (len(self.layers) - 1))

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks in forward order, as ``Architecture.blocks`` gives their slice sizes."""
        for stage in (*self.layers, *self.layers_up):
            yield from stage.blocks

    def run(self, image: Tensor, architecture: Architecture) -> Tensor:
        """The forward pass with the given slicing.

        Args:
            image: (B, 1 or 3, H, W), any H and W; edges are repeated up to a multiple of ``stride`` and cropped again.
            architecture: slice sizes of all blocks.

        Returns:
            Logits (B, num_classes, H, W).

        Raises:
            InputError: the architecture's depths are not the network's, or the image has not 1 or 3 channels.
        """
        if architecture.depths != self.config.depths:
            raise InputError(
                f"architecture must have stages of depths {self.config.depths}, as the network; "
                f"got {architecture.depths}"
            )
        x = self.patch_embed(fit_image(image, self.stride))
        encoder, decoder = architecture.stages[: len(self.layers)], architecture.stages[len(self.layers) :]
        skips = []
        for stage, slice_sizes in zip(self.layers, encoder, strict=True):
            skips.append(x)
            x = stage(x, slice_sizes)
        for i, (stage, slice_sizes) in enumerate(zip(self.layers_up, decoder, strict=True)):
            x = stage(x if i == 0 else x + skips[-i], slice_sizes)
        logits: Tensor = self.final_conv(self.final_up(x).permute(0, 3, 1, 2))
        return logits[..., : image.shape[2], : image.shape[3]].contiguous()


class SliceMambaUNet(SliceUNet):
    """A network with one fixed slicing, ``architecture``; 35.80 M parameters at the published widths."""

    def __init__(self, config: ModelConfig, num_classes: int, architecture: Architecture) -> None:
        super().__init__(config, num_classes, block_factory(config))
        if architecture.depths != config.depths:
            raise InputError(f"architecture has stages of depths {architecture.depths}, the network {config.depths}")
        self.architecture = architecture

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) → logits (B, num_classes, H, W)."""
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


def block_factory(config: ModelConfig) -> Callable[[int, float], S3Block]:
    """Makes S³ blocks of the configuration's settings."""

    def make(dim: int, drop_path: float) -> S3Block:
        return S3Block(dim, drop_path=drop_path, d_state=config.d_state, expand=config.expand, d_conv=config.d_conv)

    return make


def _rates(largest: float, depths: Sequence[int], *, falling: bool = False) -> list[list[float]]:
    """Drop path rates by stage: 0 … largest, linear over the blocks; reversed when falling."""
    rates = iter(np.linspace(largest if falling else 0, 0 if falling else largest, sum(depths)).tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


@torch.no_grad()
def init_linear(module: nn.Module) -> None:
    """The published initialisation of linear layers; for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
