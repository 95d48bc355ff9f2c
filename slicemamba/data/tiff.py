"""TIFF that Pillow refuses or reads in part: colour declared as grey (CVC-ClinicDB) or of 16 bits, many channels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from slicemamba.data.findings import BadFileError, Fault, short_path

tifffile.logger().setLevel(logging.CRITICAL)  # what it complains of comes as an error of ours

EXTENSIONS = (".tif", ".tiff")
MAX_CHANNELS = 16
_SAMPLES = 277
"""TIFF's tag of samples a pixel, of which Pillow keeps those of its mode."""

DEEP = ";16"
"""In Pillow's name of the stored form: 16 bits a channel, of which its colour modes keep 8."""


def read_unusual(path: Path, pages_are_channels: bool = False) -> NDArray[Any] | None:
    """Values (H, W) or (H, W, C) as stored; None for whatever Pillow reads in full, and for files that are missing.

    Args:
        path: any file.
        pages_are_channels: grey pages are the channels of one image; without, several pages are refused, as they may be
            slices or frames as well.

    Raises:
        BadFileError: broken, of several pages, or in a form that is not read.
    """
    if path.suffix.lower() not in EXTENSIONS or not path.is_file() or not _is_unusual(path):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            pages, axes, shape = len(file.pages), str(page.axes), tuple(page.shape)
            _check_size(page.imagewidth, page.imagelength, path)
            if pages_are_channels and 1 < pages <= MAX_CHANNELS and axes == "YX":
                values = np.stack([each.asarray() for each in file.pages], axis=-1)
                pages, axes, shape = 1, "YXS", values.shape
            else:
                values = np.asarray(page.asarray()).reshape(shape)
    except BadFileError:
        raise
    except ValueError as error:  # a compression whose decoder is not installed, or a damaged strip
        raise BadFileError(Fault.FORM, f"{short_path(path)} ({_line(error)})") from error
    except Exception as error:  # tifffile raises nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_line(error)})") from error
    if pages > 1:
        raise BadFileError(Fault.FORM, f"{short_path(path)} (holds {pages} pages{_advice(pages)})")
    if 0 in shape or len(shape) != len(axes):
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} (axes {axes} of {shape})")
    if axes == "SYX":
        values, axes = np.moveaxis(values, 0, -1), "YXS"
    if axes == "YX" or (axes == "YXS" and values.shape[2] <= MAX_CHANNELS):
        return values
    raise BadFileError(
        Fault.FORM, f"{short_path(path)} (axes {axes} of {shape}; up to {MAX_CHANNELS} channels expected)"
    )


def _advice(pages: int) -> str:
    if pages > MAX_CHANNELS:
        return "; one is expected"
    each = " and data.per_channel: true" if pages == 3 else ""
    return f"; one is expected, or set data.channels: {pages}{each} if they are the channels of one image"


def _is_unusual(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            deep = picture.mode in ("RGB", "RGBA", "LA") and any(DEEP in str(tile.args) for tile in picture.tile)
            samples = getattr(picture, "tag_v2", {}).get(_SAMPLES, 1)
            return deep or samples > len(picture.getbands()) or getattr(picture, "n_frames", 1) > 1
    except Image.DecompressionBombError:  # told by whoever decodes it
        return False
    except Exception:  # Pillow does not know the form, or the file is broken
        return True


def _check_size(width: int, height: int, path: Path) -> None:
    """As Pillow does it, before memory is taken. Raises BadFileError."""
    if width * height > 2 * (Image.MAX_IMAGE_PIXELS or width * height):
        raise BadFileError(Fault.LARGE, f"{short_path(path)} ({width}×{height} pixels)")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
