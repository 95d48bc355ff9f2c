"""Hidden files, such as the ._ files that macOS leaves beside each, are no input, whatever reads the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from slicemamba.config import DataConfig, PicturesConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.dicom import files_of
from slicemamba.data.downloads import find_download
from slicemamba.data.pictures import find_pictures
from slicemamba.data.splits import split_pairs
from slicemamba.data.volumes import find_volumes
from slicemamba.evaluation.inputs import find_inputs

GREY = Image.fromarray(np.arange(40 * 48, dtype=np.uint32).astype(np.uint8).reshape(40, 48))
PARTS = ("train", "val", "test")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    GREY.save(path)


def volume(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), np.int16), np.eye(4)), path)


def pairs_of(root: Path) -> Iterable[str]:
    config = resolve_root(DataConfig(name="set", root=root, val_fraction=0.3, search_fraction=0.3))
    return (pair.name for pairs in split_pairs(root, config).values() for pair in pairs)


def split_folders(root: Path) -> Callable[[], Iterable[str]]:
    for split in PARTS:
        for index in range(4):
            picture(root / split / "images" / f"{split}{index}.png")
            picture(root / split / "masks" / f"{split}{index}.png")
    return lambda: pairs_of(root)


def polyp(root: Path) -> Callable[[], Iterable[str]]:
    for folder in ("TrainDataset", "TestDataset/one"):
        for index in range(9):
            picture(root / folder / "images" / f"{folder[:5]}{index}.png")
            picture(root / folder / "masks" / f"{folder[:5]}{index}.png")
    return lambda: pairs_of(root)


def synapse(root: Path) -> Callable[[], Iterable[str]]:
    for folder in ("train_npz", "test_vol_h5"):
        (root / folder).mkdir(parents=True)
    for case in range(9):
        np.savez(root / f"train_npz/case{case:04d}_slice000.npz", image=np.zeros((8, 8)), label=np.zeros((8, 8)))
    with h5py.File(root / "test_vol_h5/case0100.npy.h5", "w") as file:
        file["image"], file["label"] = np.zeros((2, 8, 8)), np.zeros((2, 8, 8))
    config = DataConfig(name="set", root=root)
    return lambda: [*pairs_of(root), *(path.name for path in find_volumes(config))]


def pretraining(root: Path) -> Callable[[], Iterable[str]]:
    for split in ("train", "val"):
        for name in ("cats", "dogs"):
            picture(root / split / name / "1.jpg")
    config = PicturesConfig(root=root)
    return lambda: [path.name for part in find_pictures(config) for path in part.files]


def download(*names: str) -> Callable[[Path], Callable[[], Iterable[str]]]:
    def write(root: Path) -> Callable[[], Iterable[str]]:
        for name in names:
            (volume if name.endswith(".nii.gz") else picture)(root / name)
        if (root / "imagesTr").exists():
            told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
            (root / "dataset.json").write_text(json.dumps(told))
        return lambda: [pair.name for pair in find_download("folder", root).pairs]

    return write


def prediction(root: Path) -> Callable[[], Iterable[str]]:
    picture(root / "a.png")
    volume(root / "sub/b.nii.gz")
    return lambda: [path.name for path in find_inputs([root])[0]]


def series(root: Path) -> Callable[[], Iterable[str]]:
    for name in ("1.dcm", "2.dcm"):
        picture(root / "x.png")
        (root / name).write_bytes(bytes(128) + b"DICM")
    return lambda: [path.name for path in files_of(root)]


LAYOUTS: dict[str, Callable[[Path], Callable[[], Iterable[str]]]] = {
    "split folders": split_folders,
    "polyp": polyp,
    "synapse": synapse,
    "pretraining": pretraining,
    "folders": download("images/a.png", "masks/a.png", "images/b.png", "masks/b.png"),
    "beside": download("x/a.png", "x/a_mask.png", "y/b.png", "y/b_mask.png"),
    "objects": download("1/images/1.png", "1/masks/a.png", "2/images/2.png", "2/masks/b.png", "2/masks/c.png"),
    "nnunet": download("imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz", "imagesTr/d_0000.nii.gz", "labelsTr/d.nii.gz"),
    "predict": prediction,
    "series": series,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_change_nothing(tmp_path: Path, layout: str) -> None:
    found = LAYOUTS[layout](tmp_path / "set")
    before = sorted(found())
    assert before
    for path in [*(tmp_path / "set").rglob("*.*")]:
        if path.is_file() and path.suffix != ".json":
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07left by macOS")
            path.with_name(f".{path.name}").write_bytes(path.read_bytes())
    assert sorted(found()) == before
