"""``train|val|search|test/{images,masks}`` from folders of images and masks, as ISIC, Kvasir and ClinicDB come in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicemamba.config import validate
from slicemamba.data.catalog import MAX_CLASSES
from slicemamba.data.convert import IGNORED_GREY, Converted, Reading, convert_all
from slicemamba.data.description import Description, write_description
from slicemamba.data.findings import Finding, raise_findings
from slicemamba.data.isic import ACCEPTED, MASK_SUFFIXES, Pair, dead_links, match_files, picture_files
from slicemamba.data.nnunet import read_labels
from slicemamba.data.parallel import Progress
from slicemamba.data.prepare import (
    SUMMARY_FILE,
    Kind,
    Prepared,
    SplitPlan,
    assign_splits,
    building,
    count_by_split,
    count_groups,
    join_twins,
    stored_groups,
)
from slicemamba.data.volumes import base_name
from slicemamba.errors import InputError, name_some

VOID = 255
Names = tuple[str, str]
FOLDERS: dict[Kind, list[Names]] = {
    "isic": [("images", "masks")],
    "kvasir": [("images", "masks")],
    "clinicdb": [("Original", "Ground Truth")],
    "folder": [("images", "masks"), ("imagesTr", "labelsTr")],
}
"""Names of the folders of images and masks in each download; upper and lower case do not matter. nnU-Net's are last."""


def prepare_pictures(
    kind: Kind,
    source: Path,
    destination: Path,
    plan: SplitPlan,
    *,
    folders: tuple[str | None, str | None] = (None, None),
    reading: Reading = Reading(),
    class_names: tuple[str, ...] | None = None,
    on_progress: Progress | None = None,
) -> Prepared:
    """Deals the images and masks of a download out to split folders.

    Images are copied as they are. Masks become PNG of 0 and 255, cut at half of their scale, whatever JPEG or smooth
    scaling made of them; or keep their values, for class labels. Equal images come into one split.

    Args:
        kind: which download; ``isic`` takes all images below ``source`` and their ``…_segmentation.png``.
        source: folder of the download.
        destination: the new folder, which must not exist or be empty.
        plan: how images are dealt out.
        folders: names of the folders of images and masks below ``source``; None is the usual one.
        reading: how files are understood.
        class_names: names of the classes, background first, for ``dataset.yaml``. An nnU-Net raw data set tells names
            and labels itself, unless ``reading`` says otherwise.
        on_progress: called as (done, total) in images.

    Raises:
        InputError: no images, names that do not match, broken files (all told together), or a destination in use.
    """
    told_labels = None
    if (
        kind == "folder"
        and reading.threshold
        and not reading.any_value
        and source.is_dir()
        and not _is_one(source, folders)
    ):
        told_labels = read_labels(_folders(kind, source, folders)[0])
        binary = told_labels is None or (told_labels.num_classes, told_labels.label_map) == (1, None)
        reading = replace(reading, threshold=binary)
    pairs = _find(kind, source, folders)
    with building(destination) as workplace:
        converted = convert_all(pairs, workplace / "all", reading, source, on_progress)
        names = [pair.name for pair in pairs]
        told = plan.groups_of(names)
        groups = join_twins(told, [one.digest for one in converted])
        splits = assign_splits(groups, plan.fractions, plan.seed)
        _deal_out(workplace, converted, splits)
        worst = max(range(len(pairs)), key=lambda index: converted[index].share)
        summary = Prepared(
            kind=kind,
            source=str(source),
            fractions=plan.fractions,
            seed=plan.seed,
            num_images=count_by_split(splits),
            num_groups=count_groups(splits, groups),
            num_intermediate_pixels=sum(one.intermediate for one in converted),
            most_intermediate=(pairs[worst].mask.name, converted[worst].share) if converted[worst].share else None,
            mask_values=sorted(set().union(*(one.values for one in converted))),
        )
        assert summary.mask_values is not None
        description = {} if told_labels is None else told_labels.model_dump(exclude={"groups"})
        if not reading.threshold and told_labels is None:
            description |= label_options(summary.mask_values, reading.ignore_label)
        elif reading.ignore_label is not None:
            description["ignore_label"] = IGNORED_GREY if reading.threshold else reading.ignore_label
        description |= {"channels": reading.channels, "per_channel": reading.per_channel}
        if class_names is not None:
            description["class_names"] = class_names
        description["groups"] = stored_groups(names, told, groups)
        write_description(workplace, validate(Description, description, source="--classes"))
        (workplace / SUMMARY_FILE).write_text(summary.model_dump_json(indent=2))
    return summary


def _find(kind: Kind, source: Path, folders: tuple[str | None, str | None]) -> list[Pair]:
    """Pairs of the download; raises InputError when there are none or names do not match."""
    if _is_one(source, folders):
        return _find_in_one(source / str(folders[0]))
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of the unpacked download")
    dead: list[Finding] = []
    if kind == "isic" and folders == (None, None):
        files = [
            path for path in sorted(source.rglob("*")) if path.name.lower().endswith(ACCEPTED) and path.name[0] != "."
        ]
        masks = [path for path in files if path.stem.endswith("_segmentation")]
        images = [path for path in files if not path.stem.endswith(("_segmentation", "_superpixels"))]
    else:
        found = _folders(kind, source, folders)
        images, masks = map(picture_files, found)
        dead = dead_links(*found)
    pairs, findings = match_files(images, masks, str(source))
    raise_findings(findings + dead, subject=f"{kind} download in {source}")
    return pairs


