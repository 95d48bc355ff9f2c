"""Labelled pictures in class folders, read from disk as they are needed: too many to be held in memory.

Arrays are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import PicturesConfig
from slicemamba.data.catalog import DATA_ROOT_VARIABLE, data_root_from_environment
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.pairs import IMAGE_EXTENSIONS, is_picture_name
from slicemamba.data.reading import as_rgb
from slicemamba.errors import InputError, name_some
from slicemamba.files import from_here

Pixels = NDArray[np.uint8]
_EXPECTED = "expected <root>/train/<class>/… and <root>/val/<class>/…, each class a folder of pictures"
_RATIOS = (3 / 4, 4 / 3)  # width to height of random crops, as customary
_CENTRE = 0.875  # share of the shorter side in the crop that is validated, as customary


@dataclass(frozen=True, eq=False)
class Pictures:
    """One split.

    Attributes:
        files: N paths. labels: (N,) int64 indices into ``classes``.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def resolve_pictures(config: PicturesConfig) -> PicturesConfig:
    """The config with an absolute ``root``; a name without one is a folder in SLICEMAMBA_DATA. Raises InputError."""
    known = data_root_from_environment()
    root = config.root or (known / config.name if known else None)
    if root is None:
        raise InputError(
            f"data.root is needed: the folder of the pictures, as {DATA_ROOT_VARIABLE}, where {config.name!r} would be "
            "looked up, is not set",
            pointer="/data/root",
        )
    return config.model_copy(update={"root": from_here(root, "data.root")})


def find_pictures(config: PicturesConfig) -> tuple[Pictures, Pictures]:
    """The train and the val split, sorted by class and name. Only names are looked at; files are not opened.

    Raises:
        InputError: a folder is missing, a class has no pictures, fewer than two classes, or val has others than train.
    """
    root = resolve_pictures(config).root
    assert root is not None
    classes = _classes(root / "train")
    if len(classes) < 2:
        raise InputError(
            f"{root / 'train'} holds {len(classes)} classes; at least two are needed", pointer="/data/root"
        )
    other = sorted(set(_classes(root / "val")) ^ set(classes))
    if other:
        raise InputError(
            f"train and val in {root} must have the same classes; only one of them has {name_some(other)}",
            pointer="/data/root",
        )
    train, val = (_split(root / split, classes) for split in ("train", "val"))
    return train, val


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(f"data folder {folder} does not exist; {_EXPECTED}", pointer="/data/root")
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."))


def _split(folder: Path, classes: tuple[str, ...]) -> Pictures:
    files: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, name in enumerate(classes):
        found = sorted(e.name for e in os.scandir(folder / name) if is_picture_name(e.name))
        files += [folder / name / file for file in found]
        labels += [label] * len(found)
        if not found:
            empty.append(f"{folder.name}/{name}")
    if empty:
        raise InputError(
            f"classes without pictures: {name_some(empty)}; accepted are {', '.join(IMAGE_EXTENSIONS)}",
            pointer="/data/root",
        )
    return Pictures(tuple(files), np.array(labels, dtype=np.int64), classes)


def read_crop(
    path: Path, size: tuple[int, int], rng: np.random.Generator, area: tuple[float, float], flip_probability: float
) -> Pixels:
    """A random part of a picture, resized, and flipped left-right with the given probability.

    The part covers a share of the area drawn from ``area`` at an aspect drawn from 3:4 … 4:3; where none of ten draws
    fits into the picture, it is the largest centred part.

    Args:
        path: the file. size: (height, width). rng: source of all randomness.

    Raises:
        BadFileError: the file cannot be read as a picture.
    """
    with _opened(path) as picture:
        width, height = picture.size
        left, top, right, bottom = box = _random_box(width, height, rng, area)
        # JPEG decoders shrink by 2, 4 or 8 at next to no cost; only as far as the crop keeps its resolution.
        picture.draft("RGB", (int(width * size[1] / (right - left)) + 1, int(height * size[0] / (bottom - top)) + 1))
        shrunk = picture.size[0] / width, picture.size[1] / height
        box = (left * shrunk[0], top * shrunk[1], right * shrunk[0], bottom * shrunk[1])
        crop = _rgb(picture, path).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < flip_probability else pixels


def read_centre(path: Path, size: tuple[int, int]) -> Pixels:
    """The centred part of a picture with ⅞ of its shorter side, resized to ``size``. Raises BadFileError."""
    with _opened(path) as picture:
        width, height = picture.size
        scale = _CENTRE * min(width / size[1], height / size[0])
        half_width, half_height = scale * size[1] / 2, scale * size[0] / 2
        box = (width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height)
        return np.asarray(_rgb(picture, path).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))


def _random_box(
    width: int, height: int, rng: np.random.Generator, area: tuple[float, float]
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels."""
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        w, h = math.sqrt(target * ratio), math.sqrt(target / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * _RATIOS[1]), min(height, width / _RATIOS[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError) as error:
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({error})") from error


def _rgb(picture: Image.Image, path: Path) -> Image.Image:
    try:
        return as_rgb(picture, path)  # decodes it
    except BadFileError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({error})") from error
