"""Inputs for the scan tests, and the comparison that they share."""

from __future__ import annotations

import torch
from torch import Tensor

SLICE_SIZES = [(1, 1), (2, 2), (2, 4), (4, 2), (4, 4), (2, 8), (8, 4), (3, 5)]
NAMES = ("x", "x_proj_weight", "dt_proj_weight", "dt_proj_bias", "A_log", "D")


def slice_scan_inputs(
    batch: int = 2,
    height: int = 7,
    width: int = 11,
    channels: int = 20,
    states: int = 5,
    rank: int = 3,
    seed: int = 0,
) -> list[Tensor]:
    """Float32 inputs in the order of ``slice_scan``, of the sizes that a trained network shows."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return [
        normal(batch, height, width, channels),
        normal(4, rank + 2 * states, channels) * channels**-0.5,
        normal(4, channels, rank) * rank**-0.5,
        normal(4, channels) - 2,
        torch.log(torch.arange(1, states + 1.0)).repeat(4 * channels, 1) + 0.1 * normal(4 * channels, states),
        normal(4 * channels),
    ]


def leaves(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies that want gradients."""
    return [tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_() for tensor in tensors]


def relative(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))
