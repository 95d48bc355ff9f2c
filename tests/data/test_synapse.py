"""The Synapse layout, from a raw download to arrays: whole cases in one split, labels and geometry kept."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from synapse_cases import SPACING, draw_case, write_download

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.checks import check_dataset
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import Prepared, SplitPlan
from slicemamba.data.prepare_synapse import ORGANS, PUBLISHED_TEST_CASES, prepare_synapse
from slicemamba.data.slices import read_slice
from slicemamba.data.splits import SPLITS, split_pairs
from slicemamba.data.transforms import to_input
from slicemamba.data.volumes import find_volumes, read_volume
from slicemamba.errors import InputError

PLAN = SplitPlan((0.4, 0.2, 0.2, 0.2), seed=3)


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_download(tmp_path_factory.mktemp("raw"), 6)


@pytest.fixture
def synapse(download: Path, tmp_path: Path) -> DataConfig:
    prepare_synapse(download, tmp_path / "set", PLAN)
    return DataConfig(name="synapse", root=tmp_path / "set", num_classes=9, intensity="unit", image_size=(40, 48))


def cases(config: DataConfig) -> dict[str, set[str]]:
    assert config.root is not None
    return {s: {pair.name.split("_")[0] for pair in pairs} for s, pairs in split_pairs(config.root, config).items()}


def assert_apart(found: dict[str, set[str]], count: int) -> None:
    assert all(found[split] for split in SPLITS)
    assert sum(len(one) for one in found.values()) == len(set().union(*found.values())) == count


def test_prepared_files(synapse: DataConfig) -> None:
    root = synapse.root
    assert root is not None
    assert {path.name for path in root.iterdir()} == {
        "train_npz",
        "search_npz",
        "test_vol_h5",
        "lists",
        "prepared.json",
        "dataset.yaml",
    }
    summary = Prepared.model_validate_json((root / "prepared.json").read_bytes())
    assert sum(summary.num_groups.values()) == 6
    assert summary.num_images == {split: 5 * count for split, count in summary.num_groups.items()}
    lists = {path.stem: path.read_text().split() for path in (root / "lists/lists_Synapse").iterdir()}
    assert set(lists) == {"train", "val", "search", "test_vol"}
    assert len(lists["train"]) == summary.num_images["train"]
    assert len(list((root / "train_npz").iterdir())) == summary.num_images["train"] + summary.num_images["val"]


def test_values_labels_and_geometry_are_kept(synapse: DataConfig) -> None:
    for path in find_volumes(synapse):
        volume = read_volume(path)
        image, label = draw_case(int(volume.name[-4:]), (48, 40, 5))
        np.testing.assert_allclose(volume.image, (np.clip(image.T, -125, 275) + 125) / 400, atol=1e-6)
        expected = np.vectorize(lambda organ: ORGANS.get(int(organ), 0))(label.T)
        assert volume.label is not None
        np.testing.assert_array_equal(volume.label, expected)
        assert volume.spacing == pytest.approx(SPACING[::-1])


def test_one_file_holds_one_slice(synapse: DataConfig) -> None:
    assert synapse.root is not None
    path = next((synapse.root / "train_npz").glob("*_slice003.npz"))
    image, label = draw_case(int(path.name[4:8]), (48, 40, 5))
    with np.load(path) as file:
        assert (file["image"].dtype, file["image"].shape) == (np.float32, (40, 48))
        np.testing.assert_allclose(file["image"], (np.clip(image[..., 3].T, -125, 275) + 125) / 400, atol=1e-6)
        assert (file["label"] > 0).sum() == np.isin(label[..., 3], list(ORGANS)).sum()


def test_check(synapse: DataConfig) -> None:
    report = check_dataset(synapse)
    assert report.warnings == ()
    assert sum(report.num_patients.values()) == 6
    assert report.smallest_size == report.largest_size == (40, 48)
    assert report.value_range == (0, 1)
    for shares in report.class_share.values():
        assert len(shares) == 9
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("split", SPLITS)
def test_load(synapse: DataConfig, tmp_path: Path, split: str) -> None:
    data = load_split(synapse, split, tmp_path / "cache")
    assert data.images.shape == (len(data), 40, 48, 1)
    assert (data.images.dtype, data.masks.dtype) == (np.float32, np.uint8)
    assert isinstance(data.images, np.memmap)
    assert set(np.unique(data.masks)) == set(range(9))
    pixels = to_input(data.images, data.intensity)
    assert pixels.shape == (len(data), 3, 40, 48)
    np.testing.assert_array_equal(pixels.numpy(), np.repeat(data.images.transpose(0, 3, 1, 2), 3, axis=1))
    again = load_split(synapse, split, tmp_path / "cache", on_progress=lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(again.images, data.images)


def test_test_slices_are_those_of_the_volumes(synapse: DataConfig, tmp_path: Path) -> None:
    data = load_split(synapse, "test", tmp_path / "cache")
    volumes = [read_volume(path) for path in find_volumes(synapse)]
    np.testing.assert_array_equal(data.images[..., 0], np.concatenate([volume.image for volume in volumes]))
    np.testing.assert_array_equal(data.masks, np.concatenate([volume.label for volume in volumes]))
    assert data.names[:2] == (f"{volumes[0].name}_slice000", f"{volumes[0].name}_slice001")


def test_resize_is_cubic_for_images_and_nearest_for_labels(synapse: DataConfig, tmp_path: Path) -> None:
    small = synapse.model_copy(update={"image_size": (32, 36)})
    data, whole = load_split(small, "val", tmp_path / "cache"), load_split(synapse, "val", tmp_path / "cache")
    for index in range(len(data)):
        expected = ndimage.zoom(whole.images[index, ..., 0], (32 / 40, 36 / 48), order=3)
        np.testing.assert_allclose(data.images[index, ..., 0], expected, atol=1e-6)
        expected = ndimage.zoom(whole.masks[index], (32 / 40, 36 / 48), order=0)
        np.testing.assert_array_equal(data.masks[index], expected)
    assert data.masks.mean() == pytest.approx(whole.masks.mean(), rel=0.1)


def test_cases_stay_whole(synapse: DataConfig) -> None:
    assert_apart(cases(synapse), 6)


def test_without_lists_and_search_folder_cases_are_held_out(synapse: DataConfig, tmp_path: Path) -> None:
    root = synapse.root
    assert root is not None
    before = cases(synapse)
    shutil.rmtree(root / "lists")
    for path in (root / "search_npz").iterdir():
        path.rename(root / "train_npz" / path.name)
    (root / "search_npz").rmdir()
    after = cases(synapse)
    assert_apart(after, 6)
    assert after["test"] == before["test"]
    assert cases(synapse) == after
    check_dataset(synapse)


def test_val_list_takes_its_slices_out_of_train(synapse: DataConfig) -> None:
    assert synapse.root is not None
    before = cases(synapse)
    (synapse.root / "lists/lists_Synapse/train.txt").unlink()
    assert cases(synapse) == before


def test_a_case_in_two_splits_is_a_fault(synapse: DataConfig) -> None:
    assert synapse.root is not None
    lists = synapse.root / "lists/lists_Synapse"
    name = (lists / "train.txt").read_text().split()[0]
    with (lists / "val.txt").open("a") as file:
        file.write(f"{name}\n")
    with pytest.raises(InputError) as caught:
        check_dataset(synapse)
    assert "in two splits" in str(caught.value)
    assert f"{name.split('_')[0]} (train and val)" in str(caught.value)


def test_listed_but_missing(synapse: DataConfig) -> None:
    assert synapse.root is not None
    with (synapse.root / "lists/lists_Synapse/val.txt").open("a") as file:
        file.write("case0099_slice000\n")
    with pytest.raises(InputError, match=r"train_npz/case0099_slice000\.npz \(list val\)"):
        check_dataset(synapse)


def damage(path: Path, kind: str) -> None:
    if kind == "broken":
        path.write_bytes(path.read_bytes()[:100])
    elif path.suffix == ".npz":
        np.savez(path, **({"image": np.zeros((3, 4))} if kind == "keys" else {"image": 1.0, "label": 1.0}))
    else:
        with h5py.File(path, "w") as file:
            file["image"] = np.zeros((3, 4, 5) if kind == "keys" else (3, 4))
            if kind == "shape":
                file["label"] = np.zeros((3, 4))


@pytest.mark.parametrize("kind", ["broken", "keys", "shape"])
@pytest.mark.parametrize("pattern", ["train_npz/*.npz", "test_vol_h5/*.h5"])
def test_faulty_files_are_named(synapse: DataConfig, pattern: str, kind: str) -> None:
    assert synapse.root is not None
    path = next(synapse.root.glob(pattern))
    damage(path, kind)
    with pytest.raises(InputError) as caught:
        check_dataset(synapse)
    assert path.name in str(caught.value)


def test_any_damage_of_a_slice_is_told_or_harmless(synapse: DataConfig) -> None:
    """In a compressed file it may show as an error of zlib's own."""
    assert synapse.root is not None
    path = next((synapse.root / "train_npz").glob("*.npz"))
    intact, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        place = int(rng.integers(len(intact)))
        path.write_bytes(intact[:place] + rng.bytes(4) + intact[place + 4 :])
        with contextlib.suppress(BadFileError):
            read_slice(path, None)


