"""Matching of images and masks by name, and the folder layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicemamba.data.findings import raise_findings
from slicemamba.data.pairs import MASK_SUFFIXES, Pair, match_pairs
from slicemamba.errors import InputError


def touch(root: Path, *names: str) -> None:
    for part in ("images", "masks"):
        (root / "train" / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / "train" / name).touch()


def find_pairs(root: Path, split: str) -> list[Pair]:
    pairs, findings = match_pairs(root, split)
    raise_findings(findings, subject=split)
    return pairs


@pytest.mark.parametrize(
    "mask",
    [
        "a.png",
        "a_segmentation.PNG",
        "a_Segmentation.png",
        "a_mask.bmp",
        "a-mask.tif",
        "a_seg.tiff",
        "a_label.png",
        "a_labels.png",
        "a_gt.png",
        "a_HE.png",
    ],
)
def test_known_mask_names(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "images/a.JPG", f"masks/{mask}")
    [pair] = find_pairs(tmp_path, "train")
    assert (pair.name, pair.image.name, pair.mask.name) == ("a", "a.JPG", mask)


def test_sorted_and_other_files_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.png", "images/a.jpg", "masks/a.png", "masks/b.png")
    touch(tmp_path, "images/.DS_Store", "images/._a.jpg", "images/notes.txt", "masks/Thumbs.db")
    assert [pair.name for pair in find_pairs(tmp_path, "train")] == ["a", "b"]


def test_exact_name_comes_before_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/a_seg.png", "masks/a.png", "masks/a_seg.png")
    assert [pair.mask.name for pair in find_pairs(tmp_path, "train")] == ["a.png", "a_seg.png"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["images/a.jpg"], ["image without a mask", "train/images/a.jpg"]),
        (["images/a.jpg", "masks/a.png", "masks/b.png"], ["mask without an image", "train/masks/b.png"]),
        (["images/a.jpg", "masks/a.png", "masks/a_mask.png"], ["several masks", "a.png and a_mask.png"]),
        (["images/a.jpg", "images/a.png", "masks/a.png"], ["several images with the same name", "a.jpg", "a.png"]),
        ([], ["split without images", ".jpeg"]),
        (["images/a.svg"], ["split without images"]),
    ],
)
def test_names_that_do_not_match(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path, "train")
    for words in expected:
        assert words in str(caught.value)


def test_the_mend_names_every_known_ending(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/label_a.png")
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path, "train")
    assert all(suffix in str(caught.value).lower() for suffix in MASK_SUFFIXES)


def test_images_of_nnunet_carry_a_channel_that_their_masks_lack(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_0000.png", "masks/a.png")
    [pair] = find_pairs(tmp_path, "train")
    assert (pair.name, pair.mask.name) == ("a_0000", "a.png")
    touch(tmp_path, "images/a_0001.png")  # two channels are not read
    with pytest.raises(InputError, match=r"image without a mask: train/images/a_0001\.png"):
        find_pairs(tmp_path, "train")


def test_many_missing_masks_are_one_short_line(tmp_path: Path) -> None:
    touch(tmp_path, *[f"images/{index:03d}.jpg" for index in range(50)])
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path, "train")
    [line] = caught.value.details
    assert "50 × image without a mask" in line
    assert "and 45 more" in line
