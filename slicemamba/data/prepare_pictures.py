"""``train|val|search|test/{images,masks}`` from folders of images and masks, as ISIC, Kvasir and ClinicDB come in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicemamba.config import validate
from slicemamba.data.catalog import MAX_CLASSES
from slicemamba.data.colours import class_names_of
from slicemamba.data.convert import IGNORED_GREY, Converted, Reading, convert_all, offer_values
from slicemamba.data.description import OF_THE_FOLDER, Description, write_description
from slicemamba.data.dicom import is_dicom
from slicemamba.data.downloads import find_download
from slicemamba.data.likeness import alike_pairs
from slicemamba.data.parallel import Progress
from slicemamba.data.patients import ALONE
from slicemamba.data.prepare import (
    SUMMARY_FILE,
    Kind,
    Prepared,
    SplitPlan,
    assign_around,
    building,
    count_by_split,
    count_groups,
    join_twins,
    stored_groups,
)
from slicemamba.data.prepare_volumes import prepare_volumes
from slicemamba.data.reading import IGNORED
from slicemamba.data.strata import MARKED, words_for
from slicemamba.errors import InputError
from slicemamba.files import write_json

VOID = 255


def prepare_pictures(
    kind: Kind,
    source: Path,
    destination: Path,
    plan: SplitPlan,
    *,
    folders: tuple[str | None, str | None] = (None, None),
    reading: Reading = Reading(),
    class_names: tuple[str, ...] | None = None,
    table: Path | None = None,
    columns: Sequence[str] = (),
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
        table, columns: of pairs, as ``read_pairs`` takes them.
        on_progress: called as (done, total) in images.

    Raises:
        InputError: no images, names that do not match, broken files (all told together), or a destination in use.
    """
    found = find_download(kind, source, folders, table, columns)
    if found.groups is not None and plan.groups is None and plan.patient_pattern is None:
        plan = replace(plan, groups={pair.name: found.groups.get(pair.name, ALONE + pair.name) for pair in found.pairs})
    described = None if reading.any_value or not reading.threshold else found.description
    reading = reading if described is None else read_as(reading, described)
    if found.volumes and found.description is None:  # masks of volumes hold labels; one channel, unless told otherwise
        given = (reading.channels, reading.per_channel) != (3, None)
        reading = replace(reading, threshold=False, channels=reading.channels if given else 1)
    if found.volumes:

        def options_of(values: list[float]) -> dict[str, Any]:
            return _options(values, reading, described, class_names) | {"channels": reading.channels}

        return prepare_volumes(kind, found, source, destination, plan, reading, options_of, on_progress)
    pairs = found.pairs
    with building(destination) as workplace:
        converted = convert_all(pairs, workplace / "all", reading, source, on_progress)
        if described is None and reading.values is None and not reading.threshold:
            offer_values(converted)
        names = [pair.name for pair in pairs]
        told = plan.groups_of(names)
        alike = alike_pairs([one.sketch for one in converted])
        groups = join_twins(told, [one.digest for one in converted], alike)
        values = sorted(set().union(*(one.values for one in converted)))
        description = _options(values, reading, described, class_names)
        words = _words(converted, description, reading)
        splits = assign_around(groups, plan.fractions, plan.seed, found.is_test, words)
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
            most_intermediate=(pairs[worst].masks[0].name, converted[worst].share) if converted[worst].share else None,
            mask_values=values,
            num_united=sum(len(pair.masks) > 1 for pair in pairs),
            num_alike=len(alike),
            from_dicom=any(is_dicom(pair.images[0]) for pair in pairs),
        )
        description["groups"] = stored_groups(names, told, groups)
        description["strata"] = dict(zip(names, words, strict=True))
        write_description(workplace, validate(Description, description, source="--classes"))
        write_json(workplace / SUMMARY_FILE, summary.model_dump(mode="json"))
    return summary


def read_as(reading: Reading, described: Description) -> Reading:
    """How files are read of which a description tells classes and channels."""
    binary = (described.num_classes, described.label_map, described.ignore_label) == (1, None, None)
    channels, per_channel = described.channels, described.per_channel
    if (reading.channels, reading.per_channel) != (3, None):
        channels, per_channel = reading.channels, reading.per_channel
    return replace(reading, threshold=binary, channels=channels, per_channel=per_channel)


def _options(
    values: list[float], reading: Reading, described: Description | None, class_names: tuple[str, ...] | None
) -> dict[str, Any]:
    """What ``dataset.yaml`` says of images and of masks with these values."""
    if described is not None:
        options = described.model_dump(exclude=OF_THE_FOLDER)
    elif reading.colours is not None:
        names = class_names_of(reading.colours)
        options = {"num_classes": 1 if len(names) == 2 else len(names), "class_names": names}
        options |= {"ignore_label": IGNORED} if len(names) < len(reading.colours) else {}
    elif not reading.threshold:
        options = label_options(values, reading.ignore_label)
    else:
        options = {} if reading.ignore_label is None else {"ignore_label": IGNORED_GREY}
    options |= {"channels": reading.channels, "per_channel": reading.per_channel}
    return options if class_names is None else options | {"class_names": class_names}


def _words(converted: list[Converted], description: dict[str, Any], reading: Reading) -> list[str]:
    """What each image's mask holds, for ``strata.balance``."""
    label_map, ignored = description.get("label_map"), description.get("ignore_label")
    names = description.get("class_names")
    classes, shares = [], []
    for one in converted:
        held = {int(value): n for value, n in zip(one.values, one.counts, strict=False) if value not in (0, ignored)}
        labels = {label_map.get(value, 0) if label_map else value: n for value, n in held.items()}
        marked = one.marked if reading.threshold else sum(n for label, n in labels.items() if label)
        if description.get("num_classes", 1) == 1:
            classes.append([MARKED] if marked else [])
        else:
            classes.append([names[label] if names else f"class{label}" for label in labels if label])
        shares.append(marked / one.pixels)
    return words_for(classes, shares)


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


def _deal_out(workplace: Path, converted: list[Converted], splits: list[str]) -> None:
    """Moves files from ``all`` to their splits."""
    for one, split in zip(converted, splits, strict=True):
        for path in (one.image, one.mask):
            target = workplace / split / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.name)
    shutil.rmtree(workplace / "all")
