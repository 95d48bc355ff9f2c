"""Volumes: read with their geometry, and labels written so that they lie on the image voxel by voxel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.findings import BadFileError
from slicemamba.data.volumes import apply_window, base_name, find_volumes, read_volume, write_labels
from slicemamba.errors import InputError

# Oblique, flipped, anisotropic: every axis and sign is told apart.
AFFINE = np.array([[-0.6, 0.1, 0, 90], [0.1, 0.7, 0.2, -120], [0, -0.2, 3.0, 40], [0, 0, 0, 1]])
STORED = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) * 50 - 500  # (X, Y, Z)


def save_nifti(path: Path, array: NDArray[Any] = STORED, affine: NDArray[Any] = AFFINE, unit: str = "mm") -> Path:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def save_hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz", "CASE.NII.GZ"])
def test_nifti(tmp_path: Path, name: str) -> None:
    volume = read_volume(save_nifti(tmp_path / name))
    assert volume.name == name.split(".")[0]
    assert volume.image.shape == (4, 3, 2)
    assert volume.image.dtype == np.float32
    for z, y, x in np.ndindex(4, 3, 2):
        assert volume.image[z, y, x] == STORED[x, y, z]
    assert volume.label is None
    assert volume.spacing == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1])
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)


@pytest.mark.parametrize("name", ["out.nii", "deep/folder/out.nii.gz"])
def test_labels_lie_on_the_image_voxel_by_voxel(tmp_path: Path, name: str) -> None:
    volume = read_volume(save_nifti(tmp_path / "case.nii.gz"))
    labels = np.random.default_rng(0).integers(0, 9, volume.image.shape, dtype=np.uint8)
    write_labels(tmp_path / name, labels, volume)
    written = nib.load(tmp_path / name)
    assert written.get_data_dtype() == np.uint8
    assert np.asarray(written.dataobj).shape == STORED.shape
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "case.nii.gz").affine)
    again = read_volume(tmp_path / name)
    np.testing.assert_array_equal(again.image, labels)
    assert again.spacing == pytest.approx(volume.spacing)  # NIfTI keeps it as float32


def test_header_scaling_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(STORED, AFFINE)
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "case.nii")
    expected = np.asarray(nib.load(tmp_path / "case.nii").dataobj).T
    np.testing.assert_allclose(read_volume(tmp_path / "case.nii").image, expected)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_other_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    volume = read_volume(save_nifti(tmp_path / "case.nii", affine=np.diag([1, 2, 3, 1]), unit=unit))
    assert volume.spacing == pytest.approx((3 * factor, 2 * factor, factor))
    write_labels(tmp_path / "out.nii", np.zeros((4, 3, 2)), volume)
    assert read_volume(tmp_path / "out.nii").spacing == pytest.approx(volume.spacing)


def test_single_slices(tmp_path: Path) -> None:
    for array in (STORED[..., 0], STORED[..., :1], STORED[..., :1, None]):
        volume = read_volume(save_nifti(tmp_path / "slice.nii", array))
        np.testing.assert_array_equal(volume.image, STORED[..., 0].T[None])


def test_window(tmp_path: Path) -> None:
    image = read_volume(save_nifti(tmp_path / "case.nii"), window=(-125, 275)).image
    np.testing.assert_allclose(image, (np.clip(STORED.T, -125, 275) + 125) / 400, atol=1e-6)
    with pytest.raises(InputError, match="low below high"):
        apply_window(STORED, (275, -125))


def test_hdf5(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 5, 4)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 9, image.shape).astype(np.float32)
    volume = read_volume(save_hdf5(tmp_path / "case0001.npy.h5", image=image, label=label))
    assert (volume.name, volume.spacing, volume.affine) == ("case0001", None, None)
    np.testing.assert_array_equal(volume.image, image)
    assert volume.label is not None
    assert volume.label.dtype == np.uint8
    np.testing.assert_array_equal(volume.label, label)
    write_labels(tmp_path / "out.nii.gz", volume.label, volume)
    assert read_volume(tmp_path / "out.nii.gz").spacing == (1, 1, 1)


def test_hdf5_geometry(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "case.h5", image=np.zeros((2, 3, 4)))
    with h5py.File(path, "a") as file:
        file.attrs["spacing"], file.attrs["affine"] = (3.0, 0.7, 0.6), AFFINE
    volume = read_volume(path)
    assert volume.spacing == (3.0, 0.7, 0.6)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.label is None


def test_four_dimensions(tmp_path: Path) -> None:
    with pytest.raises(
        BadFileError,
        match=r"series\.nii \(shape \(2, 3, 4, 5\); if its fourth axis holds channels, set data.channels: 5",
    ):
        read_volume(save_nifti(tmp_path / "series.nii", np.zeros((2, 3, 4, 5), np.int16)))
    with pytest.raises(BadFileError, match=r"'image' has shape \(2, 3\)"):
        read_volume(save_hdf5(tmp_path / "flat.h5", image=np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"img": np.zeros((1, 2, 2))}, "no data set 'image'; it holds img"),
        ({}, "it holds nothing"),
        ({"image": np.zeros((1, 2, 2)), "label": np.zeros((1, 2, 3))}, r"'label' \(1, 2, 3\)"),
        ({"image": np.zeros((1, 2, 2)), "label": np.full((1, 2, 2), 0.5)}, "labels out of range"),
        ({"image": np.zeros((1, 2, 2)), "label": np.full((1, 2, 2), -1)}, "labels out of range"),
        ({"image": np.full((1, 2, 2), np.nan)}, "not finite"),
        ({"image": "text"}, "shape"),
    ],
)
def test_hdf5_that_does_not_hold_what_is_expected(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadFileError, match=expected):
        read_volume(save_hdf5(tmp_path / "case.h5", **arrays))


@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz", "case.h5"])
@pytest.mark.parametrize("content", [None, b"", b"no volume at all", "cut"])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes | str | None) -> None:
    path = tmp_path / name
    if content == "cut":
        save = save_hdf5 if name.endswith("h5") else save_nifti
        save(path, **({"image": STORED} if name.endswith("h5") else {}))
        content = path.read_bytes()[: path.stat().st_size // 2]
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(BadFileError, match=name):
        read_volume(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="extension is not known"):
        read_volume(tmp_path / "case.xyz")
    volume = read_volume(save_nifti(tmp_path / "case.nii"))
    with pytest.raises(InputError, match=r"\.nii\.gz; got out\.png"):
        write_labels(tmp_path / "out.png", np.zeros((4, 3, 2)), volume)
    with pytest.raises(InputError, match=r"must be \(4, 3, 2\)"):
        write_labels(tmp_path / "out.nii", np.zeros((2, 3, 4)), volume)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("case0001.npy.h5", "case0001"), ("a.b.nii.gz", "a.b"), ("A.NII", "A"), ("c.hdf5", "c"), ("d.1.png", "d.1")],
)
def test_base_name(name: str, expected: str) -> None:
    assert base_name(Path(name)) == expected


def test_test_volumes_are_found(tmp_path: Path, folder: DataConfig) -> None:
    (tmp_path / "set/test_vol_h5").mkdir(parents=True)
    for number in (1, 2, 3):
        save_hdf5(tmp_path / f"set/test_vol_h5/case{number:04d}.npy.h5", image=np.zeros((1, 2, 2)))
    config = DataConfig(name="synapse", root=tmp_path / "set", num_classes=9)
    assert [base_name(path) for path in find_volumes(config)] == ["case0001", "case0002", "case0003"]
    lists = tmp_path / "set/lists/lists_Synapse"
    lists.mkdir(parents=True)
    (lists / "test_vol.txt").write_text("case0003\ncase0001.npy.h5\n\n")
    assert [base_name(path) for path in find_volumes(config)] == ["case0003", "case0001"]
    (lists / "test_vol.txt").write_text("case0009\n")
    with pytest.raises(InputError, match="case0009"):
        find_volumes(config)
    assert find_volumes(folder) == []
    assert find_volumes(DataConfig()) == []


def test_pictures_for_drawing() -> None:
    grey = np.linspace(-0.1, 1.1, 12, dtype=np.float32).reshape(1, 3, 4, 1)
    masks = np.zeros((1, 3, 4), np.uint8)
    picture = SegmentationData(grey, masks, ("a",), "test", 9).picture(0)
    assert (picture.shape, picture.dtype) == ((3, 4, 3), np.uint8)
    np.testing.assert_array_equal(picture[..., 2], np.rint(np.clip(grey[0, ..., 0], 0, 1) * 255))
    colours = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(SegmentationData(colours, masks, ("a",), "test", 1).picture(0), colours[0])
