"""DICOM by pydicom: single frames as pictures, folders of a series as volumes.

Nothing of a patient's tags is kept: pixels, spacing and position alone are handed on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicemamba.data.findings import BadFileError, Fault, short_path

EXTENSIONS = (".dcm", ".dicom", ".ima")
_LOOKED_AT = 4
_DIRECTORY = "DICOMDIR"  # of a disc: no image
MOST_VOXELS = 1 << 30
"""Of a volume; more are refused before memory is taken: 4 GiB as they are read."""
TELL = "DICOM: what is written here carries no tags of the patients, but names of files and folders are kept"

TELL_SEG = "DICOM: *_seg.dcm carries the tags of patient and study, as it belongs to them; other files carry none"

logging.getLogger("pydicom").setLevel(logging.ERROR)  # remarks on values of tags that are not used here
_PLACE, _AXES = "ImagePositionPatient", "ImageOrientationPatient"
_NUMBERS = {"Rows": 1, "Columns": 1, "PixelSpacing": 2, _PLACE: 3, _AXES: 6, "SliceThickness": 1, "InstanceNumber": 1}
"""Tags of a slice, and how many numbers they hold."""


def is_dicom(path: Path) -> bool:
    """By the extension; where there is none, or it is the last number of an identifier, by the file's first bytes."""
    suffix = path.suffix.lower()
    unnamed = (not suffix or suffix[1:].isdecimal()) and path.name.upper() != _DIRECTORY
    return suffix in EXTENSIONS or (unnamed and _begins_as_dicom(path))


def _begins_as_dicom(path: Path) -> bool:
    """With a preamble of any 128 bytes and ``DICM``."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_frame(path: Path) -> NDArray[Any]:
    """One frame, (H, W) in rescaled values of which larger is brighter, or (H, W, 3) uint8 RGB.

    Raises:
        BadFileError: broken or truncated, too large, without pixels, of several frames, or compressed in a way that is
            not read.
    """
    values, photometric = _decode(path)
    return values.max() + values.min() - values.astype(np.float64) if photometric == "MONOCHROME1" else values


def _decode(path: Path) -> tuple[NDArray[Any], str]:
    """As ``read_frame``, but with the values of MONOCHROME1 as they are; and the photometric interpretation."""
    import pydicom  # here and below: every worker reads images, hardly any of them DICOM, and this takes half a second
    from pydicom.pixels.processing import apply_color_lut, apply_rescale
    from pydicom.pixels.utils import pixel_array

    try:
        data: Any = pydicom.dcmread(path)
        frames, photometric = int(data.get("NumberOfFrames") or 1), str(data.PhotometricInterpretation)
        size = int(data.Columns), int(data.Rows)
        fits = size[0] * size[1] <= 2 * (Image.MAX_IMAGE_PIXELS or size[0] * size[1])
        stored: NDArray[Any] = pixel_array(data) if frames == 1 and fits else np.empty(0, np.uint8)
        if photometric == "PALETTE COLOR" and stored.size:
            stored = apply_color_lut(stored, data)
        elif photometric.startswith("MONOCHROME"):
            stored = apply_rescale(stored, data)
    except (RuntimeError, NotImplementedError) as error:  # a transfer syntax without a decoder
        raise BadFileError(Fault.FORM, f"{short_path(path)} ({last_line(error)})") from error
    except Exception as error:  # pydicom raises nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({last_line(error)})") from error
    if frames > 1:
        raise BadFileError(Fault.FORM, f"{short_path(path)} (holds {frames} frames; one is expected)")
    if not fits:
        raise BadFileError(Fault.LARGE, f"{short_path(path)} ({size[0]}×{size[1]} pixels)")
    if stored.ndim == 3 and stored.dtype != np.uint8:  # colours of a palette have 16 bits
        stored = (stored >> 8).astype(np.uint8)
    return np.asarray(stored), photometric


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files of which the first belong to one series: others are pictures of their own."""
    if not folder.is_dir():
        return False
    series = [uid for path in files_of(folder)[:_LOOKED_AT] if (uid := _series_of(path)) is not None]
    return len(set(series)) < len(series)


def _series_of(path: Path) -> str | None:
    """None where the file cannot be read or does not tell."""
    import pydicom

    try:
        data: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(data.SeriesInstanceUID)
    except Exception:  # pydicom raises nearly anything on a broken file, which is named when it is used
        return None


def files_of(folder: Path) -> list[Path]:
    """DICOM files in a folder, without hidden ones."""
    return sorted(path for path in folder.iterdir() if is_dicom(path) and path.is_file() and path.name[0] != ".")


class Series(NamedTuple):
    """A series in the order of its slices' positions.

    Attributes:
        values: (Z, H, W) rescaled, or (Z, H, W, 3) RGB.
        spacing: in mm along (z, y, x).
        affine: (4, 4) from voxel indices (x, y, z) to mm to the right, anterior and superior, as NIfTI has it.
    """

    values: NDArray[Any]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]


