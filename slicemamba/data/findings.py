"""What can be wrong with a data set, and how the faults of many files become one readable error."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from slicemamba.errors import InputError, name_some


class Fault(Enum):
    """A kind of fault: what it is, and what to do about it."""

    NO_IMAGES = ("split without images", "put the split's images into its images folder")
    NO_MASK = (
        "image without a mask",
        "name the mask like the image, with or without one of the endings _segmentation, _mask, -mask, _seg, _label, "
        "_labels, _gt or _HE, or remove the image",
    )
    NO_IMAGE = ("mask without an image", "add the image, correct the mask's name or remove the mask")
    TWO_MASKS = ("image with several masks", "keep one mask per image")
    TWO_IMAGES = ("several images with the same name", "rename or remove all but one, as masks are matched by name")
    BROKEN = ("file that cannot be read as a picture", "replace it with an intact file")
    HEADER = ("NIfTI file with a damaged header", "write the file anew with a valid unit and affine")
    FORM = (
        "file in a form that is not read",
        "it may well be intact: save it as PNG, or as TIFF or NIfTI of one page with one or three channels",
    )
    LARGE = ("picture that is too large to be decoded safely", "cut it into tiles, or shrink it")
    DEPTH = (
        "PNG in colour with 16 bits a channel, of which half would be lost",
        "save it as TIFF, which is read in full, or stretch its values to 8 bits",
    )
    ALPHA = (
        "image whose alpha channel is not the same everywhere and would be lost",
        "remove the channel if it only tells transparency (mogrify -alpha off), or take it as a fourth channel: "
        "data.channels 4 (`slicemamba data prepare --channels 4`)",
    )
    CHANNELS = (
        "image with another number of channels than data.channels",
        "set data.channels to that of the images (`slicemamba data prepare --channels N`), which all of them must have",
    )
    ALPHA_MASK = (
        "mask that is drawn in its alpha channel, over a single colour",
        "save the alpha channel as the mask (mogrify -alpha extract)",
    )
    SERIES = ("folder that is not one whole DICOM series", "give each series a folder of its own, with all its slices")
    CASE = ("case with missing or surplus channels", "give one file for each channel, _0000, _0001, …")
    DEAD_LINK = ("link to a file that does not exist", "mount or copy its target, or remove the link")
    NO_VOLUME = (
        "file that does not hold a volume",
        "give NIfTI (.nii, .nii.gz) of three dimensions, or HDF5 (.h5) with the data set 'image' of (Z, H, W)",
    )
    NO_SLICE = ("file that does not hold a slice", "give the two arrays 'image' and 'label' of (H, W)")
    SIZE = (
        "mask of a different size than its image",
        "export both at the same size (`slicemamba data prepare --resize-masks` enlarges or shrinks masks of the same "
        "aspect), after `mogrify -auto-orient` where an image has an EXIF orientation",
    )
    ORIENTATION = (
        "mask with a different orientation than its image",
        "convert both to the same orientation (nibabel.as_closest_canonical), or correct the wrong header",
    )
    COLOUR_MASK = ("mask in colour", "save masks with one channel that holds the class of each pixel")
    COLOURS = ("mask with colours that no class has", "add them to --colours, or correct the mask")
    NOT_BINARY = (
        "mask that is not binary",
        "threshold it and save it as PNG with the values 0 and 255 (JPEG and smooth scaling add values between; "
        "`slicemamba data prepare` fixes that), or, if these are class labels, set data.num_classes (3 for labels 0, 1 "
        "and 2) and, unless they are 0, 1, 2, …, data.label_map; `data prepare` keeps labels with --labels, "
        "and marks whatever is not 0 with --marked",
    )
    LABELS = (
        "mask with labels out of range",
        "use the labels 0 (background) to num_classes - 1, or correct num_classes",
    )
    NOT_IN_MAP = ("mask with values that label_map does not name", "add them to label_map, or correct the mask")
    LISTED = ("file that a list names but the folder lacks", "add the file, or take its name out of the list")
    ALL_EMPTY = ("split in which no mask marks any pixel", "check that the masks were exported correctly")
    SHARED = ("image that is in two splits", "keep it in one split, or scores will be too good")
    SHARED_PATIENT = (
        "patient (or volume, or video) that is in two splits",
        "keep all images of one in one split, or correct patient_pattern or the groups of dataset.yaml",
    )


@dataclass(frozen=True)
class Finding:
    """One fault of one file, said in a few words that start with the file's name."""

    fault: Fault
    item: str


class BadFileError(InputError):
    """A file that cannot be used as it is; carries the finding, so that a check can collect many."""

    def __init__(self, fault: Fault, item: str) -> None:
        what, mend = fault.value
        super().__init__(f"{what}: {item}; {mend}", pointer="/data")
        self.finding = Finding(fault, item)
        self.brief, self.mend = f"{what}: {item}", mend


def short_path(path: Path) -> str:
    """``train/images/a.jpg``: the part of a path that tells files of one data set apart; can always be printed."""
    return os.fsencode(Path(*path.parts[-3:])).decode(errors="replace")


def describe_findings(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind of fault, with the number of files and the names of the first five."""
    by_fault: dict[Fault, list[str]] = defaultdict(list)
    for finding in findings:
        by_fault[finding.fault].append(finding.item)
    order = list(Fault)
    lines = []
    for fault in sorted(by_fault, key=order.index):
        what, mend = fault.value
        items = by_fault[fault]
        lines.append(f"{len(items)} × {what}: {name_some(items)}. Fix: {mend}.")
    return lines


def raise_findings(findings: list[Finding], *, subject: str) -> None:
    """Raises one InputError for all findings; returns when there are none."""
    if findings:
        count = f"{len(findings)} fault" + ("s" if len(findings) > 1 else "")
        raise InputError(f"{subject} has {count}", pointer="/data", details=describe_findings(findings))
