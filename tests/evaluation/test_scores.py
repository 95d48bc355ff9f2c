"""Scores by image: a file round trip, and no comparison of what is not the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slicemamba.data.base import SegmentationData
from slicemamba.errors import InputError
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.scores import ImageScores, refuse_other_images

CPU = torch.device("cpu")


def scores(data: SegmentationData, threshold: float = 110) -> ImageScores:
    scored = evaluate(lambda image: threshold - image.mean(dim=1, keepdim=True), data, batch_size=4, device=CPU)
    return ImageScores.of(data, scored, "lesions")


def test_file_comes_back_with_all_scores(tiny_data: SegmentationData, tmp_path: Path) -> None:
    first = scores(tiny_data)
    file = tmp_path / "scores" / "train.npz"
    first.save(file)
    again = ImageScores.load(file)
    assert [path.name for path in file.parent.iterdir()] == ["train.npz"]
    assert again.about() == first.about() == {
        "data": "lesions", "split": "train", "image_size": [32, 40], "metrics_version": 2,
    }  # fmt: skip
    assert again.names == again.patients == tiny_data.names
    scored = evaluate(lambda image: 110 - image.mean(dim=1, keepdim=True), tiny_data, batch_size=4, device=CPU)
    assert again.metrics() == scored.metrics
    assert again.intervals() == scored.intervals()


def test_parts_join_to_the_whole(tiny_data: SegmentationData) -> None:
    whole = scores(tiny_data)
    parts = [
        scores(replace(tiny_data, images=tiny_data.images[p], masks=tiny_data.masks[p], names=tiny_data.names[p]))
        for p in (slice(0, 3), slice(3, 7))
    ]
    joined = ImageScores.join(parts, "train")
    assert joined.names == whole.names
    assert joined.metrics() == pytest.approx(whole.metrics())


def test_patients_are_kept_and_widen_the_intervals(tiny_data: SegmentationData, tmp_path: Path) -> None:
    grouped = scores(replace(tiny_data, patients=("a", "a", "a", "b", "b", "b", "b")))
    grouped.save(tmp_path / "test.npz")
    again = ImageScores.load(tmp_path / "test.npz")
    assert again.patients == grouped.patients
    assert again.metrics() == scores(tiny_data).metrics()
    low, high = again.intervals()["dice"]
    assert len(set(again.intervals()["dice"])) == 2
    assert (low, high) != scores(tiny_data).intervals()["dice"]
    assert ImageScores.join([grouped, grouped], "folds").patients == grouped.patients * 2


def test_networks_on_the_same_images_may_be_compared(tiny_data: SegmentationData) -> None:
    refuse_other_images(scores(tiny_data), scores(tiny_data, 60), ("a", "b"))


def test_what_is_not_the_same_is_refused(tiny_data: SegmentationData) -> None:
    first = scores(tiny_data)
    other_masks = tiny_data.masks.copy()
    other_masks[2, 0, :4] ^= 1
    cases = {
        "data: lesions of a, moles of b": replace(first, data="moles"),
        "split: train of a, test of b": replace(first, split="test"),
        "image_size": replace(first, image_size=(64, 64)),
        "metrics_version: 2 of a, 3 of b": replace(first, metrics_version=3),
        "names": replace(first, names=first.names[::-1]),
        "classes: 1 and 2": replace(first, counts=np.repeat(first.counts, 2, axis=1)),
        "masks": scores(replace(tiny_data, masks=other_masks)),
    }
    for says, other in cases.items():
        with pytest.raises(InputError, match="not scored on the same images") as caught:
            refuse_other_images(first, other, ("a", "b"))
        assert says in str(caught.value)


def test_diverged_network_has_no_scores(tiny_data: SegmentationData) -> None:
    scored = evaluate(lambda image: image[:, :1] * float("nan"), tiny_data, batch_size=4, device=CPU)
    with pytest.raises(InputError, match="not finite on the train split of lesions"):
        ImageScores.of(tiny_data, scored, "lesions")


def test_file_that_is_cut_off_anywhere_is_refused(tiny_data: SegmentationData, tmp_path: Path) -> None:
    file = tmp_path / "test.npz"
    scores(tiny_data).save(file)
    whole = file.read_bytes()
    for length in np.random.default_rng(0).integers(len(whole), size=20):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a valid file of scores per image"):
            ImageScores.load(file)


def test_damage_is_refused_or_has_changed_no_score(tiny_data: SegmentationData, tmp_path: Path) -> None:
    """The names, times and sizes of an archive are there twice or have no meaning; a checksum covers the rest."""
    file = tmp_path / "test.npz"
    intact = scores(tiny_data)
    intact.save(file)
    whole, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        place = int(rng.integers(len(whole)))
        file.write_bytes(whole[:place] + rng.bytes(4) + whole[place + 4 :])
        try:
            loaded = ImageScores.load(file)
        except InputError:
            refused += 1
        else:
            assert np.array_equal(loaded.counts, intact.counts)
            assert np.array_equal(loaded.hd95, intact.hd95)
            assert (loaded.names, loaded.data, loaded.split) == (intact.names, intact.data, intact.split)
    assert refused > 30


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "test.npz"
    if content is None:
        np.savez(file, counts=np.zeros((1, 1, 4)))
    else:
        file.write_bytes(content)
    with pytest.raises(InputError, match="is not a valid file of scores per image"):
        ImageScores.load(file)