def read_series(folder: Path) -> Series:
    """The one series of a folder.

    Read by pydicom: ITK's reader ends the process on some damaged files.

    Raises:
        BadFileError: no series or several, files that are broken or missing between others, or too many voxels.
    """
    files, grid = _grid(folder)
    frames = [_decode(path)[0] for path in files]
    if len({frame.shape for frame in frames}) > 1:
        raise BadFileError(Fault.SERIES, f"{short_path(folder)} (slices in grey and in colour)")
    z, y, x = grid.spacing
    affine = np.eye(4)
    affine[:3, :3] = grid.axes * (x, y, z)
    affine[:3, 3] = grid.origins[0]
    return Series(np.stack(frames), grid.spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


class Grid(NamedTuple):
    """Where the slices of a series lie, in mm to the left, posterior and superior.

    Attributes:
        size: (rows, columns). origins: (Z, 3) of each slice's first pixel.
        axes: (3, 3), to where x, y and z rise, as columns. spacing: along (z, y, x).
    """

    size: tuple[int, int]
    origins: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float, float]


def slices_of(folder: Path) -> list[Path]:
    """The files of the one series of a folder in the order of their slices; raises BadFileError as ``read_series``."""
    return _grid(folder)[0]


def grid_of(folder: Path) -> Grid:
    """Of the one series of a folder, from the headers; raises BadFileError as ``read_series``."""
    return _grid(folder)[1]


def _grid(folder: Path) -> tuple[list[Path], Grid]:
    """The files in the order of their slices, too."""
    headers = {path: _header(path) for path in files_of(folder)}
    found = {str(data.get("SeriesInstanceUID")) for data in headers.values()}
    sizes = {(int(data.Rows), int(data.Columns)) for data in headers.values()}
    if len(found) != 1 or len(sizes) != 1:
        told = f"{len(found)} series of {len(sizes)} sizes in {len(headers)} files"
        raise BadFileError(Fault.SERIES, f"{short_path(folder)} ({told})")
    (rows, columns), count = sizes.pop(), len(headers)
    if rows * columns * count > MOST_VOXELS:
        raise BadFileError(Fault.LARGE, f"{short_path(folder)} ({columns}×{rows}×{count} voxels)")
    files, places, axes = _in_order(headers)
    steps = np.diff(places)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if len(steps) and (np.abs(steps - usual) > 0.1 * usual + 1e-3).any():
        gap = f"slices lie {steps.min():g} to {steps.max():g} mm apart: one is missing or there twice"
        raise BadFileError(Fault.SERIES, f"{short_path(folder)} ({gap})")
    first = headers[files[0]]
    y, x = (float(value) for value in first.get("PixelSpacing") or (1.0, 1.0))
    z = usual or float(first.get("SliceThickness") or 1.0)
    origins = np.array([headers[path].get(_PLACE) or (0.0, 0.0, 0.0) for path in files], np.float64)
    return files, Grid((rows, columns), origins, axes, (z, y, x))


def _header(path: Path) -> Any:
    """All but the pixels; raises BadFileError."""
    import pydicom

    try:
        data: Any = pydicom.dcmread(path, stop_before_pixels=True)
        wrong = [f"{name} is {data.get(name)}" for name, count in _NUMBERS.items() if not _holds(data.get(name), count)]
        wrong += [] if data.get("Rows") and data.get("Columns") else ["Rows or Columns are not there"]
    except Exception as error:  # pydicom raises nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({last_line(error)})") from error
    if wrong:
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({wrong[0]})")
    return data


def _holds(value: Any, count: int) -> bool:
    """Whether a tag that is there has so many finite numbers."""
    numbers = [] if value is None else [float(part) for part in (value if count > 1 else [value])]
    return value is None or (len(numbers) == count and bool(np.isfinite(numbers).all()))


def _in_order(headers: dict[Path, Any]) -> tuple[list[Path], list[float], NDArray[np.float64]]:
    """Files by position along the normal of the slices, these positions in mm, and the axes x, y and z as columns.

    Where a file does not tell its position, files go by their instance numbers and lie 0 mm apart.
    """
    first = next(iter(headers.values()))
    if not all(data.get(_PLACE) and data.get(_AXES) for data in headers.values()):
        files = sorted(headers, key=lambda path: int(headers[path].get("InstanceNumber") or 0))
        return files, [0.0] * len(files), np.eye(3)
    row, column = np.reshape([float(value) for value in first.get(_AXES)], (2, 3))
    normal = np.cross(row, column)
    place = {path: float(np.dot(normal, [float(part) for part in data.get(_PLACE)])) for path, data in headers.items()}
    files = sorted(headers, key=place.__getitem__)
    return files, [place[path] for path in files], np.stack([row, column, normal], axis=1)


def last_line(error: Exception) -> str:
    """What an error of a library comes to, or its name."""
    return (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
