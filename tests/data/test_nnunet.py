"""nnU-Net raw data sets: dataset.json is honoured, cases of several channels and volumes come through whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.description import read_description
from slicemamba.data.export_nnunet import export_nnunet
from slicemamba.data.prepare import Prepared, SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_image, read_pair
from slicemamba.data.splits import SPLITS, split_pairs
from slicemamba.data.volumes import Volume, find_volumes, read_volume
from slicemamba.errors import InputError

SPACING = (0.7, 0.8, 5.0)  # x, y, z in mm
SHAPE = (6, 20, 24)  # z, y, x
LABELS = {"background": 0, "organ": 1, "tumour": 2}
PLAN = SplitPlan((0.5, 0.25, 0.0, 0.25))


def description(
    root: Path, labels: dict[str, Any] = LABELS, channels: tuple[str, ...] = ("CT",), end: str = ".png"
) -> Path:
    told = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": labels, "file_ending": end}
    (root / "dataset.json").write_text(json.dumps(told))
    return root


def draw(number: int, channels: int = 1) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """(C, Z, Y, X) and labels (Z, Y, X)."""
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    label[1:5, 4:14, 5:18] = 1
    label[2:4, 6:10, 8 + number % 4 : 14] = 2
    image = rng.integers(-50, 50, (channels, *SHAPE))
    return (image + 100 * label).astype(np.int16), label


def write_volume(path: Path, array: NDArray[Any]) -> None:
    image: Any = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))  # coronal
    SimpleITK.WriteImage(image, str(path))


def volumes(root: Path, ending: str, count: int = 8, channels: int = 1, tests: int = 0) -> Path:
    for number in range(count + tests):
        end = "Tr" if number < count else "Ts"
        for part in ("images", "labels"):
            (root / (part + end)).mkdir(parents=True, exist_ok=True)
        image, label = draw(number, channels)
        for channel in range(channels):
            write_volume(root / f"images{end}" / f"case_{number:02d}_{channel:04d}{ending}", image[channel])
        write_volume(root / f"labels{end}" / f"case_{number:02d}{ending}", label)
    return description(root, channels=("T1", "T2", "FLAIR")[:channels], end=ending)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_volumes_are_cut_into_slices_and_keep_values_labels_and_geometry(tmp_path: Path, ending: str) -> None:
    made = prepare_pictures("folder", volumes(tmp_path / "raw", ending), tmp_path / "set", PLAN)
    assert sum(made.num_images.values()) == 8 * SHAPE[0]
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32), intensity="zscore"))
    assert (config.channels, config.num_classes) == (1, 3)
    assert config.class_names == ("background", "organ", "tumour")
    report = check_dataset(config)
    assert all(share > 0.01 for share in report.class_share["train"])
    assert sum(report.num_patients.values()) == 8
    found = find_volumes(config)
    assert len(found) == 2
    for path in found:
        volume = read_volume(path)
        image, label = draw(int(volume.name[-2:]))
        np.testing.assert_array_equal(volume.image, image[0])
        np.testing.assert_array_equal(volume.label, label)
        assert volume.spacing == pytest.approx(SPACING[::-1])
        original = read_volume(tmp_path / "raw/imagesTr" / f"{volume.name}_0000{ending}")
        np.testing.assert_allclose(volume.affine, original.affine, atol=1e-5)
        np.testing.assert_allclose(original.affine @ [0, 0, 0, 1], [-10, 20, 30, 1])
    cases = {
        split: {pair.name.split("_slice")[0] for pair in pairs}
        for split, pairs in split_pairs(tmp_path / "set", config).items()
    }
    assert sum(map(len, cases.values())) == len(set().union(*cases.values()))
    assert load_split(config, "train", tmp_path / "cache").images.shape[3] == 1


def test_formats_agree_on_geometry(tmp_path: Path) -> None:
    image, _ = draw(3)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_volume(tmp_path / f"a{ending}", image[0])
    first, *others = (read_volume(tmp_path / f"a{ending}") for ending in (".nii.gz", ".nrrd", ".mha"))
    for other in others:
        np.testing.assert_array_equal(other.image, first.image)
        np.testing.assert_allclose(other.affine, first.affine, atol=1e-5)
        assert other.spacing == pytest.approx(first.spacing)


def test_volumes_of_three_sequences_with_tests_of_their_own(tmp_path: Path) -> None:
    """Channels come as files and are scaled each; labelsTs is the test split; a patient's volumes stay together."""
    source = volumes(tmp_path / "raw", ".nii.gz", count=8, channels=3, tests=2)
    groups = {f"case_{number:02d}": f"patient {number // 2}" for number in range(10)}
    prepare_pictures("folder", source, tmp_path / "set", SplitPlan((0.5, 0.2, 0.1, 0.2), groups=groups))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32), intensity="zscore"))
    assert (config.channels, config.scales_each) == (3, True)
    assert [path.name for path in find_volumes(config)] == ["case_08.npy.h5", "case_09.npy.h5"]
    np.testing.assert_array_equal(read_volume(find_volumes(config)[0]).image, np.moveaxis(draw(8, 3)[0], 0, -1))
    homes = {
        split: {groups[pair.name.split("_slice")[0]] for pair in pairs}
        for split, pairs in split_pairs(tmp_path / "set", config).items()
    }
    assert sum(map(len, homes.values())) == len(set().union(*homes.values())) == 5
    assert all(homes[split] for split in SPLITS)
    check_dataset(config)
    assert load_split(config, "train", tmp_path / "cache").images.shape[3] == 3


