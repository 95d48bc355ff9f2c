"""Decoding of image and mask files, with every check that needs the pixels.

Arrays are rows first: images (H, W, 3) uint8, masks (H, W) uint8 holding class indices. Pixels are taken as they are
stored: an EXIF orientation is not applied, as masks are drawn on the stored pixels and carry no such tag.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.isic import Pair

Pixels = NDArray[np.uint8]
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow modes of one channel with more than 8 bits."""

MAX_CLASSES = 256  # masks are kept in 8 bits
BINARY_WHITES = (1, 255, 65535)


def read_image(path: Path) -> Pixels:
    """Decodes an image as RGB, (H, W, 3) uint8.

    Grey and palette pictures become RGB and an alpha channel is dropped. Pictures of 16 or 32 bits are stretched from
    their own lowest and highest value to 0…255, as the network's input is stretched so anyway.

    Raises:
        BadFileError: the file is missing, broken or no picture of a known format.
    """
    picture = _decode(path)
    if picture.mode in WIDE_MODES:
        return np.repeat(_stretch(np.asarray(picture), path)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def read_mask(path: Path, num_classes: int) -> Pixels:
    """Decodes a mask as class indices, (H, W) uint8.

    With ``num_classes`` 1 the file holds 0 and one of 255 or 1 (65535 with 16 bits), and the result 0 and 1.
    Otherwise file and result hold labels 0…num_classes - 1.

    Raises:
        BadFileError: unreadable, in colour, not binary or with labels out of range.
    """
    values = _mask_values(_decode(path), path, binary=num_classes == 1)
    return _as_binary(values, path) if num_classes == 1 else _as_labels(values, path, num_classes)


def read_pair(pair: Pair, num_classes: int) -> tuple[Pixels, Pixels]:
    """Image (H, W, 3) and mask (H, W) of a pair; raises BadFileError, also when their sizes differ."""
    image, mask = read_image(pair.image), read_mask(pair.mask, num_classes)
    check_same_size(pair, image, mask)
    return image, mask


def check_same_size(pair: Pair, image: Pixels, mask: Pixels) -> None:
    """Raises BadFileError naming both files and sizes (width×height) when image and mask differ in size."""
    if image.shape[:2] != mask.shape:
        sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (image, mask)]
        raise BadFileError(Fault.SIZE, f"{short_path(pair.image)} is {sizes[0]}, {pair.mask.name} is {sizes[1]}")


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear resize to ``size`` = (height, width), antialiased when shrinking."""
    return _resize(image, size, Image.Resampling.BILINEAR)


def resize_mask(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """Nearest-neighbour resize to ``size`` = (height, width): no label appears that was not there."""
    return _resize(mask, size, Image.Resampling.NEAREST)


def _resize(array: Pixels, size: tuple[int, int], method: Image.Resampling) -> Pixels:
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method))


def _decode(path: Path) -> Image.Image:
    """Opens and fully decodes a file: a header alone does not show that a picture is intact."""
    try:
        with Image.open(path) as picture:  # closes the file; the pixels stay
            frames = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
            picture.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = str(error).replace(str(path), path.name).splitlines() or [type(error).__name__]
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({reason[0]})") from error
    if frames > 1:
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} (holds {frames} pages; one is expected)")
    return picture


def _stretch(values: NDArray[Any], path: Path) -> Pixels:
    exact = values.astype(np.float64)
    low, high = exact.min(), exact.max()
    if not np.isfinite([low, high]).all():
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} (holds values that are not finite)")
    scale = 255 / (high - low) if high > low else 0.0
    stretched: Pixels = np.rint((exact - low) * scale).astype(np.uint8)
    return stretched


def _mask_values(picture: Image.Image, path: Path, *, binary: bool) -> NDArray[Any]:
    """One value a pixel as stored, (H, W)."""
    if picture.mode == "P":
        return _palette_values(picture) if binary else np.asarray(picture)
    if picture.mode in ("1", "L", *WIDE_MODES):
        return np.asarray(picture)
    channels = np.asarray(picture.convert("L") if picture.mode == "LA" else picture.convert("RGB"))
    if channels.ndim == 2:
        return channels
    if (channels != channels[..., :1]).any():
        raise BadFileError(Fault.COLOUR_MASK, short_path(path))
    grey: NDArray[Any] = channels[..., 0]
    return grey


def _palette_values(picture: Image.Image) -> NDArray[Any]:
    """Grey values when the palette is black and white, whose order is arbitrary; the indices otherwise."""
    indices = np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    black_and_white = bool(((colours == 0) | (colours == 255)).all() and (colours == colours[..., :1]).all())
    return colours[..., 0] if black_and_white else indices


def _as_binary(values: NDArray[Any], path: Path) -> Pixels:
    seen = _distinct(values)
    if not any(set(seen) <= {0, white} for white in BINARY_WHITES):
        raise BadFileError(Fault.NOT_BINARY, f"{short_path(path)} (values {_some(seen)})")
    marked: Pixels = (values != 0).astype(np.uint8)
    return marked


def _as_labels(values: NDArray[Any], path: Path, num_classes: int) -> Pixels:
    seen = _distinct(values)
    if min(seen) < 0 or max(seen) >= num_classes or any(value != int(value) for value in seen):
        raise BadFileError(Fault.LABELS, f"{short_path(path)} (values {_some(seen)}, num_classes {num_classes})")
    labels: Pixels = values.astype(np.uint8)
    return labels


def _distinct(values: NDArray[Any]) -> list[float]:
    if values.dtype == np.uint8:  # counting is many times faster than sorting
        return [float(value) for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256))]
    distinct: list[float] = np.unique(values).tolist()
    return distinct


def _some(values: list[float], limit: int = 6) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:limit])
    return shown if len(values) <= limit else f"{shown} … {values[-1]:g}, {len(values)} in all"
