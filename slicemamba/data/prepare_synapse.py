"""The Synapse layout from NIfTI volumes: slices to train on, whole volumes to test on, lists of both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from slicemamba.data.description import Description, write_description
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.parallel import Progress
from slicemamba.data.prepare import (
    SUMMARY_FILE,
    Prepared,
    SplitPlan,
    assign_around,
    assign_splits,
    building,
    count_by_split,
)
from slicemamba.data.splits import SPLITS
from slicemamba.data.volumes import Volume, check_orientation, is_nifti, read_volume
from slicemamba.errors import InputError, name_some
from slicemamba.files import write_json, write_text

WINDOW = (-125.0, 275.0)
"""Hounsfield units that become 0 and 1."""

ORGANS = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}
"""Label of the download → class: aorta, gallbladder, left and right kidney, liver, pancreas, spleen, stomach (1…8).

The five organs that the download marks beside these become background, as in the published files.
"""
CLASSES = (
    "background",
    "aorta",
    "gallbladder",
    "left kidney",
    "right kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
)
NUM_CLASSES = len(CLASSES)
PUBLISHED_TEST_CASES = frozenset(f"case{number:04d}" for number in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38))
"""The twelve volumes on which TransUNet, VM-UNet and SliceMamba report."""


@dataclass(frozen=True)
class _Case:
    name: str
    image: Path
    label: Path


def prepare_synapse(
    source: Path,
    destination: Path,
    plan: SplitPlan,
    *,
    published_test: bool = False,
    keep_labels: bool = False,
    on_progress: Progress | None = None,
) -> Prepared:
    """Writes ``train_npz``, ``search_npz``, ``test_vol_h5`` and ``lists/lists_Synapse``.

    Values are clipped to [-125, 275] Hounsfield units and scaled to 0…1. Cases are dealt out whole; those of val lie in
    ``train_npz`` and are told by their list.

    Args:
        source: folder with ``img0001.nii.gz`` … and ``label0001.nii.gz`` …, at any depth.
        destination: the new folder, which must not exist or be empty.
        plan: how cases are dealt out.
        published_test: test on the twelve published cases; the others are dealt out by the remaining fractions.
        keep_labels: labels are classes 0…8 already; else the download's 13 organs become the 8 of the paper.
        on_progress: called as (done, total) in volumes.

    Raises:
        InputError: no volumes, too few, a faulty one, or a destination in use.
    """
    cases, left_out = _find_cases(source)
    splits = _assign(cases, plan, published_test)
    counts = dict.fromkeys(SPLITS, 0)
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    with building(destination) as workplace:
        for done, (case, split) in enumerate(zip(cases, splits, strict=True), start=1):
            names = write_case(_read_case(case, keep_labels), case.name, split, workplace)
            lists[split] += [case.name] if split == "test" else names
            counts[split] += len(names)
            if on_progress is not None:
                on_progress(done, len(cases))
        write_lists(workplace, lists)
        summary = Prepared(
            kind="synapse",
            source=str(source),
            fractions=plan.fractions,
            seed=plan.seed,
            num_images={split: count for split, count in counts.items() if count},
            num_groups=count_by_split(splits),
            num_left_out=left_out,
        )
        write_description(
            workplace, Description(num_classes=NUM_CLASSES, class_names=CLASSES, groups=dict(plan.groups or {}))
        )
        write_json(workplace / SUMMARY_FILE, summary.model_dump(mode="json"))
    return summary


def _find_cases(source: Path) -> tuple[list[_Case], int]:
    """Cases with labels, by number, and how many images have none (the download's own test part)."""
    images, labels = (_by_number(source, prefix) for prefix in ("img", "label"))
    found = sorted(images.keys() & labels.keys())
    if not found:
        raise InputError(f"{source} holds no img0001.nii.gz with a label0001.nii.gz; give the folder of the download")
    return [_Case(f"case{number:04d}", images[number], labels[number]) for number in found], len(images) - len(found)


def _by_number(source: Path, prefix: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(source.rglob(f"{prefix}*")) if source.is_dir() else []:
        match = re.fullmatch(rf"{prefix}(\d+)\.nii(\.gz)?", path.name)
        if match is None or not is_nifti(path):
            continue
        if int(match.group(1)) in found:
            raise InputError(f"{source} holds {path.name} twice: {found[int(match.group(1))]} and {path}; keep one")
        found[int(match.group(1))] = path
    return found


def _assign(cases: list[_Case], plan: SplitPlan, published_test: bool) -> list[str]:
    names = [case.name for case in cases]
    groups = plan.groups_of(names)
    if not published_test:
        return assign_splits(groups, plan.fractions, plan.seed)
    missing = sorted(PUBLISHED_TEST_CASES - set(names))
    if missing:
        raise InputError(
            f"the published test cases are not all there: {name_some(missing)}; split by fractions instead"
        )
    return assign_around(groups, plan.fractions, plan.seed, [name in PUBLISHED_TEST_CASES for name in names])


def _read_case(case: _Case, keep_labels: bool) -> Volume:
    """Image of 0…1 and classes of 0…8; raises BadFileError."""
    volume, stored = read_volume(case.image, WINDOW), read_volume(case.label).image
    if stored.shape != volume.image.shape:
        shapes = f"{volume.image.shape}, {case.label.name} is {stored.shape}"
        raise BadFileError(Fault.SIZE, f"{short_path(case.image)} is {shapes} (slices, rows, columns)")
    check_orientation(case.image, case.label)
    highest = NUM_CLASSES - 1 if keep_labels else 13
    if (stored != np.rint(stored)).any() or stored.min() < 0 or stored.max() > highest:
        raise BadFileError(
            Fault.LABELS, f"{short_path(case.label)} (values {stored.min():g} … {stored.max():g}, at most {highest})"
        )
    label = stored.astype(np.uint8)
    return Volume(case.name, volume.image, label if keep_labels else _organs(label), volume.spacing, volume.affine)


def _organs(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[list(ORGANS)] = list(ORGANS.values())
    classes: NDArray[np.uint8] = table[label]
    return classes


def write_case(volume: Volume, name: str, split: str, workplace: Path) -> list[str]:
    """Writes a volume with labels to where its split lies; the names of its slices."""
    assert volume.label is not None
    names = [f"{name}_slice{index:03d}" for index in range(len(volume.image))]
    if split == "test":
        (workplace / "test_vol_h5").mkdir(exist_ok=True)
        with h5py.File(workplace / "test_vol_h5" / f"{name}.npy.h5", "w") as file:
            file.create_dataset("image", data=volume.image, compression="gzip", chunks=(1, *volume.image.shape[1:]))
            file.create_dataset("label", data=volume.label, compression="gzip", chunks=(1, *volume.label.shape[1:]))
            file.attrs["spacing"], file.attrs["affine"] = volume.spacing, volume.affine
        return names
    folder = workplace / ("search_npz" if split == "search" else "train_npz")
    folder.mkdir(exist_ok=True)
    for slice_name, image, label in zip(names, volume.image, volume.label, strict=True):
        np.savez_compressed(folder / f"{slice_name}.npz", image=image, label=label)
    return names


def write_lists(workplace: Path, lists: dict[str, list[str]]) -> None:
    """Which slices and volumes belong to each split."""
    folder = workplace / "lists" / "lists_Synapse"
    folder.mkdir(parents=True)
    for split, names in lists.items():
        if names:
            name = "test_vol" if split == "test" else split
            write_text(folder / f"{name}.txt", "".join(f"{line}\n" for line in names))
