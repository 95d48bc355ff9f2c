"""Weights of VMamba (arXiv 2401.10166) and VM-UNet (arXiv 2402.02491) under this project's names.

Their four-way scan is ours with slices of 1×1, but for the order of its directions: rows, columns, rows reversed,
columns reversed there; rows, rows reversed, columns, columns reversed here. So every weight with a direction axis is
reordered. Files of SliceMamba itself have our order and, once ``read_state`` has taken off their prefix, our names;
their decoder under these tells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_ORDER = [0, 2, 1, 3]  # direction k here is direction _ORDER[k] there
_DIRECTIONAL = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
_PREFIXES = ("vmunet.", "backbone.")
_NAMES = (
    (re.compile(r"^patch_embed\.0\."), "patch_embed.proj."),
    (re.compile(r"^patch_embed\.2\."), "patch_embed.norm."),
    (re.compile(r"^(layers(?:_up)?\.\d+\.blocks\.\d+)\.norm\."), r"\1.ln_1."),
    (re.compile(r"^(layers(?:_up)?\.\d+\.blocks\.\d+)\.op\."), r"\1.self_attention."),
)


def is_four_way(state: Mapping[str, Tensor]) -> bool:
    """Whether a state has VMamba's order of directions: an encoder alone, or VM-UNet's names."""
    return not any(key.startswith("layers_up.") for key in state)


def our_name(key: str) -> str:
    """This project's name of a published weight; what it has no name for keeps its own."""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    for pattern, name in _NAMES:
        key = pattern.sub(name, key)
    return key


def our_layout(key: str, value: Tensor) -> Tensor:
    """A four-way weight in this project's layout.

    Args:
        key: any name of it. value: as published; 1×1 convolutions, as newer files have them, become matrices.
    """
    if key.rpartition(".")[2] in _DIRECTIONAL and value.shape[0] % 4 == 0:
        return value.reshape(4, -1, *value.shape[1:])[_ORDER].reshape(value.shape)
    is_pointwise = value.ndim == 4 and value.shape[2:] == (1, 1) and "conv2d" not in key
    return value.flatten(1) if is_pointwise else value