def pictures(root: Path, channels: int, labels: dict[str, Any], values: list[int], tests: int = 0) -> Path:
    for number in range(12 + tests):
        end = "Tr" if number < 12 else "Ts"
        for part in ("images", "labels"):
            (root / (part + end)).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        for channel in range(channels):
            grey = rng.integers(0, 60000, (20, 24)).astype(np.uint16)
            Image.fromarray(grey).save(root / f"images{end}" / f"case_{number:02d}_{channel:04d}.png")
        stripes = np.array(values, np.uint8)[np.arange(24) // 5 % len(values)][None].repeat(20, axis=0)
        Image.fromarray(stripes).save(root / f"labels{end}" / f"case_{number:02d}.png")
    return description(root, labels, ("a", "b", "c")[:channels])


@pytest.mark.parametrize("channels", [2, 3])
def test_pictures_of_several_channels_become_one_file(tmp_path: Path, channels: int) -> None:
    source = pictures(tmp_path / "raw", channels, {"background": 0, "disc": 1}, [0, 1], tests=3)
    made = prepare_pictures("folder", source, tmp_path / "set", PLAN)
    assert made.num_images["test"] == 3
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32)))
    assert (config.channels, config.scales_each) == (channels, True)
    check_dataset(config)
    pair = next(pair for pair in split_pairs(tmp_path / "set", config)["test"] if pair.name == "case_13")
    second = read_image(source / "imagesTs/case_13_0001.png", channels=1)
    np.testing.assert_array_equal(read_image(pair.image, None, channels, True)[..., 1], second[..., 0])


def test_ignore_label_is_honoured(tmp_path: Path) -> None:
    source = pictures(tmp_path / "raw", 1, {"background": 0, "disc": 1, "cup": 3, "ignore": 7}, [0, 1, 3, 7])
    prepare_pictures("folder", source, tmp_path / "set", PLAN)
    told = read_description(tmp_path / "set")
    assert (told.ignore_label, told.label_map) == (7, {0: 0, 1: 1, 3: 2})
    assert told.class_names == ("background", "disc", "cup")
    check_dataset(DataConfig(name="set", root=tmp_path / "set"))


def test_missing_channel_and_missing_image_are_named(tmp_path: Path) -> None:
    source = pictures(tmp_path / "raw", 2, LABELS, [0, 1, 2])
    (source / "imagesTr/case_03_0001.png").rename(source / "imagesTr/case_03_0002.png")
    for channel in range(2):
        (source / f"imagesTr/case_05_{channel:04d}.png").unlink()
    with pytest.raises(InputError, match="2 faults") as error:
        prepare_pictures("folder", source, tmp_path / "set", PLAN)
    told = " ".join(error.value.details)
    assert "case_03 (case_03_0000.png, case_03_0002.png; dataset.json names 2 channels)" in told
    assert "labelsTr/case_05.png" in told


