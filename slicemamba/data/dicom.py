"""DICOM: single frames as pictures (pydicom), folders of a series as volumes (SimpleITK).

Nothing of a patient's tags is kept: pixels, spacing and position alone are handed on.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut, apply_rescale
from pydicom.pixels.utils import pixel_array

from slicemamba.data.findings import BadFileError, Fault, short_path

EXTENSIONS = (".dcm", ".dicom", ".ima")
_LOOKED_AT = 4
TELL = "DICOM: what is written here carries no tags of the patients, but names of files and folders are kept"

logging.getLogger("pydicom").setLevel(logging.ERROR)  # remarks on values of tags that are not used here
_ITK: Any = SimpleITK  # which bears no types
_ITK.ProcessObject.SetGlobalWarningDisplay(False)


def is_dicom(path: Path) -> bool:
    """By the extension."""
    return path.suffix.lower() in EXTENSIONS


def read_frame(path: Path) -> NDArray[Any]:
    """One frame, (H, W) in rescaled values of which larger is brighter, or (H, W, 3) uint8 RGB.

    Raises:
        BadFileError: broken or truncated, without pixels, of several frames, or compressed in a way that is not read.
    """
    try:
        data: Any = pydicom.dcmread(path)
        frames, photometric = int(data.get("NumberOfFrames") or 1), str(data.PhotometricInterpretation)
        stored: NDArray[Any] = pixel_array(data) if frames == 1 else np.empty(0, np.uint8)
        if photometric == "PALETTE COLOR" and frames == 1:
            stored = apply_color_lut(stored, data)
        elif photometric.startswith("MONOCHROME"):
            stored = apply_rescale(stored, data)
    except (RuntimeError, NotImplementedError) as error:  # a transfer syntax without a decoder
        raise BadFileError(Fault.FORM, f"{short_path(path)} ({_line(error)})") from error
    except Exception as error:  # pydicom raises nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_line(error)})") from error
    if frames > 1:
        raise BadFileError(Fault.FORM, f"{short_path(path)} (holds {frames} frames; one is expected)")
    if photometric == "MONOCHROME1":
        stored = stored.max() + stored.min() - stored.astype(np.float64)
    if stored.ndim == 3 and stored.dtype != np.uint8:  # colours of a palette have 16 bits
        stored = (stored >> 8).astype(np.uint8)
    return np.asarray(stored)


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files of which the first belong to one series: others are pictures of their own."""
    if not folder.is_dir():
        return False
    series = [uid for path in files_of(folder)[:_LOOKED_AT] if (uid := _series_of(path)) is not None]
    return len(set(series)) < len(series)


def _series_of(path: Path) -> str | None:
    """None where the file cannot be read or does not tell."""
    try:
        data: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(data.SeriesInstanceUID)
    except Exception:  # pydicom raises nearly anything on a broken file, which is named when it is used
        return None


def files_of(folder: Path) -> list[Path]:
    """DICOM files in a folder, without hidden ones."""
    return sorted(path for path in folder.iterdir() if is_dicom(path) and path.is_file() and path.name[0] != ".")


def read_series(folder: Path) -> tuple[NDArray[Any], Any]:
    """The one series of a folder: rescaled values (Z, H, W) in the order of their positions, and ITK's image.

    Raises:
        BadFileError: no series or several, or files that are broken or missing between others.
    """
    names = _ITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(names) != 1:
        broken = _broken(files_of(folder))
        raise broken or BadFileError(
            Fault.SERIES, f"{short_path(folder)} ({len(names)} series in {len(files_of(folder))} files)"
        )
    reader = _ITK.ImageSeriesReader()
    files = _ITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), names[0])
    reader.SetFileNames(files)
    broken = _broken(files_of(folder)) if len(files) < len(files_of(folder)) else None
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _broken([Path(file) for file in files]) or BadFileError(
            Fault.BROKEN, f"{short_path(folder)} ({_line(error)})"
        ) from error
    gap = _gap([Path(file) for file in files])
    if broken is not None or gap is not None:
        raise broken or BadFileError(Fault.SERIES, f"{short_path(folder)} ({gap})")
    return _ITK.GetArrayFromImage(image), image


def _broken(files: list[Path]) -> BadFileError | None:
    """The first file that cannot be read alone."""
    for path in files:
        try:
            read_frame(path)
        except BadFileError as error:
            return error
    return None


def _gap(files: list[Path]) -> str | None:
    """What is wrong with the distances of slices in their order: a slice that is missing or there twice."""
    places = []
    for path in files:
        data: Any = pydicom.dcmread(path, stop_before_pixels=True)
        if "ImagePositionPatient" not in data or "ImageOrientationPatient" not in data:
            return None
        row, column = np.reshape([float(value) for value in data.ImageOrientationPatient], (2, 3))
        normal = np.cross(row, column)
        places.append(float(np.dot(normal, [float(value) for value in data.ImagePositionPatient])))
    steps = np.abs(np.diff(places))
    usual = float(np.median(steps)) if len(steps) else 0.0
    if len(steps) and (np.abs(steps - usual) > 0.1 * usual + 1e-3).any():
        return f"slices lie {steps.min():g} to {steps.max():g} mm apart: one is missing or there twice"
    return None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
