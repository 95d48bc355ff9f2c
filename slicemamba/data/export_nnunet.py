"""A prepared set of pictures as an nnU-Net raw data set, to train nnU-Net on the same images and splits."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.catalog import SYNTHETIC, resolve_root
from slicemamba.data.nnunet import FILE, IGNORE
from slicemamba.data.pairs import Pair
from slicemamba.data.parallel import Progress, run_parallel
from slicemamba.data.prepare import building
from slicemamba.data.reading import IGNORED, read_pair
from slicemamba.data.splits import split_pairs
from slicemamba.errors import InputError
from slicemamba.files import write_json

SPLITS_FILE = "splits_final.json"
_FOLDER = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")


def export_nnunet(config: DataConfig, destination: Path, on_progress: Progress | None = None) -> dict[str, int]:
    """Writes ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``, ``dataset.json`` and ``splits_final.json``.

    Train, search and val are training cases, of which ``splits_final.json`` validates on val, in one fold; test is
    ``…Ts``. Pictures in colour are one PNG, other channels one PNG each, in the 8 bits that networks here are trained
    on; labels are classes, and ignored pixels the label after them.

    Args:
        config: the data set. destination: a new folder named as nnU-Net asks, ``Dataset027_Polyps``.
        on_progress: called as (done, total) in images.

    Returns:
        How many cases are in ``imagesTr`` and ``imagesTs``.

    Raises:
        InputError: a faulty file, volumes, or a destination that is in use or named otherwise.
    """
    if not _FOLDER.fullmatch(destination.name):
        raise InputError(f"nnU-Net asks for a folder named like Dataset027_Polyps; got {destination.name!r}")
    config = resolve_root(config)
    if config.name == SYNTHETIC or config.root is None:
        raise InputError("the synthetic set has no files to export; give the folder of a data set")
    splits = split_pairs(config.root, config)
    if splits["train"][0].is_slice:
        raise InputError(f"{config.root} holds slices of volumes; give nnU-Net the volumes they were cut from")
    cases = _case_names(splits)
    todo = [
        (pair, cases[split, pair.name], "Ts" if split == "test" else "Tr") for split in splits for pair in splits[split]
    ]
    with building(destination) as workplace:
        for end in ("Tr", "Ts"):
            for part in ("images", "labels"):
                (workplace / (part + end)).mkdir()
        run_parallel(lambda index: _write_case(*todo[index], config, workplace), len(todo), on_progress)
        train = [cases[split, pair.name] for split in ("train", "search") for pair in splits[split]]
        val = [cases["val", pair.name] for pair in splits["val"]]
        _write_json(workplace / SPLITS_FILE, [{"train": sorted(train), "val": sorted(val)}])
        _write_json(workplace / FILE, _description(config, len(train) + len(val)))
    return {"imagesTr": len(train) + len(val), "imagesTs": len(splits["test"])}


def _case_names(splits: dict[str, list[Pair]]) -> dict[tuple[str, str], str]:
    """(split, image) → case; an image's name, with its split where two splits have it."""
    uses = Counter(pair.name for pairs in splits.values() for pair in pairs)
    return {
        (split, pair.name): pair.name if uses[pair.name] == 1 else f"{split}_{pair.name}"
        for split, pairs in splits.items()
        for pair in pairs
    }


def _write_case(pair: Pair, case: str, end: str, config: DataConfig, root: Path) -> None:
    image, mask = read_pair(pair, config)
    for number, channel in enumerate(_files(image, config)):
        Image.fromarray(channel).save(root / f"images{end}" / f"{case}_{number:04d}.png")
    labels = np.where(mask == IGNORED, np.uint8(max(2, config.num_classes)), mask)
    Image.fromarray(labels).save(root / f"labels{end}" / f"{case}.png")


def _files(image: NDArray[Any], config: DataConfig) -> list[NDArray[np.uint8]]:
    return [np.ascontiguousarray(part) for part in np.moveaxis(image, -1, 0)] if config.scales_each else [image]


def _description(config: DataConfig, count: int) -> dict[str, Any]:
    classes = max(2, config.num_classes)
    names = config.class_names or ("background", *(f"class {label}" for label in range(1, classes)))
    labels = {name: label for label, name in enumerate(names)}
    if config.ignore_label is not None:
        labels[IGNORE] = classes
    return {
        "channel_names": {
            str(i): "rgb"[i].upper() if not config.scales_each else f"channel {i}" for i in range(config.channels)
        },
        "labels": labels,
        "numTraining": count,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }


def _write_json(path: Path, values: object) -> None:
    write_json(path, values)
