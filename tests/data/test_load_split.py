"""Splits: which images they hold, and how they come as arrays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import list_datasets, resolve_root
from slicemamba.data.splits import SPLITS, hold_out, split_pairs
from slicemamba.errors import InputError


@pytest.mark.parametrize("split", SPLITS)
def test_synthetic(synthetic: DataConfig, tmp_path: Path, split: str) -> None:
    data = load_split(synthetic, split, tmp_path)
    count = {"train": 6, "val": 2, "search": 2, "test": 3}[split]
    assert len(data) == count
    assert data.images.shape == (count, 48, 64, 3)
    assert data.masks.shape == (count, 48, 64)
    assert data.images.dtype == data.masks.dtype == np.uint8
    assert set(np.unique(data.masks)) == {0, 1}
    assert (data.split, data.num_classes) == (split, 1)


def test_synthetic_splits_share_no_image(tmp_path: Path) -> None:
    images = [
        image.tobytes()
        for split in SPLITS
        for image in load_split(DataConfig(image_size=(32, 32)), split, tmp_path).images
    ]
    assert len(set(images)) == len(images) == 96 + 24 + 24 + 32


def test_folder(folder: DataConfig, tmp_path: Path) -> None:
    data = load_split(folder, "val", tmp_path / "cache")
    assert data.names == ("val_00000", "val_00001")
    assert data.images.shape == (2, 40, 56, 3)
    assert set(np.unique(data.masks)) == {0, 1}


def test_folder_holds_the_same_pictures(folder: DataConfig, synthetic: DataConfig, tmp_path: Path) -> None:
    size = {"image_size": synthetic.image_size}
    stored = load_split(folder.model_copy(update=size), "test", tmp_path / "cache")
    drawn = load_split(synthetic, "test", tmp_path / "cache")
    np.testing.assert_array_equal(stored.masks, drawn.masks)
    assert np.abs(stored.images.astype(int) - drawn.images).mean() < 6  # JPEG


def test_changed_file_is_decoded_again(folder: DataConfig, tmp_path: Path) -> None:
    assert folder.root is not None
    before = load_split(folder, "val", tmp_path / "cache").images.copy()
    shutil.copy(folder.root / "test/images/test_00000.jpg", folder.root / "val/images/val_00001.jpg")
    after = load_split(folder, "val", tmp_path / "cache").images
    assert (before[0] == after[0]).all()
    assert (before[1] != after[1]).any()


def test_broken_file_is_named(folder: DataConfig, tmp_path: Path) -> None:
    assert folder.root is not None
    (folder.root / "val/images/val_00001.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"val/images/val_00001\.jpg"):
        load_split(folder, "val", tmp_path / "cache")


def test_unknown_split(synthetic: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train, val, search, test; got 'valid'"):
        load_split(synthetic, "valid", tmp_path)


def without_search(folder: DataConfig) -> DataConfig:
    assert folder.root is not None
    shutil.rmtree(folder.root / "search")
    return folder


def names(config: DataConfig) -> dict[str, set[str]]:
    assert config.root is not None
    return {split: {pair.name for pair in pairs} for split, pairs in split_pairs(config.root, config).items()}


def test_search_is_held_out_of_train_alone(folder: DataConfig, tmp_path: Path) -> None:
    before = names(folder)
    after = names(without_search(folder))
    assert after["train"] | after["search"] == before["train"]
    assert after["train"].isdisjoint(after["search"])
    assert (after["val"], after["test"]) == (before["val"], before["test"])
    assert len(after["search"]) == 1
    assert len(load_split(folder, "search", tmp_path / "cache")) == 1
    assert len(load_split(folder, "train", tmp_path / "cache")) == 5


def test_own_search_folder_leaves_train_whole(folder: DataConfig) -> None:
    assert len(names(folder)["train"]) == 6
    assert names(folder)["search"] == {"search_00000", "search_00001"}


def alone(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def test_hold_out_depends_on_the_seed_alone() -> None:
    assert hold_out(alone(50), 0.2, 3) == hold_out(alone(50), 0.2, 3)
    assert hold_out(alone(50), 0.2, 3) != hold_out(alone(50), 0.2, 4)
    assert hold_out(alone(50), 0.2, -1) == hold_out(alone(50), 0.2, -1)


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(50, 0.2, 10), (3, 0.01, 1), (2, 0.9, 1), (10, 0.99, 9), (7, 0.5, 4)]
)
def test_hold_out_sizes(count: int, fraction: float, held: int) -> None:
    kept, out = hold_out(alone(count), fraction, 0)
    assert len(out) == held
    assert sorted(kept + out) == list(range(count))
    assert (kept, out) == (sorted(kept), sorted(out))


def test_hold_out_of_one_image() -> None:
    with pytest.raises(InputError, match="add a search split"):
        hold_out(alone(1), 0.2, 0)


def test_names_are_looked_up(folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.root is not None
    home = folder.root.parent
    (home / "no_data").mkdir()
    (home / "Läsionen/train/images").mkdir(parents=True)  # a name that no config can hold
    assert list_datasets(home) == ["synthetic", "lesions"]
    named = DataConfig(name="lesions")
    assert resolve_root(named, home).root == folder.root.resolve()
    monkeypatch.setenv("SLICEMAMBA_DATA", str(home))
    assert list_datasets() == ["synthetic", "lesions"]
    assert resolve_root(named).root == folder.root.resolve()


def test_names_without_a_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLICEMAMBA_DATA", raising=False)
    assert list_datasets() == ["synthetic"]
    with pytest.raises(InputError, match="SLICEMAMBA_DATA is not set; known: synthetic"):
        resolve_root(DataConfig(name="lesions"))


def test_relative_root_becomes_absolute(folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.root is not None
    monkeypatch.chdir(folder.root.parent)
    resolved = resolve_root(DataConfig(name="mine", root=Path("lesions"))).root
    assert resolved == folder.root.resolve()


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"root": Path("somewhere")}, "/data/name"),
        ({"num_classes": 3}, "/data/num_classes"),
        ({"name": "x", "root": Path("somewhere"), "num_classes": 257}, "/data/num_classes"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], pointer: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_root(DataConfig.model_validate(options))
    assert caught.value.pointer == pointer