def test_a_slice_is_read_again_after_pythons_own_error(synapse: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert synapse.root is not None
    path = next((synapse.root / "train_npz").glob("*.npz"))
    expected = read_slice(path, None)
    load, faults = np.load, iter([True, True, False])

    def faulty(*args: object, **options: object) -> object:
        if next(faults):
            raise SystemError("AST constructor recursion depth mismatch (before=51, after=49)")
        return load(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "load", faulty)
    for array, first in zip(read_slice(path, None), expected, strict=True):
        np.testing.assert_array_equal(array, first)


def test_hounsfield_units_with_intensity_unit_are_a_warning(synapse: DataConfig) -> None:
    assert synapse.root is not None
    path = next((synapse.root / "train_npz").glob("*.npz"))
    with np.load(path) as file:
        image, label = file["image"] * 2000 - 1000, file["label"]
    np.savez(path, image=image, label=label)
    [warning] = check_dataset(synapse).warnings
    assert "set window" in warning
    windowed = synapse.model_copy(update={"window": (-125, 275)})
    report = check_dataset(windowed)
    assert report.warnings == ()
    assert report.value_range == (0, 1)


def test_published_test_cases(tmp_path: Path) -> None:
    download = write_download(tmp_path / "raw", 40, (6, 6, 1))
    prepare_synapse(download, tmp_path / "set", SplitPlan(), published_test=True)
    found = cases(DataConfig(name="synapse", root=tmp_path / "set", num_classes=9))
    assert found["test"] == PUBLISHED_TEST_CASES
    assert_apart(found, 40)
    small = write_download(tmp_path / "few", 3, (6, 6, 1))
    with pytest.raises(InputError, match="case0004"):
        prepare_synapse(small, tmp_path / "other", SplitPlan(), published_test=True)


def test_labels_of_eight_organs_are_kept(download: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 8"):
        prepare_synapse(download, tmp_path / "set", PLAN, keep_labels=True)
    assert not (tmp_path / "set").exists()


def test_images_without_labels_are_left_out(download: Path, tmp_path: Path) -> None:
    raw = shutil.copytree(download, tmp_path / "raw")
    shutil.copy(raw / "averaged-training-images/img0001.nii.gz", raw / "averaged-training-images/img0061.nii.gz")
    assert prepare_synapse(raw, tmp_path / "set", PLAN).num_left_out == 1


def test_label_of_another_shape(download: Path, tmp_path: Path) -> None:
    raw = shutil.copytree(download, tmp_path / "raw")
    write_download(tmp_path / "other", 1, (48, 40, 4))
    shutil.copy(tmp_path / "other/averaged-training-labels/label0001.nii.gz", raw / "averaged-training-labels")
    with pytest.raises(InputError, match=r"img0001\.nii\.gz is \(5, 40, 48\), label0001\.nii\.gz is \(4, 40, 48\)"):
        prepare_synapse(raw, tmp_path / "set", PLAN)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no img0001\.nii\.gz"):
        prepare_synapse(tmp_path / "nowhere", tmp_path / "set", PLAN)


def test_label_stored_from_the_other_side_is_refused(tmp_path: Path) -> None:
    source = write_download(tmp_path / "raw", 4)
    path = source / "averaged-training-labels" / "label0002.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.affine), path)
    with pytest.raises(BadFileError, match=r"img0002\.nii\.gz runs to RAS, label0002\.nii\.gz to LAS"):
        prepare_synapse(source, tmp_path / "set", PLAN)
    assert not (tmp_path / "set").exists()
