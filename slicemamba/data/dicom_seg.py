"""DICOM SEG as the labels of a series: binary segments that do not overlap, on the grid of its slices.

Read by pydicom, written by highdicom.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage, generate_uid

from slicemamba import __version__
from slicemamba.data.dicom import files_of, grid_of, is_dicom, last_line, slices_of
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.errors import InputError
from slicemamba.files import writing

_MOST_SEGMENTS = 255
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Tags of type 2 of the modules of patient and study, which anonymised files lack."""
_SAME = 0.25
"""Largest distance of a frame from its slice, as a share of the smallest side of a voxel."""


def segmentation_in(path: Path) -> Path | None:
    """The file itself, or the one of a folder, if it is a DICOM SEG; None otherwise."""
    files = files_of(path) if path.is_dir() else [path] if is_dicom(path) else []
    if len(files) != 1:
        return None
    try:
        data: Any = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except Exception:  # pydicom raises nearly anything on a broken file, which is named when it is used
        return None
    return files[0] if data.get("SOPClassUID") == SegmentationStorage else None


def read_segmentation(path: Path, series: Path) -> NDArray[np.uint8]:
    """The number of the segment of each voxel of a series, (Z, H, W); 0 where there is none.

    Raises:
        BadFileError: a broken file, fractional or overlapping segments, or frames that lie on no slice of the series.
    """
    grid = grid_of(series)
    try:
        data: Any = pydicom.dcmread(path)
        kind, count = str(data.SegmentationType), int(data.NumberOfFrames)
        places = [_place(data, number) for number in range(count)]
        size = int(data.Rows), int(data.Columns)
        fits = size == grid.size and count <= _MOST_SEGMENTS * len(grid.origins)
        frames = np.asarray(pixel_array(data) if fits else 0, np.uint8).reshape((count, *size) if fits else (1, 1, 1))
    except Exception as error:  # pydicom raises nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({last_line(error)})") from error
    if kind != "BINARY":
        raise BadFileError(Fault.FORM, f"{short_path(path)} (segments of type {kind}; BINARY is read)")
    if not fits:
        sizes = f"{grid.size}, {path.name} is {size} in {count} frames"
        raise BadFileError(Fault.SIZE, f"{short_path(series)} is {sizes} (rows, columns)")
    labels = np.zeros((len(grid.origins), *grid.size), np.uint8)
    for frame, (segment, origin, axes) in zip(frames, places, strict=True):
        distances = np.linalg.norm(grid.origins - origin, axis=1)
        z = int(distances.argmin())
        if distances[z] > _SAME * min(grid.spacing) or np.abs(axes - grid.axes[:, :2].T.ravel()).max() > 1e-3:
            raise BadFileError(Fault.ORIENTATION, f"{short_path(path)} (a frame lies on no slice of {series.name})")
        if (labels[z][frame > 0] != 0).any():
            raise BadFileError(Fault.FORM, f"{short_path(path)} (segments that overlap)")
        labels[z][frame > 0] = segment
    return labels


def _place(data: Any, number: int) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Segment, origin and the six numbers of the axes of a frame."""
    own, shared = data.PerFrameFunctionalGroupsSequence[number], data.SharedFunctionalGroupsSequence[0]
    segment = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    told = own if "PlaneOrientationSequence" in own else shared
    axes = told.PlaneOrientationSequence[0].ImageOrientationPatient
    origin = own.PlanePositionSequence[0].ImagePositionPatient
    if not 0 < int(segment) <= _MOST_SEGMENTS:
        raise ValueError(f"segment {segment}; numbers of 1 to {_MOST_SEGMENTS} are read")
    return int(segment), np.asarray(origin, np.float64), np.asarray(axes, np.float64)


def write_segmentation(path: Path, labels: NDArray[np.uint8], series: Path, names: Sequence[str]) -> None:
    """Writes labels of a series as DICOM SEG: a binary segment for each class, the tags of patient and study as there.

    Args:
        path: of the file; its folder is made where absent.
        labels: (Z, H, W) classes on the slices of the series in the order of their positions; 0 is background.
        series: folder of the series.
        names: of the classes from 1 on.

    Raises:
        InputError: files of the series lack a tag that a DICOM SEG needs.
    """
    from highdicom.seg import Segmentation

    sources = [_source(file) for file in slices_of(series)]
    try:
        with warnings.catch_warnings(action="ignore"):  # where nothing is marked, and of names that are no two words
            made = Segmentation(
                source_images=sources,
                pixel_array=labels,
                segmentation_type="BINARY",
                segment_descriptions=[_segment(number, name) for number, name in enumerate(names, start=1)],
                series_instance_uid=generate_uid(),
                series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="SliceMamba NAS",
                manufacturer_model_name="slicemamba predict",
                software_versions=__version__,
                device_serial_number="none",
                content_label="SEGMENTATION",
            )
    except Exception as error:  # highdicom raises nearly anything where a tag is missing
        raise InputError(
            f"no DICOM SEG can be made for {short_path(series)}: {last_line(error)}; its NIfTI file is whole"
        ) from error
    made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for the names of classes
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as draft:
        made.save_as(draft)


def _source(path: Path) -> Any:
    """A slice without its pixels; tags that must be there, but may be empty, are so where it has none."""
    data = pydicom.dcmread(path, stop_before_pixels=True)
    for name in _MAY_BE_EMPTY:
        if name not in data:
            setattr(data, name, None)
    return data


def _segment(number: int, name: str) -> Any:
    """A description that claims no more than is known: a class of this name, by a network."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription

    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="SliceMamba", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
    )
