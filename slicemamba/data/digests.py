"""Hashes of decoded images: which pictures a split holds, whatever their files are called."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.splits import SPLITS

_ROUNDING = 1e-5  # of values of about 0…1


def image_digests(data: SegmentationData) -> list[str]:
    """A hash of each image as the network gets it (decoded and resized), in the split's order."""
    digests = []
    for index, image in enumerate(data.images):
        pixels = np.ascontiguousarray(image[data.inside(index)])
        digests.append(hashlib.blake2b(pixels.data, digest_size=16, key=repr(pixels.shape).encode()).hexdigest())
    return digests


def split_digest(digests: list[str]) -> str:
    """One hash for a split's images, whatever their order."""
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=16).hexdigest()


def shared_images(splits: Mapping[str, SegmentationData], digests: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Pairs of ``split/name`` of equal images that are in different splits.

    Slices of volumes that show nothing are alike everywhere, and no twins.

    Args:
        splits: by name. digests: of the same splits, from ``image_digests``.
    """
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for split in splits:
        for index, digest in enumerate(digests[split]):
            places[digest].append((split, index))
    return [
        (f"{first}/{splits[first].names[i]}", f"{second}/{splits[second].names[j]}")
        for group in places.values()
        for (first, i), (second, j) in pairwise(group)
        if first != second and not _shows_nothing(splits[first].images[i])
    ]


def _shows_nothing(image: NDArray[Any]) -> bool:
    """Whether a slice has one value throughout, but for what resizing leaves of rounding."""
    return image.dtype == np.float32 and float(np.ptp(image)) < _ROUNDING


def digest_splits(config: DataConfig, cache_dir: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """(number of images and hash of each split, pairs of equal images in different splits) of a data set."""
    splits = {split: load_split(config, split, cache_dir) for split in SPLITS}
    digests = {split: image_digests(data) for split, data in splits.items()}
    facts = {split: {"num_images": len(found), "digest": split_digest(found)} for split, found in digests.items()}
    return facts, shared_images(splits, digests)
