"""Parameters and floating point operations of a network.

Slicing changes the order of the scan alone, so both are the same for every slicing whose blocks have the same sizes.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

import slicemamba.ops  # noqa: F401  (registers torch.ops.slicemamba)
from slicemamba.architecture import Architecture, Block
from slicemamba.config import ModelConfig
from slicemamba.models.unet import SliceMambaUNet


def num_parameters(network: nn.Module) -> int:
    """Trainable weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def cost(
    config: ModelConfig, num_classes: int, architecture: Architecture, image_size: tuple[int, int]
) -> dict[str, float]:
    """``params`` and ``flops`` of one image of (height, width) pixels, of the network with this architecture."""
    sizes = tuple(block._replace(rows=1, columns=1) if block.scans else block for block in architecture.blocks())
    return dict(_cost(config, num_classes, sizes, image_size))


@lru_cache(maxsize=4096)  # all slicings of blocks of the same sizes cost the same
def _cost(
    config: ModelConfig, num_classes: int, blocks: tuple[Block, ...], image_size: tuple[int, int]
) -> dict[str, float]:
    with torch.device("meta"):
        network = SliceMambaUNet(config, num_classes, Architecture.from_blocks(blocks, config.depths))
    return {
        "params": float(num_parameters(network)),
        "flops": float(count_flops(network, image_size, config.in_channels)),
    }


@register_flop_formula(torch.ops.slicemamba.slice_scan)  # type: ignore[untyped-decorator]
def slice_scan_flops(
    x_shape: tuple[int, int, int, int],
    x_proj_shape: tuple[int, int, int],
    dt_proj_shape: tuple[int, int, int],
    *_: Any,
    **__: Any,
) -> int:
    """FLOPs of one slice scan, a multiply-add counted as two.

    For each direction and position: the projections to Δ, B and C, the expansion of Δ, and 9 operations a channel and
    state for the recurrence, as is usual for the selective scan (VMamba, arXiv 2401.10166, appendix).
    """
    batch, height, width, d_inner = x_shape
    directions, projected = x_proj_shape[:2]
    dt_rank = dt_proj_shape[2]
    d_state = (projected - dt_rank) // 2
    a_position = 2 * d_inner * projected + 2 * dt_rank * d_inner + 9 * d_inner * d_state
    return directions * batch * height * width * a_position


@register_flop_formula(torch.ops.slicemamba.depthwise_silu)  # type: ignore[untyped-decorator]
def depthwise_silu_flops(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    """FLOPs of a depthwise convolution, as torch counts its own: a multiply-add for each weight and place."""
    return 2 * math.prod(x_shape) * math.prod(weight_shape[2:])


def count_flops(network: nn.Module, image_size: tuple[int, int], channels: int = 3) -> int:
    """FLOPs of one image's forward pass in eval mode; shapes alone are followed, nothing is computed.

    Counted are convolutions, matrix products and the scan; norms, activations and sums are not, as is usual.

    Args:
        network: takes an image (1, channels, H, W) alone; stays as it is.
        image_size: (height, width) in pixels. channels: of the image.
    """
    twin = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, channels, *image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(image)
    return int(counter.get_total_flops())
