"""Parameters and floating point operations of a network.

Slicing changes the order of the scan alone, so both are the same for every slicing of one network.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

import slicemamba.ops  # noqa: F401  (registers torch.ops.slicemamba)


def num_parameters(network: nn.Module) -> int:
    """Trainable weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


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


def count_flops(network: nn.Module, image_size: tuple[int, int]) -> int:
    """FLOPs of one image's forward pass in eval mode; shapes alone are followed, nothing is computed.

    Counted are convolutions, matrix products and the scan; norms, activations and sums are not, as is usual.

    Args:
        network: takes an image (1, 3, H, W) alone; stays as it is.
        image_size: (height, width) in pixels.
    """
    twin = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, 3, *image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(image)
    return int(counter.get_total_flops())
