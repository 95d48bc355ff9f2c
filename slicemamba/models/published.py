"""Weights of VMamba (arXiv 2401.10166), VM-UNet (arXiv 2402.02491) and SliceMamba as published, under our names.

Their four-way scan is ours with slices of 1×1, but for the order of its directions: rows, columns, rows reversed,
columns reversed there; rows, rows reversed, columns, columns reversed here. So every weight with a direction axis is
reordered. SliceMamba has our names and our order. VM-UNet has the same names, so that only the prefixes of the two,
``vmunet.`` and ``smunet.``, tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from slicemamba.errors import InputError

PUBLISHED_CHOICES = ("2x2", "2x4", "4x2", "4x4")
"""The slice sizes of the published supernet, in the order of its weights."""

_ORDER = [0, 2, 1, 3]  # direction k here is direction _ORDER[k] there
_DIRECTIONAL = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
_OURS, _PREFIXES = "smunet.", ("vmunet.", "backbone.")
_CHOICE = re.compile(r"^layers(_up)?\.\d+\.blocks\.\d+\.\d+\.")
_NAMES = (
    (re.compile(r"^patch_embed\.0\."), "patch_embed.proj."),
    (re.compile(r"^patch_embed\.2\."), "patch_embed.norm."),
    (re.compile(r"^(layers(?:_up)?\.\d+\.blocks\.\d+)\.norm\."), r"\1.ln_1."),
    (re.compile(r"^(layers(?:_up)?\.\d+\.blocks\.\d+)\.op\."), r"\1.self_attention."),
    (re.compile(r"\.x_proj\.weight$"), ".x_proj_weight"),
    (re.compile(r"\.dt_projs\.weight$"), ".dt_projs_weight"),
)
_LINEAR_MERGING = ((".downsample.1.", ".downsample.norm."), (".downsample.2.", ".downsample.reduction."))


def is_four_way(state: Mapping[str, Tensor]) -> bool:
    """Whether a state has VMamba's order of directions.

    Args:
        state: as in the file, prefixes included.

    Raises:
        InputError: it may be VM-UNet's as well as SliceMamba's.
    """
    if any(key.startswith(_OURS) for key in state) or any(_CHOICE.match(key) for key in state):
        return False
    if any(key.startswith("layers_up.") for key in state):
        raise InputError(
            "the file may be of VM-UNet or of SliceMamba: without a prefix both have the same names, but they number "
            "the directions of the scan differently. Say which it is by the prefix, vmunet. or smunet.: "
            "torch.save({'vmunet.' + key: value for key, value in state.items()}, path)",
            pointer="/init",
        )
    return True


def check_variant(state: Mapping[str, Tensor]) -> None:
    """Raises InputError, with its name, for a variant of VMamba whose blocks or stem compute something else."""
    for key, value in state.items():
        twin = state.get(key.replace("in_proj.weight", "out_proj.weight"))
        has_gate = not key.endswith("in_proj.weight") or twin is None or value.shape[0] == 2 * twin.shape[1]
        for found, variant in (
            (not has_gate, "without a gate (forward types with _noz)"),
            (".mlp." in key, "whose blocks have an MLP (mlp_ratio above 0)"),
            (".patch_embed.5." in f".{key}", "with the stem of two convolutions (patch embedding v2)"),
        ):
            if found:
                raise InputError(
                    f"the file is of a VMamba {variant}, which this network has no place for: {key}; take one without",
                    pointer="/init",
                )


def our_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """This project's name of each published weight; what it has no name for keeps its own."""
    merging = [] if any(".downsample.3." in key for key in state) else _LINEAR_MERGING  # 3: convolutional merging
    names = {}
    for key in state:
        name = key
        for prefix in (_OURS, *_PREFIXES):
            name = name.removeprefix(prefix)
        for pattern, ours in _NAMES:
            name = pattern.sub(ours, name)
        for theirs, ours in merging:
            name = name.replace(theirs, ours)
        names[key] = name
    return names


def our_layout(name: str, value: Tensor) -> Tensor:
    """A four-way weight in this project's layout.

    Args:
        name: this project's name of it.
        value: as published; 1×1 convolutions in place of linear layers, as newer files have them, become matrices, and
            projections of all directions below each other (4·J, D) become (4, J, D).
    """
    kind = name.rpartition(".")[2]
    if kind in _DIRECTIONAL and value.shape[0] % 4 == 0:
        if kind in ("x_proj_weight", "dt_projs_weight") and value.ndim == 2:
            value = value.view(4, -1, value.shape[1])
        return value.reshape(4, -1, *value.shape[1:])[_ORDER].reshape(value.shape)
    is_linear = not name.startswith("final_conv.") and ".conv2d." not in name
    return value.flatten(1) if is_linear and value.ndim == 4 and value.shape[2:] == (1, 1) else value
