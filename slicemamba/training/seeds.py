"""Generators of all random choices, each seeded by the configuration's seed and the place of the choice."""

from __future__ import annotations

import numpy as np
import torch

_STREAMS = {"order": 0, "augment": 1, "drop_path": 2, "path": 3, "mixup": 4, "windows": 5}


def generator_for(seed: int, stream: str, *position: int) -> np.random.Generator:
    """The generator of one kind of choice at one position (an epoch, or a step and a rank)."""
    return np.random.default_rng([seed, _STREAMS[stream], *position])


def torch_generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """As ``generator_for``, for torch on the CPU."""
    return torch.Generator().manual_seed(torch_seed(seed, stream, *position))


def torch_seed(seed: int, stream: str, *position: int) -> int:
    """A seed for torch at one position."""
    return int(generator_for(seed, stream, *position).integers(2**63 - 1))