def _is_one(source: Path, folders: tuple[str | None, str | None]) -> bool:
    return None not in folders and (source / str(folders[0])).resolve() == (source / str(folders[1])).resolve()


def _find_in_one(folder: Path) -> list[Pair]:
    """Pairs of images and masks that lie in one folder, where masks bear one of the known endings."""
    files = picture_files(folder)
    names = {base_name(path) for path in files}
    masks = [path for path in files if any(base_name(path).lower().endswith(suffix) for suffix in MASK_SUFFIXES)]
    masks = [path for path in masks if names & _without_suffix(base_name(path))]
    if not masks:
        raise InputError(
            f"images and masks are both looked for in {folder}, but no file there is named like another with one of "
            f"the endings of masks ({', '.join(MASK_SUFFIXES)}); rename the masks, or put them into their own folder"
        )
    pairs, findings = match_files([path for path in files if path not in set(masks)], masks, str(folder))
    raise_findings(findings + dead_links(folder), subject=f"download in {folder}")
    return pairs


def _without_suffix(stem: str) -> set[str]:
    return {stem[: -len(suffix)] for suffix in MASK_SUFFIXES if stem.lower().endswith(suffix)}


def is_void(values: list[float]) -> bool:
    """Whether 255 stands apart from the labels 0, 1, 2, …, as VOC writes pixels that bear no label."""
    return len(values) > 3 and values == [*range(len(values) - 1), VOID]


def label_options(values: list[float], ignore_label: int | None = None) -> dict[str, Any]:
    """num_classes, label_map and ignore_label of masks with these values; those of a binary task where they are such.

    255 beside 0, 1, 2, … is left out of scores and training, as VOC means it, unless ``ignore_label`` tells another.
    """
    ignored = VOID if ignore_label is None and is_void(values) else ignore_label
    classes = [int(value) for value in values if value != ignored]
    told = {} if ignored is None else {"ignore_label": ignored}
    if len(classes) < 3 and set(classes) <= {0, 1, 255}:
        return told
    found = sorted({0, *classes})
    if len(found) > MAX_CLASSES:
        raise InputError(
            f"the masks hold {len(found)} different values, more than the {MAX_CLASSES} classes there can be: these "
            "number objects and are no classes; use --marked in place of --labels, which marks whatever is not 0"
        )
    label_map = None if found == list(range(len(found))) else {v: i for i, v in enumerate(found)}
    return told | {"num_classes": max(3, len(found)), "label_map": label_map}


def _folders(kind: Kind, source: Path, given: tuple[str | None, str | None]) -> tuple[Path, Path]:
    """The folders of images and masks, beside each other, in ``source`` or in the one folder below that has both."""
    usual = [(given[0] or images, given[1] or masks) for images, masks in FOLDERS[kind]]
    for names in usual:
        inside = [path for path in sorted(source.rglob("*")) if path.is_dir() and not _is_leftover(path, source)]
        found = [pair for parent in (source, *inside) if (pair := _beside(parent, names)) is not None]
        if len(found) > 1 and found[0][0].parent != source and kind != "clinicdb":  # that comes as PNG and as TIFF
            several = [str(images.parent.relative_to(source)) for images, _ in found]
            raise InputError(
                f"{source} holds several folders with {names[0]!r} and {names[1]!r}: {name_some(several)}; give one of "
                "them. A data set that is already split into train, val and test is ready for `slicemamba data check`"
            )
        if found:
            return found[0]
    wanted = " or ".join(f"{images!r} and {masks!r}" for images, masks in usual)
    holds = name_some(sorted(path.name for path in source.iterdir())) or "nothing"
    raise InputError(
        f"{source} has no folders {wanted} side by side; it holds {holds}. Give the folder of the unpacked "
        "download, or name them with --images and --masks"
    )


def _beside(parent: Path, names: Names) -> tuple[Path, Path] | None:
    images, masks = (_below(parent, name) for name in names)
    return None if images is None or masks is None else (images, masks)


def _is_leftover(path: Path, source: Path) -> bool:
    """Hidden, or what macOS puts into archives beside the files."""
    return any(part == "__MACOSX" or part.startswith(".") for part in path.relative_to(source).parts)


def _below(parent: Path, name: str) -> Path | None:
    if (parent / name).is_dir():
        return parent / name
    return next((path for path in parent.iterdir() if path.is_dir() and path.name.lower() == name.lower()), None)


def _deal_out(workplace: Path, converted: list[Converted], splits: list[str]) -> None:
    """Moves files from ``all`` to their splits."""
    for one, split in zip(converted, splits, strict=True):
        for path in (one.image, one.mask):
            target = workplace / split / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.name)
    shutil.rmtree(workplace / "all")
