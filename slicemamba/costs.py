"""Operations, weights and training memory of a network in closed form, from its configuration alone, without torch.

``slicemamba.models.complexity`` counts the first two on the network itself, and tests hold the two together.
Letters: c channels of a block, d = expand·c inner channels, r = ⌈c/16⌉ rank of Δ, n states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from slicemamba.architecture import SKIP, Block
from slicemamba.config import ModelConfig

_DIRECTIONS = 4
_FLOAT = 4  # bytes
_OWN_SIZE = Block(1, 1)  # a scanning block of the model's own size


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs whose blocks have the model's own sizes; slicing changes none of it.

    Attributes:
        flops: of one image's forward pass, a multiply-add counted as two, as ``complexity.count_flops`` counts.
        params: trainable weights. block_params: those of them in S³ blocks, which a supernet has once a choice.
        saved_bytes: what training keeps of one image's forward pass for the backward pass, in float32: about that.
    """

    flops: int
    params: int
    block_params: int
    saved_bytes: int


def network_cost(model: ModelConfig, num_classes: int, image_size: tuple[int, int]) -> NetworkCost:
    """The cost of a network on images of (height, width) pixels."""
    height, width = (math.ceil(side / model.stride) * model.stride for side in image_size)
    if model.skeleton == "conv":
        return _conv_cost(model, num_classes, height * width)
    stages = len(model.encoder_depths)
    dim = model.embed_dim
    tokens = height // 4 * (width // 4)
    # Embedding: 4×4 convolution and LayerNorm. Head: Linear to 4·dim, LayerNorm of dim/4, 1×1 convolution.
    patch = 16 * model.in_channels
    flops = 2 * tokens * patch * dim + 2 * tokens * dim * 4 * dim + 2 * height * width * (dim // 4) * num_classes
    params = (patch * dim + 3 * dim) + (4 * dim * dim + 2 * (dim // 4)) + (dim // 4 * num_classes + num_classes)
    saved = model.in_channels * height * width + tokens * (2 * dim + 2 * dim) + 2 * height * width * (dim // 4)
    for stage in range(stages - 1):
        c, places = dim * 2**stage, tokens // 4**stage
        # Merging: LayerNorm of 4c, Linear 4c → 2c on a quarter of the map. Expanding: Linear 2c → 4c, LayerNorm of c.
        flops += 2 * (places // 4) * (4 * c) * (2 * c) + 2 * (places // 4) * (2 * c) * (4 * c)
        params += (4 * c) * (2 * c) + 8 * c + (2 * c) * (4 * c) + 2 * c
        saved += 5 * places * c
    blocks = 0
    for stage, depth in _stages(model):
        c, places = dim * 2**stage, tokens // 4**stage
        flops += depth * places * block_flops(model, c, _OWN_SIZE)
        blocks += depth * _block_params(model, c)
        saved += depth * places * _block_saved(model, c)
    return NetworkCost(flops=flops, params=params + blocks, block_params=blocks, saved_bytes=_FLOAT * saved)


def _conv_cost(model: ModelConfig, num_classes: int, pixels: int) -> NetworkCost:
    """Of the convolutional skeleton, its convolutions at full width."""
    dims = [model.embed_dim * 2**level for level in range(model.levels)]
    flops, params = 2 * pixels * dims[0] * num_classes, (dims[0] + 1) * num_classes
    blocks, saved = 0, model.in_channels * pixels
    for stage, (level, depth) in enumerate(zip(model.stage_levels, model.depths, strict=True)):
        c, places = dims[level], pixels // 4**level
        expanding = stage >= model.levels
        before = 2 * c if expanding else (model.in_channels if stage == 0 else dims[level - 1])
        convolutions = 9 * before * c + 9 * c * c + (before * c if before != c else 0)
        flops += 2 * places * convolutions + (depth - 1) * places * block_flops(model, c, _OWN_SIZE)
        params += convolutions + 4 * c
        # Kept: what each convolution and norm gets; before the stage, what is pooled or put together.
        saved += places * (4 * c + 2 * before) + (depth - 1) * places * _block_saved(model, c)
        blocks += (depth - 1) * _block_params(model, c)
        if expanding:  # Linear 2c → 4c on a quarter of the map
            flops += 2 * (places // 4) * (2 * c) * (4 * c)
            params += 8 * c * c
    supervised = [dims[level] for level in (1, 2)[: model.levels - 2]] if model.deep_supervision else []
    params += sum((dim + 1) * num_classes for dim in supervised)
    return NetworkCost(flops=flops, params=params + blocks, block_params=blocks, saved_bytes=_FLOAT * saved)


def _stages(model: ModelConfig) -> Iterator[tuple[int, int]]:
    """(level, blocks) of all stages; level 0 has the largest maps."""
    yield from enumerate(model.encoder_depths)
    yield from enumerate(reversed(model.decoder_depths))


def _sizes(model: ModelConfig, c: int) -> tuple[int, int, int]:
    """(d, r, n)."""
    return model.expand * c, math.ceil(c / 16), model.d_state


def block_flops(model: ModelConfig, c: int, block: Block) -> int:
    """Of one place of the map: two projections, depthwise convolution, and the scan where the block has one.

    Args:
        c: channels of the block. block: what it takes, none of it a width of convolutions.
    """
    if block == SKIP:
        return 0
    r, n, d = math.ceil(c / 16), block.d_state or model.d_state, (block.expand or model.expand) * c
    scan = _DIRECTIONS * (2 * d * (r + 2 * n) + 2 * r * d + 9 * d * n) if block.scans else 0
    return 2 * c * 2 * d + 2 * (block.kernel or model.d_conv) ** 2 * d + scan + 2 * d * c


def _block_params(model: ModelConfig, c: int) -> int:
    d, r, n = _sizes(model, c)
    scan = (r + 2 * n) * d + d * r + d + d * n + d  # x_proj, dt_proj with its bias, A, D
    return 2 * c + 2 * c * d + (model.d_conv**2 + 1) * d + _DIRECTIONS * scan + 2 * d + d * c


def _block_saved(model: ModelConfig, c: int) -> int:
    """Values that are kept of one place of the map."""
    d, _, _ = _sizes(model, c)
    return 3 * c + 9 * d
