"""Which data sets are known by name, and where they lie."""

from __future__ import annotations

import os
from pathlib import Path

from slicemamba.config import DATA_NAME, DataConfig, ModelConfig
from slicemamba.data.description import describe
from slicemamba.data.pairs import has_split
from slicemamba.data.polyp import is_polyp
from slicemamba.data.synapse import is_synapse
from slicemamba.errors import InputError
from slicemamba.files import from_here

MAX_CLASSES = 255  # masks are kept in 8 bits, of which one value is for ignored pixels
SYNTHETIC = "synthetic"
DATA_ROOT_VARIABLE = "SLICEMAMBA_DATA"


def data_root_from_environment() -> Path | None:
    """The folder of named data sets, from SLICEMAMBA_DATA; None when that is not set."""
    value = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(value).expanduser() if value else None


def list_datasets(data_root: Path | None = None) -> list[str]:
    """Names that a config may use without ``root``: ``synthetic``, and subfolders in a known layout (docs/data.md).

    Args:
        data_root: folder of data sets; SLICEMAMBA_DATA when None.
    """
    root = data_root or data_root_from_environment()
    if root is None or not root.is_dir():
        return [SYNTHETIC]
    return [SYNTHETIC, *sorted(path.name for path in root.iterdir() if _is_a_set(path))]


def _is_a_set(folder: Path) -> bool:
    """A folder of images whose name a config may hold."""
    if not folder.is_dir() or not DATA_NAME.fullmatch(folder.name):
        return False
    return has_split(folder, "train/images") or is_polyp(folder) or is_synapse(folder)


def resolve_root(config: DataConfig, data_root: Path | None = None) -> DataConfig:
    """The config with an absolute ``root``, which holds on other processes too; synthetic data needs none.

    What the folder's ``dataset.yaml`` says of the classes stands in for options left at their defaults.

    Args:
        config: as given by the user.
        data_root: folder in which a name without ``root`` is looked up; SLICEMAMBA_DATA when None.

    Raises:
        InputError: the name is unknown (the known ones are listed), a relative root leads nowhere, the
            options do not fit together, or ``dataset.yaml`` is wrong.
    """
    _check_options(config)
    if config.name == SYNTHETIC:
        return config
    root = config.root or _look_up(config.name, data_root or data_root_from_environment())
    resolved = describe(config.model_copy(update={"root": from_here(root, "data.root")}))
    _check_options(resolved)
    return resolved


def fit_model(model: ModelConfig, data: DataConfig) -> ModelConfig:
    """The network's configuration for these data: it takes as many channels as their images have.

    Args:
        model: whose ``in_channels`` is the default, or that number.
        data: as ``resolve_root`` gives it.

    Raises:
        InputError: ``in_channels`` is another number.
    """
    if model.in_channels not in (ModelConfig().in_channels, data.channels):
        raise InputError(
            f"model.in_channels is {model.in_channels}, but the images have {data.channels} channels (data.channels); "
            "leave model.in_channels out",
            pointer="/model/in_channels",
        )
    return model.model_copy(update={"in_channels": data.channels})


def _look_up(name: str, data_root: Path | None) -> Path:
    known = list_datasets(data_root)
    if data_root is not None and name in known:
        return data_root / name
    where = f"in {data_root}" if data_root else f"as {DATA_ROOT_VARIABLE} is not set"
    raise InputError(
        f"data set {name!r} is not known {where}; known: {', '.join(known)}. "
        "Use one of these, or give the folder of your own set as root",
        pointer="/data/name",
    )


def _check_options(config: DataConfig) -> None:
    if config.num_classes > MAX_CLASSES:
        raise InputError(
            f"num_classes must be at most {MAX_CLASSES}; got {config.num_classes}", pointer="/data/num_classes"
        )
    if config.name != SYNTHETIC:
        return
    if config.root is not None:
        raise InputError(
            f"name {SYNTHETIC!r} is the built-in data set and has no root; "
            f"give the data set in {config.root} another data.name, or remove root",
            pointer="/data/name",
        )
    if config.channels != 3:
        raise InputError(
            f"the synthetic set has images of 3 channels; got channels {config.channels}", pointer="/data/channels"
        )
    if config.num_classes != 1:
        raise InputError(
            f"the synthetic set has binary masks and needs num_classes 1; got {config.num_classes}",
            pointer="/data/num_classes",
        )
