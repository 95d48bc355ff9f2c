"""Hashes of splits: the same images give the same, whatever their names; an image in two splits is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.digests import digest_splits, image_digests, shared_images, split_digest


def part(data: SegmentationData, *indices: int, split: str = "train") -> SegmentationData:
    chosen = list(indices)
    names = tuple(f"{split}_{i}" for i in range(len(chosen)))
    return replace(data, images=data.images[chosen], masks=data.masks[chosen], names=names, split=split)


def test_hash_is_of_the_pixels_alone(tiny_data: SegmentationData) -> None:
    first, again = part(tiny_data, 0, 1, 2), part(tiny_data, 2, 0, 1, split="val")
    assert split_digest(image_digests(first)) == split_digest(image_digests(again))
    assert split_digest(image_digests(first)) != split_digest(image_digests(part(tiny_data, 0, 1)))
    changed = np.array(first.images)
    changed[0, 0, 0, 0] ^= 1
    assert image_digests(replace(first, images=changed))[0] != image_digests(first)[0]


def test_shape_counts_too(tiny_data: SegmentationData) -> None:
    images = np.array(tiny_data.images[:1])
    turned = images.reshape(1, images.shape[2], images.shape[1], 3)
    assert image_digests(replace(part(tiny_data, 0), images=turned)) != image_digests(part(tiny_data, 0))


def test_image_in_two_splits_is_named_with_both(tiny_data: SegmentationData) -> None:
    splits = {"train": part(tiny_data, 0, 1, 1), "test": part(tiny_data, 3, 1, split="test")}
    digests = {split: image_digests(data) for split, data in splits.items()}
    assert shared_images(splits, digests) == [("train/train_2", "test/test_1")]
    splits["test"] = part(tiny_data, 3, 4, split="test")
    digests["test"] = image_digests(splits["test"])
    assert shared_images(splits, digests) == []


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_slices_that_show_nothing_are_no_twins(tiny_data: SegmentationData, value: float) -> None:
    """Volumes are padded by slices of air: a leak was seen in each such set, and no audit passed."""
    from slicemamba.data.slices import resize_slice

    empty, organ = np.full((20, 30), value, np.float32), np.random.default_rng(0).random((20, 30), dtype=np.float32)
    images = np.stack([resize_slice(image, (32, 40))[..., None] for image in (empty, organ, empty)])
    train = replace(part(tiny_data, 0, 1, 2), images=images)
    test = replace(part(tiny_data, 0, 1, 2, split="test"), images=images)
    splits = {"train": train, "test": test}
    digests = {split: image_digests(data) for split, data in splits.items()}
    assert shared_images(splits, digests) == [("train/train_1", "test/test_1")], "an organ twice is a leak as before"


def test_splits_of_a_data_set_are_told_apart(tmp_path: Path) -> None:
    sizes = SyntheticConfig(num_train=3, num_val=2, num_search=2, num_test=2)
    config = DataConfig(image_size=(32, 32), synthetic=sizes)
    facts, leaks = digest_splits(config, tmp_path)
    assert {split: one["num_images"] for split, one in facts.items()} == {"train": 3, "val": 2, "search": 2, "test": 2}
    assert len({one["digest"] for one in facts.values()}) == 4
    assert leaks == []
    assert digest_splits(config, tmp_path / "other")[0] == facts