def test_msd_volumes_of_four_dimensions(tmp_path: Path) -> None:
    """The Medical Segmentation Decathlon: modality in place of channel_names, channels as the fourth axis."""
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for number in range(6):
        image, label = draw(number, 2)
        affine = np.diag([*SPACING, 1.0])
        nib.save(nib.Nifti1Image(image.transpose(3, 2, 1, 0), affine), tmp_path / f"raw/imagesTr/p_{number}.nii.gz")
        nib.save(nib.Nifti1Image(label.T, affine), tmp_path / f"raw/labelsTr/p_{number}.nii.gz")
    (tmp_path / "raw/imagesTr/._p_0.nii.gz").write_bytes(b"left by macOS")
    told = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"}}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"set data\.channels: 2") as error:
        read_volume(tmp_path / "raw/imagesTr/p_0.nii.gz")
    assert "fourth axis" in str(error.value)
    made = prepare_pictures("folder", tmp_path, tmp_path / "set", PLAN)
    assert sum(made.num_groups.values()) == 6
    volume = read_volume(find_volumes(DataConfig(name="set", root=tmp_path / "set"))[0])
    np.testing.assert_array_equal(volume.image[..., 1], draw(int(volume.name[-1]), 2)[0][1])
    Prepared.model_validate_json((tmp_path / "set/prepared.json").read_bytes())


def test_labels_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell the splits, and are written; damaged ones are told beside other faults."""
    source = volumes(tmp_path / "raw", ".nii.gz")
    read: list[str] = []

    def counting(path: Path) -> Volume:
        read.append(path.name)
        return read_volume(path)

    monkeypatch.setattr("slicemamba.data.prepare_volumes.read_volume", counting)
    prepare_pictures("folder", source, tmp_path / "set", PLAN)
    assert sorted(read) == [f"case_{number:02d}.nii.gz" for number in range(8)]
    (source / "labelsTr/case_03.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match="1 fault") as error:
        prepare_pictures("folder", source, tmp_path / "again", PLAN)
    assert "labelsTr/case_03.nii.gz" in error.value.details[0]


def test_damaged_volume_is_named(tmp_path: Path) -> None:
    source = volumes(tmp_path / "raw", ".nrrd")
    path = source / "imagesTr/case_02_0000.nrrd"
    path.write_bytes(path.read_bytes()[:400])
    write_volume(source / "labelsTr/case_04.nrrd", np.zeros((5, 20, 24), np.uint8))
    with pytest.raises(InputError, match="2 faults") as error:
        prepare_pictures("folder", source, tmp_path / "set", PLAN)
    assert any("case_02_0000.nrrd" in line for line in error.value.details)
    assert any("case_04.nrrd is (5, 20, 24)" in line for line in error.value.details)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("channels", [1, 2])
def test_exported_set_is_read_again_as_it_was(tmp_path: Path, channels: int) -> None:
    labels = {"background": 0, "disc": 1, "cup": 2, "ignore": 3}
    prepare_pictures("folder", pictures(tmp_path / "raw", channels, labels, [0, 1, 2, 3]), tmp_path / "set", PLAN)
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set"))
    exported = tmp_path / "Dataset012_Eyes"
    written = export_nnunet(config, exported)
    pairs = split_pairs(tmp_path / "set", config)
    assert written == {"imagesTr": 12 - len(pairs["test"]), "imagesTs": len(pairs["test"])}
    (fold,) = json.loads((exported / "splits_final.json").read_text())
    assert fold["val"] == [pair.name for pair in pairs["val"]]
    assert fold["train"] == sorted(pair.name for split in ("train", "search") for pair in pairs[split])
    assert json.loads((exported / "dataset.json").read_text())["labels"] == labels
    prepare_pictures("folder", exported, tmp_path / "again", PLAN)
    again = resolve_root(DataConfig(name="again", root=tmp_path / "again"))
    found = split_pairs(tmp_path / "again", again)["test"]
    assert [pair.name for pair in found] == [pair.name for pair in pairs["test"]]
    for before, after in zip(pairs["test"], found, strict=True):
        for one, two in zip(read_pair(before, config), read_pair(after, again), strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError, match="named like Dataset027_Polyps; got 'eyes'"):
        export_nnunet(config, tmp_path / "eyes")
