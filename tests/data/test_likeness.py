"""Near-copies are found across splits and kept together; pictures of the same kind are not taken for copies."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from slicemamba.config import DataConfig
from slicemamba.data.checks import check_dataset
from slicemamba.data.likeness import ALIKE, alike_pairs, sketch
from slicemamba.data.prepare import SplitPlan, join_twins
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.splits import split_pairs
from slicemamba.data.synthetic import draw_lesion


def texture(number: int) -> Image.Image:
    """Shapes of some pixels' size, of its own for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((140, 120), Image.Resampling.BICUBIC)


def copies(picture: Image.Image) -> dict[str, NDArray[np.uint8]]:
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=40)
        compressed = np.asarray(Image.open(file).convert("RGB"))
    return {
        "compressed": compressed,
        "half the size": np.asarray(picture.resize((70, 60), Image.Resampling.BILINEAR)),
        "brighter": np.asarray(ImageEnhance.Brightness(picture).enhance(1.3)),
        "grey": np.asarray(picture.convert("L").convert("RGB")),
    }


@pytest.mark.parametrize("kind", ["compressed", "half the size", "brighter", "grey"])
def test_copies_are_alike(kind: str) -> None:
    for number in range(5):
        picture = texture(number)
        assert sketch(np.asarray(picture)) @ sketch(copies(picture)[kind]) >= ALIKE


def test_other_pictures_and_empty_ones_are_not_alike() -> None:
    drawn = [draw_lesion(3, "train", number, (64, 64))[0] for number in range(40)]
    assert alike_pairs([sketch(image) for image in drawn]) == []
    nothing = np.full((40, 40, 3), 90, np.uint8)
    assert alike_pairs([sketch(nothing), sketch(nothing)]) == []


def test_all_pairs_are_found_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slicemamba.data.likeness._BLOCK", 3)
    sketches = [sketch(np.asarray(texture(number % 4))) for number in range(8)]
    assert alike_pairs(sketches) == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_groups_with_alike_images_are_one() -> None:
    assert len(set(join_twins(["a", "b", "c", "d"], ["1", "2", "3", "4"], [(0, 2)]))) == 3


def test_prepare_keeps_copies_together_and_check_names_those_that_are_apart(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for number in range(24):
        picture = texture(number // 2)
        if number % 2:
            picture = Image.fromarray(copies(picture)["half the size"])
        picture.save(tmp_path / f"raw/images/{number:02d}.png")
        mask = np.zeros((picture.height, picture.width), np.uint8)
        mask[10:30, 10:40] = 255
        Image.fromarray(mask).save(tmp_path / f"raw/masks/{number:02d}.png")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan((0.4, 0.2, 0.2, 0.2)))
    assert made.num_alike == 12
    assert sum(made.num_groups.values()) == 12
    config = DataConfig(name="set", root=tmp_path / "set")
    homes = {pair.name: split for split, pairs in split_pairs(tmp_path / "set", config).items() for pair in pairs}
    assert all(homes[f"{number:02d}"] == homes[f"{number + 1:02d}"] for number in range(0, 24, 2))
    assert not any("look alike" in warning for warning in check_dataset(config).warnings)
    name = next(name for name, split in homes.items() if split == "test" and int(name) % 2)
    for part in ("images", "masks"):
        shutil.move(tmp_path / f"set/test/{part}/{name}.png", tmp_path / f"set/train/{part}/{name}.png")
    (tmp_path / "set/dataset.yaml").unlink()
    (warning,) = [text for text in check_dataset(config).warnings if "look alike" in text]
    assert f"train/images/{name}.png ~ test/images/{int(name) - 1:02d}.png" in warning
