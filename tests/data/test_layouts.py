"""Layouts are seen from the folder; NIfTI slices, label maps and patients in all of them."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slicemamba.config import DataConfig, validate
from slicemamba.data import patients
from slicemamba.data.base import load_split
from slicemamba.data.catalog import list_datasets
from slicemamba.data.checks import check_dataset
from slicemamba.data.findings import BadFileError
from slicemamba.data.reading import as_classes, read_image, read_mask
from slicemamba.data.splits import SPLITS, detect_layout, hold_out, split_pairs
from slicemamba.errors import InputError


@pytest.fixture
def polyp(folder: DataConfig) -> DataConfig:
    """The synthetic set in the polyp layout: six images to train on, and three to test on."""
    root = folder.root
    assert root is not None
    (root / "train").rename(root / "TrainDataset")
    (root / "TrainDataset/images").rename(root / "TrainDataset/image")
    (root / "TrainDataset/masks").rename(root / "TrainDataset/mask")
    (root / "search").rename(root / "searchDataset")
    (root / "TestDataset").mkdir()
    (root / "test").rename(root / "TestDataset/Kvasir")
    shutil.rmtree(root / "val")
    return folder


def names(config: DataConfig) -> dict[str, set[str]]:
    assert config.root is not None
    return {split: {pair.name for pair in pairs} for split, pairs in split_pairs(config.root, config).items()}


def test_polyp(polyp: DataConfig, tmp_path: Path) -> None:
    assert polyp.root is not None
    assert detect_layout(polyp.root) == "polyp"
    found = names(polyp)
    assert {split: len(found[split]) for split in SPLITS} == {"train": 5, "val": 1, "search": 2, "test": 3}
    assert found["val"] | found["train"] == {f"train_{index:05d}" for index in range(6)}
    assert check_dataset(polyp).num_images["val"] == 1
    assert len(load_split(polyp, "val", tmp_path / "cache")) == 1
    assert names(polyp.model_copy(update={"val_fraction": 0.5}))["val"] > found["val"]
    assert list_datasets(polyp.root.parent) == ["synthetic", "lesions"]


def test_polyp_val_folder(polyp: DataConfig) -> None:
    assert polyp.root is not None
    (polyp.root / "searchDataset").rename(polyp.root / "ValDataset")
    found = names(polyp)
    assert found["val"] == {"search_00000", "search_00001"}
    assert len(found["search"]) == 1


def test_one_of_several_test_sets_is_chosen(polyp: DataConfig) -> None:
    assert polyp.root is not None
    tests = polyp.root / "TestDataset"
    shutil.copytree(tests / "Kvasir", tests / "CVC-ClinicDB")
    (tests / "CVC-ClinicDB/images/test_00000.jpg").unlink()
    (tests / "CVC-ClinicDB/masks/test_00000_segmentation.png").unlink()
    with pytest.raises(InputError, match="CVC-ClinicDB, Kvasir; none is chosen") as caught:
        names(polyp)
    assert caught.value.pointer == "/data/test_set"
    assert len(names(polyp.model_copy(update={"test_set": "Kvasir"}))["test"]) == 3
    assert len(names(polyp.model_copy(update={"test_set": "CVC-ClinicDB"}))["test"]) == 2
    for strange in ("ETIS", "../TrainDataset"):
        with pytest.raises(InputError, match=f"there is no '{strange}'"):
            names(polyp.model_copy(update={"test_set": strange}))


def test_single_test_set_without_a_name(polyp: DataConfig) -> None:
    assert polyp.root is not None
    (polyp.root / "TestDataset/Kvasir").rename(polyp.root / "Kvasir")
    shutil.rmtree(polyp.root / "TestDataset")
    with pytest.raises(InputError, match="TestDataset/<name>"):
        names(polyp)
    (polyp.root / "Kvasir").rename(polyp.root / "TestDataset")
    assert len(names(polyp)["test"]) == 3


def test_polyp_without_masks(polyp: DataConfig) -> None:
    assert polyp.root is not None
    shutil.rmtree(polyp.root / "TrainDataset/mask")
    with pytest.raises(InputError, match=r"missing: .*TrainDataset/masks"):
        names(polyp)


def test_unknown_layout_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="it holds pictures") as caught:
        detect_layout(tmp_path)
    text = str(caught.value)
    for words in (
        "{train,val,test}/{images,masks}",
        "TestDataset/<name>",
        "test_vol_h5",
        "slicemamba data prepare folder",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        ("validation", "missing: val/images (rename validation to val?)"),
        ("Val", "missing: val/images (rename Val to val?)"),
        (None, "missing: val/images (move some of train's images and masks there)"),
    ],
)
def test_splits_by_other_names(folder: DataConfig, given: str | None, mend: str) -> None:
    assert folder.root is not None
    if given is None:
        shutil.rmtree(folder.root / "val")
    else:
        (folder.root / "val").rename(folder.root / given)
    with pytest.raises(InputError, match="is not laid out as expected") as caught:
        names(folder)
    assert mend in caught.value.details


def test_one_split_in_place_of_the_set_is_told(folder: DataConfig) -> None:
    assert folder.root is not None
    with pytest.raises(InputError, match="is one split of a data set; give its parent"):
        detect_layout(folder.root / "train")


def test_a_layout_in_capitals_is_told_as_such(folder: DataConfig) -> None:
    assert folder.root is not None
    for path in list(folder.root.iterdir()):
        path.rename(path.with_name(path.name.capitalize()))
    with pytest.raises(InputError, match=r"missing: train/images \(rename Train to train\?\)"):
        names(folder)


def test_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may read all
    with pytest.raises(InputError, match="cannot be read"):
        detect_layout(tmp_path)


def save_nifti(path: Path, array: Any, affine: Any = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.mark.parametrize(
    ("sides", "known", "fits"), [((1, 1), True, True), ((-1, 1), True, False), ((-1, 1), False, True)]
)
def test_mask_of_another_orientation_is_a_fault(
    folder: DataConfig, sides: tuple[int, int], known: bool, fits: bool
) -> None:
    """Of the same shape, but stored from the other side: it would lie mirrored on its image in silence."""
    assert folder.root is not None
    for split in SPLITS:
        for path in sorted((folder.root / split / "images").iterdir()):
            mask_path = path.parents[1] / "masks" / f"{path.stem}_segmentation.png"
            image, mask = np.asarray(Image.open(path).convert("L")), np.asarray(Image.open(mask_path)) // 255
            save_nifti(path.with_suffix(".nii.gz"), image.T[..., None])
            turned = nib.Nifti1Image(mask.T[..., None], np.diag([*sides, 1, 1]) if known else None)
            nib.save(turned, mask_path.with_name(f"{path.stem}_segmentation.nii.gz"))
            path.unlink()
            mask_path.unlink()
    if fits:
        check_dataset(folder)
        return
    with pytest.raises(InputError) as caught:
        check_dataset(folder)
    assert "13 × mask with a different orientation" in str(caught.value)
    assert "train_00000.nii.gz runs to RAS, train_00000_segmentation.nii.gz to LAS" in str(caught.value)


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
def test_nifti_slices(folder: DataConfig, tmp_path: Path, extension: str) -> None:
    """The grey values and masks of a set of pictures, as NIfTI (X, Y) and (X, Y, 1): the same arrays come out."""
    assert folder.root is not None
    expected = {}
    for path in sorted(folder.root.glob("*/images/*")):
        grey = np.asarray(Image.open(path).convert("L"))
        mask_path = path.parents[1] / "masks" / f"{path.stem}_segmentation.png"
        expected[path.stem] = (grey, np.asarray(Image.open(mask_path)) // 255)
        save_nifti(path.with_suffix(f".{extension}"), grey.astype(np.int16).T * 4 - 1000)
        save_nifti(mask_path.with_name(f"{path.stem}_segmentation.{extension}"), expected[path.stem][1].T[..., None])
        path.unlink()
        mask_path.unlink()
    config = folder.model_copy(update={"image_size": (48, 64), "window": (-1000.0, 20.0)})
    assert check_dataset(config).warnings == ()
    data = load_split(config, "val", tmp_path / "cache")
    for name, image, mask in zip(data.names, data.images, data.masks, strict=True):
        np.testing.assert_array_equal(image, np.repeat(expected[name][0][..., None], 3, axis=2))
        np.testing.assert_array_equal(mask, expected[name][1])
    stretched = load_split(folder.model_copy(update={"image_size": (48, 64)}), "val", tmp_path / "cache").images
    assert stretched.reshape(2, -1).min(axis=1).tolist() == [0, 0]
    assert stretched.reshape(2, -1).max(axis=1).tolist() == [255, 255]


def test_window_clips(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", np.array([[-2000.0, -125.0, 76.0, 275.0, 3000.0]]).T)
    assert read_image(tmp_path / "a.nii", (-125, 275))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_nifti_of_many_slices_is_no_picture(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii", np.zeros((4, 5, 6)))
    for read in (lambda: read_image(tmp_path / "a.nii"), lambda: read_mask(tmp_path / "a.nii", 1)):
        with pytest.raises(BadFileError, match=r"a\.nii \(holds 6 slices"):
            read()


def test_label_map(folder: DataConfig, tmp_path: Path) -> None:
    assert folder.root is not None
    stored = np.array([0, 10, 200, 255], np.uint8)
    for index, path in enumerate(sorted(folder.root.glob("*/masks/*"))):
        Image.fromarray(stored[np.random.default_rng(index).integers(0, 4, (48, 64))]).save(path)
    # As YAML and JSON give it: the keys may be strings.
    values = {**folder.model_dump(mode="json"), "num_classes": 3, "label_map": {"0": 0, "10": 2, "200": 1, "255": 0}}
    config: DataConfig = validate(DataConfig, values, source="test")
    assert DataConfig.model_validate_json(config.model_dump_json()) == config
    shares = check_dataset(config).class_share["train"]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert set(np.unique(load_split(config, "train", tmp_path / "cache").masks)) == {0, 1, 2}
    other = config.model_copy(update={"label_map": {0: 0, 10: 1, 200: 1, 255: 1}, "num_classes": 1})
    assert set(np.unique(load_split(other, "train", tmp_path / "cache").masks)) == {0, 1}
    partial = config.model_copy(update={"label_map": {0: 0, 255: 1}})
    with pytest.raises(InputError, match=r"13 × mask with values that label_map does not name: .* \(values 10, 200\)"):
        check_dataset(partial)


@given(
    label_map=st.dictionaries(st.integers(0, 70000), st.integers(0, 8), min_size=1, max_size=9),
    seed=st.integers(0, 2**32),
)
def test_each_value_becomes_its_class(label_map: dict[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).choice(sorted(label_map), (5, 6))
    classes = as_classes(values, "a.png", 9, label_map)
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[label_map[value] for value in row] for row in values.tolist()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_map": {0: 0, 255: 2}}, "classes 0 to 1"),
        ({"label_map": {0: 0, 1: 5}, "num_classes": 5}, "classes 0 to 4"),
        ({"label_map": {"-1": 0}}, "greater than or equal to 0"),
        ({"window": [3, 3]}, "low below high"),
        ({"patient_pattern": "("}, "not a regular expression"),
        ({"patient_pattern": r"\d+"}, "needs one group"),
        ({"val_fraction": 0}, "greater than 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        validate(DataConfig, {"name": "x", **options}, source="test")


def test_patient_in_two_splits(folder: DataConfig) -> None:
    config = folder.model_copy(update={"patient_pattern": r"_0000(\d)$"})
    with pytest.raises(InputError) as caught:
        check_dataset(config)
    assert "3 × patient (or volume, or video) that is in two splits" in str(caught.value)
    assert "2 (train and test)" in str(caught.value)
    apart = check_dataset(folder.model_copy(update={"patient_pattern": r"^(\w+_\d+)$"}))
    assert apart.num_patients == apart.num_images


def test_names_without_a_patient_are_a_warning(folder: DataConfig) -> None:
    [warning] = check_dataset(folder.model_copy(update={"patient_pattern": r"^(val)"})).warnings
    assert "no patient in 11 of 13 names" in warning


def test_pattern_that_would_take_years_is_refused(folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patients, "PATTERN_SECONDS", 1.0)
    endless = folder.model_copy(update={"patient_pattern": r"^((?:(?:(?:(?:\w+)+)+)+)+)!$"})
    with pytest.raises(InputError, match="more than 1 s") as caught:
        check_dataset(endless)
    assert caught.value.pointer == "/data/patient_pattern"


@given(
    groups=st.lists(st.integers(0, 12), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(-5, 2**40),
)
def test_hold_out_takes_about_its_share(groups: list[int], fraction: float, seed: int) -> None:
    """A patient of many images is not held out for a small share: train would be what is left of it."""
    named = [f"p{group}" for group in groups]
    sizes = Counter(named)
    wanted = max(1, round(len(groups) * fraction))
    _, held = hold_out(named, fraction, seed)
    assert len(held) - wanted < max(wanted, min(sizes.values()))


@pytest.mark.parametrize("seed", range(10))
def test_large_patient_is_not_held_out(seed: int) -> None:
    kept, held = hold_out(["large"] * 900 + ["a"] * 50 + ["b"] * 50, 0.1, seed)
    assert len(held) in (50, 100)
    assert set(range(900)) <= set(kept)


@given(
    groups=st.lists(st.integers(0, 12), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(-5, 2**40),
)
def test_hold_out_keeps_groups_whole(groups: list[int], fraction: float, seed: int) -> None:
    named = [f"p{group}" for group in groups]
    kept, held = hold_out(named, fraction, seed)
    assert kept
    assert held
    assert sorted(kept + held) == list(range(len(groups)))
    assert {named[index] for index in kept}.isdisjoint(named[index] for index in held)
    assert (kept, held) == hold_out(named, fraction, seed)
