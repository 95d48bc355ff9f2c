"""Cases of several files, one a channel, as nnU-Net names them: ``case_0000.png``, ``case_0001.png`` …"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.pairs import normal_name
from slicemamba.data.reading import image_of, read_image
from slicemamba.data.volumes import HDF5_EXTENSIONS, Volume, check_orientation, is_volume, read_volume, stored_channels

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def case_and_channel(path: Path) -> tuple[str, int]:
    """The case of a file and which of its channels it is; 0 where the name tells none."""
    match = _CHANNEL.fullmatch(normal_name(path))
    return (match[1], int(match[2])) if match else (normal_name(path), 0)


def join_channels(files: Sequence[Path], config: DataConfig) -> dict[Path, tuple[Path, ...]]:
    """Files as cases: the first file of each → all its files, in the order of their channels.

    Files of a folder are one case if their names say so, no more of them than the network has channels are there, and
    the first does not hold all channels itself. Channels that are colours are never files of their own.

    Args:
        files: pictures and volumes. config: of the network.
    """
    named: dict[tuple[Path, str, bool], dict[int, Path]] = defaultdict(dict)
    if config.scales_each and config.channels > 1:
        for path in files:
            if _CHANNEL.fullmatch(normal_name(path)) and not path.is_dir():
                case, channel = case_and_channel(path)
                named[path.parent, case, is_volume(path)].setdefault(channel, path)
    joined = {}
    for found in named.values():
        parts = tuple(found[number] for number in sorted(found))
        if max(found) < config.channels and not _holds_all(parts[0], config):
            joined.update(dict.fromkeys(parts, parts))
    cases = (joined.get(path, (path,)) for path in files)
    return {parts[0]: parts for parts in cases}


def check_complete(parts: Sequence[Path], channels: int) -> None:
    """Raises BadFileError unless the files of a case are all of its channels, or one file alone."""
    numbers = [case_and_channel(path)[1] for path in parts]
    if len(parts) > 1 and numbers != list(range(channels)):
        told = ", ".join(path.name for path in parts)
        raise BadFileError(Fault.CASE, f"{short_path(parts[0])} ({told}; {channels} channels expected)")


def read_channels(parts: Sequence[Path]) -> NDArray[np.uint8]:
    """Pictures of one channel each as one image (H, W, C); raises BadFileError, also where their sizes differ."""
    channels = [read_image(path, None, 1) for path in parts]
    other = next((i for i, channel in enumerate(channels) if channel.shape != channels[0].shape), None)
    if other is not None:
        raise BadFileError(Fault.CASE, f"{short_path(parts[0])} ({parts[other].name} has another size than it)")
    return np.concatenate(channels, axis=-1)


def read_channel_volumes(
    parts: Sequence[Path], window: tuple[float, float] | None = None, channels: int | None = None
) -> Volume:
    """As ``read_volume``, of one file, or of one a channel: the image is (Z, H, W, C), the geometry the first's.

    Raises:
        BadFileError: as ``read_volume``, or shapes or directions that differ.
    """
    first = read_volume(parts[0], window, channels)
    if len(parts) == 1:
        return first
    images = [first.image]
    for path in parts[1:]:
        images.append(read_volume(path, window).image)
        if images[-1].shape != first.image.shape:
            sizes = f"{first.image.shape}, {path.name} is {images[-1].shape}"
            raise BadFileError(Fault.SIZE, f"{short_path(parts[0])} is {sizes} (slices, rows, columns)")
        check_orientation(parts[0], path)
    return Volume(first.name, np.stack(images, axis=-1), first.label, first.spacing, first.affine)


def _holds_all(path: Path, config: DataConfig) -> bool:
    """Whether a file alone is an image of all channels; a broken one is none."""
    try:
        if not is_volume(path):
            return bool(image_of(path, config).shape[-1] == config.channels)
        return path.name.lower().endswith(HDF5_EXTENSIONS) or stored_channels(path) == config.channels
    except BadFileError:
        return False
