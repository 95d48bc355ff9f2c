"""Single slices of the Synapse files, and how slices are brought to the network's size and back.

Images are (H, W) float32, masks (H, W). Sizes are (height, width).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy
from numpy.typing import NDArray

from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.volumes import apply_window

MOST_BYTES = 1 << 30
"""Of a slice's file when it is unpacked; more is refused before memory is taken."""


def read_slice(
    path: Path, index: int | None, window: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Image (H, W) or (H, W, C) float32 and mask (H, W) as stored.

    Args:
        path: ``.npz`` with ``image`` and ``label``, or HDF5 with both as (Z, H, W), the image perhaps (Z, H, W, C).
        index: number of the slice in an HDF5 volume; None for ``.npz``.
        window: as for ``read_volume``.

    Raises:
        BadFileError: missing, broken or without these arrays, or values that are not finite.
    """
    where = short_path(path) if index is None else f"{short_path(path)} slice {index}"
    image, label = _read(path, index, where)
    for array, what, axes in ((image, "image", (2, 3)), (label, "label", (2,))):
        if array.ndim not in axes or array.dtype.kind not in "uifb" or 0 in array.shape:
            raise BadFileError(Fault.NO_SLICE, f"{where} ('{what}' has shape {array.shape}, type {array.dtype})")
    if not np.isfinite(image).all():
        raise BadFileError(Fault.BROKEN, f"{where} (holds values that are not finite)")
    return (image.astype(np.float32) if window is None else apply_window(image, window)), label


def count_slices(path: Path) -> int:
    """Z of an HDF5 volume; raises BadFileError when it is missing or broken or holds no ``image`` and ``label``."""
    try:
        with h5py.File(path) as file:
            shapes = [file[name].shape for name in ("image", "label")]
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError … on broken files
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({error})") from error
    if len(shapes[0]) not in (3, 4) or len(shapes[1]) != 3:
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (shapes {shapes})")
    return int(shapes[0][0])


def resize_slice(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Cubic spline resize, as published for Synapse. It overshoots a little at sharp edges."""
    resized: NDArray[np.float32] = image.astype(np.float32)
    if image.shape != size:
        resized = scipy.ndimage.zoom(resized, [new / old for new, old in zip(size, image.shape, strict=True)], order=3)
    return resized


def resize_slice_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest-neighbour resize on the same grid as ``resize_slice``: no label appears that was not there."""
    if labels.shape == size:
        return labels
    resized: NDArray[np.uint8] = scipy.ndimage.zoom(
        labels, [new / old for new, old in zip(size, labels.shape, strict=True)], order=0
    )
    return resized


def _check_size(file: Any, where: str) -> None:
    size = sum(part.file_size for part in file.zip.infolist())
    if size > MOST_BYTES:
        raise BadFileError(Fault.LARGE, f"{where} ({size / 1e9:.1f} GB)")


def _read_npz(path: Path, where: str, attempts: int = 5) -> tuple[NDArray[Any], NDArray[Any]]:
    """The slice's arrays. Python 3.11 now and then stops one of several threads that read array headers at once with
    SystemError (python/cpython#106905), which says nothing of the file: it is read again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_size(file, where)
            return np.asarray(file["image"]), np.asarray(file["label"])
    except SystemError:
        if attempts == 1:
            raise
        return _read_npz(path, where, attempts - 1)


def _read(path: Path, index: int | None, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        if index is None:
            return _read_npz(path, where)
        with h5py.File(path) as volume:
            return np.asarray(volume["image"][index]), np.asarray(volume["label"][index])
    except BadFileError:
        raise
    except KeyError as error:
        raise BadFileError(Fault.NO_SLICE, f"{where} ({error.args[0]})") from error
    except Exception as error:  # numpy, zipfile, zlib and h5py raise nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{where} ({error})") from error
