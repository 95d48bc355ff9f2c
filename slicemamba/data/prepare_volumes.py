"""The Synapse layout from volumes of any kind: slices to train on, whole volumes to test on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import validate
from slicemamba.data.cases import read_channel_volumes
from slicemamba.data.convert import RawPair, Reading
from slicemamba.data.description import Description, write_description
from slicemamba.data.dicom import is_series
from slicemamba.data.dicom_seg import read_segmentation, segmentation_in
from slicemamba.data.downloads import Download
from slicemamba.data.findings import BadFileError, Fault, Finding, raise_findings, short_path
from slicemamba.data.pairs import picture_files
from slicemamba.data.parallel import Progress
from slicemamba.data.prepare import SUMMARY_FILE, Kind, Prepared, SplitPlan, assign_around, building, count_groups
from slicemamba.data.prepare_synapse import write_case, write_lists
from slicemamba.data.reading import read_mask_values
from slicemamba.data.splits import SPLITS
from slicemamba.data.strata import words_for
from slicemamba.data.volumes import Volume, check_orientation, read_volume, turned_to
from slicemamba.files import write_json

_MOST_LABEL = 255


def prepare_volumes(
    kind: Kind,
    found: Download,
    source: Path,
    destination: Path,
    plan: SplitPlan,
    reading: Reading,
    options_of: Callable[[list[float]], dict[str, Any]],
    on_progress: Progress | None = None,
) -> Prepared:
    """Writes ``train_npz``, ``search_npz``, ``test_vol_h5`` and their lists; values stay as they are, unless windowed.

    Volumes are dealt out whole, those of a patient together, and those that the download tests on are test. Spacing and
    affine are kept in the test volumes. Slices are those of the third axis of NIfTI.

    Args:
        kind, source: what was asked for, for the summary.
        found: volumes with their labels.
        destination: the new folder, which must not exist or be empty.
        plan: how volumes are dealt out.
        reading: channels, and the window of values that become 0 and 1.
        options_of: what ``dataset.yaml`` says of classes, by the values that labels hold.
        on_progress: called as (done, total) in volumes.

    Raises:
        InputError: too few volumes, faulty ones (all told together), or a destination in use.
    """
    names = [pair.name for pair in found.pairs]
    groups = plan.groups_of(names)
    labels = [_Labels.read(pair) for pair in found.pairs]
    words = _words(labels)
    splits = assign_around(groups, plan.fractions, plan.seed, found.is_test, words)
    counts = dict.fromkeys(SPLITS, 0)
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    values: set[float] = set()
    findings: list[Finding] = []
    with building(destination) as workplace:
        for done, (pair, split, own) in enumerate(zip(found.pairs, splits, labels, strict=True), start=1):
            try:
                volume = _read_case(pair, own, reading)
            except BadFileError as error:
                findings.append(error.finding)
                continue
            assert volume.label is not None
            values |= set(np.unique(volume.label).astype(float).tolist())
            slices = write_case(volume, pair.name, split, workplace)
            lists[split] += [pair.name] if split == "test" else slices
            counts[split] += len(slices)
            if on_progress is not None:
                on_progress(done, len(names))
        raise_findings(findings, subject=f"download in {source}")
        write_lists(workplace, lists)
        summary = Prepared(
            kind=kind,
            source=str(source),
            fractions=plan.fractions,
            seed=plan.seed,
            num_images={split: count for split, count in counts.items() if count},
            num_groups=count_groups(splits, groups),
            mask_values=sorted(values),
            from_dicom=any(pair.images[0].is_dir() for pair in found.pairs),
        )
        options = options_of(sorted(values)) | {
            "groups": _told_groups(names, groups),
            "strata": dict(zip(names, words, strict=True)),
        }
        write_description(workplace, validate(Description, options, source="dataset.yaml"))
        write_json(workplace / SUMMARY_FILE, summary.model_dump(mode="json"))
    return summary


@dataclass(frozen=True)
class _Labels:
    """Labels of a volume, compressed: they tell how volumes are dealt out before the first of these is written.

    Attributes:
        packed, shape: of the labels, (Z, H, W) uint8. affine: as of Volume.
        values: that they hold, besides 0. share: of the voxels that are marked.
        fault: why there are none.
    """

    packed: bytes = b""
    shape: tuple[int, ...] = (0, 0, 0)
    affine: NDArray[np.float64] | None = None
    values: tuple[int, ...] = ()
    share: float = 0.0
    fault: BadFileError | None = None

    @classmethod
    def read(cls, pair: RawPair) -> _Labels:
        try:
            stored = _read_labels(pair.masks[0], pair.images[0])
            labels = _labels(stored.image, pair.masks[0])
        except BadFileError as error:
            return cls(fault=error)
        values = tuple(int(value) for value in np.unique(labels) if value)
        packed = zlib.compress(np.ascontiguousarray(labels).data, level=1)
        return cls(packed, labels.shape, stored.affine, values, float((labels > 0).mean()))

    def unpack(self) -> NDArray[np.uint8]:
        """(Z, H, W); raises BadFileError where they could not be read."""
        if self.fault is not None:
            raise self.fault
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)


def _words(labels: list[_Labels]) -> list[str]:
    """What the labels of each volume hold, for ``strata.balance``; nothing of faulty ones, which are told later."""
    held = [[f"label{value}" for value in one.values] for one in labels]
    return words_for(held, [one.share for one in labels])


def _told_groups(names: list[str], groups: list[str]) -> dict[str, str]:
    """Volume → patient, where somebody told one."""
    return {name: group for name, group in zip(names, groups, strict=True) if not group.endswith(name)}


def _read_case(pair: RawPair, labels: _Labels, reading: Reading) -> Volume:
    """Image (Z, H, W) or (Z, H, W, C) with labels; raises BadFileError."""
    first, label = pair.images[0], pair.masks[0]
    volume = read_channel_volumes(pair.images, reading.window, reading.channels)
    stored = labels.unpack()
    if first.is_dir() and volume.affine is not None:
        stored = turned_to(stored, labels.affine, volume.affine)
    if stored.shape != volume.image.shape[:3]:
        sizes = f"{volume.image.shape[:3]}, {label.name} is {stored.shape}"
        raise BadFileError(Fault.SIZE, f"{short_path(first)} is {sizes} (slices, rows, columns)")
    if not first.is_dir():  # labels of DICOM have been turned to it
        check_orientation(first, label)
    return Volume(pair.name, volume.image, stored, volume.spacing, volume.affine)


def _read_labels(path: Path, image: Path) -> Volume:
    """A volume whose image (Z, H, W) is labels: a DICOM SEG of a series, a folder of pictures in the order of their
    names, one a slice, or any other volume.
    """
    segmentation = segmentation_in(path) if image.is_dir() else None
    if segmentation is not None:
        return Volume(path.name, read_segmentation(segmentation, image).astype(np.float32))
    if path.is_dir() and not is_series(path):
        slices = [read_mask_values(file) for file in picture_files(path)]
        if not slices or len({part.shape for part in slices}) > 1:
            raise BadFileError(Fault.SIZE, f"{short_path(path)} ({len(slices)} masks, of one size each expected)")
        return Volume(path.name, np.stack(slices).astype(np.float32))
    return read_volume(path)


def _labels(stored: NDArray[np.float32], path: Path) -> NDArray[np.uint8]:
    whole = np.rint(stored)
    if np.abs(stored - whole).max() > 1e-3 or whole.min() < 0 or whole.max() > _MOST_LABEL:
        raise BadFileError(
            Fault.LABELS,
            f"{short_path(path)} (values {stored.min():g} … {stored.max():g}; whole numbers up to {_MOST_LABEL})",
        )
    return whole.astype(np.uint8)
