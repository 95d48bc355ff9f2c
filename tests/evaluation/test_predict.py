"""Masks on disk: names, sizes, formats, geometry; broken files and clashes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from segmenter_cases import AFFINE, Brightness, NotFinite, save_hdf5, save_nifti, segmenter

from slicemamba.config import DataConfig
from slicemamba.errors import InputError
from slicemamba.evaluation.drawing import PREDICTION_COLOUR
from slicemamba.evaluation.inputs import find_inputs, tell_aside
from slicemamba.evaluation.predict import Outputs, predict_files


def save_picture(path: Path, height: int = 50, width: int = 70) -> Path:
    """Bright in the middle."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def bright_block() -> np.ndarray:
    """(X, Y, Z) with bright voxels from slice 2 on."""
    stored = np.full((40, 30, 6), -100, np.int16)
    stored[10:30, 8:20, 2:] = 900
    return stored


def test_inputs_are_files_and_what_lies_in_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.nii.gz", "d.npy.h5", "notes.txt", "._a.jpg", "e.nii"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("sub/f.png", "sub/scan.czi", "out/g.png", "out/probabilities/g.png", ".cache/h.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found, aside = find_inputs([tmp_path, tmp_path / "notes.txt"], tmp_path / "out")
    names = [path.name for path in found]
    assert tell_aside(aside) == "; 2 files of kinds that are not read were left aside: .txt 1, .czi 1"
    assert names == ["a.JPG", "b.png", "c.nii.gz", "d.npy.h5", "e.nii", "f.png", "notes.txt"]
    with pytest.raises(InputError, match=r"no such file or folder: .*absent"):
        find_inputs([tmp_path, tmp_path / "absent"])
    with pytest.raises(InputError, match=r"no image or volume \(.*\.nii\.gz"):
        find_inputs([tmp_path / "folder.png"])
    assert tell_aside(Counter()) == ""


def test_subfolders_and_endings_keep_masks_apart(tmp_path: Path) -> None:
    files = [save_picture(tmp_path / "in" / name) for name in ("a.png", "a.jpg", "x/a.png", "y/a.png", "y/b.png")]
    outputs = Outputs(tmp_path / "out", probabilities=True, overlays=True, roots=(tmp_path / "in",))
    done = predict_files(segmenter(Brightness()), find_inputs([tmp_path / "in"])[0], outputs)
    expected = {"a.png.png", "a.jpg.png", "x/a.png", "y/a.png", "y/b.png"}
    assert len(done.masks) == len(files)
    for folder in ("", "probabilities", "overlays"):
        here = tmp_path / "out" / folder
        written = {path.relative_to(here).as_posix() for path in here.rglob("*.png")}
        assert {name for name in written if not name.startswith(("probabilities", "overlays"))} == expected


def test_binary_masks_have_0_and_255_and_the_size_of_the_image(tmp_path: Path) -> None:
    files = [save_picture(tmp_path / "in" / "a.jpg"), save_picture(tmp_path / "in" / "b.tif", 33, 21)]
    told: list[tuple[int, int]] = []
    done = predict_files(
        segmenter(Brightness()), files, Outputs(tmp_path / "out"), on_progress=lambda *at: told.append(at)
    )
    assert done.masks == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]
    assert done.failed == {}
    assert told == [(1, 2), (2, 2)]
    for file, size in zip(done.masks, [(50, 70), (33, 21)], strict=True):
        mask = read(file)
        assert mask.shape == size
        assert set(np.unique(mask)) == {0, 255}
        assert mask[size[0] // 2, size[1] // 2] == 255
        assert mask[0, 0] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"], "nothing unasked"


def test_probabilities_and_overlays(tmp_path: Path) -> None:
    file = save_picture(tmp_path / "a.png")
    out = tmp_path / "out"
    predict_files(segmenter(Brightness()), [file], Outputs(out, probabilities=True, overlays=True))
    grey, mask, overlay = (read(out / part / "a.png") for part in ("probabilities", "", "overlays"))
    assert grey.dtype == np.uint16
    assert np.array_equal(grey > 65535 // 2, mask == 255)
    assert grey[25, 35] == pytest.approx(65535 / (1 + np.exp(-4)), abs=1)
    drawn = (overlay == PREDICTION_COLOUR).all(axis=2)
    assert drawn.any()
    assert (mask[drawn] == 255).all(), "outlines lie on the inside"
    assert np.array_equal(overlay[~drawn], read(file)[~drawn])


def test_label_masks_hold_the_classes_and_probabilities_all_of_them(tmp_path: Path) -> None:
    pixels = np.repeat(np.linspace(0, 255, 60).astype(np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    Image.fromarray(pixels).save(tmp_path / "ramp.png")
    out = tmp_path / "out"
    outputs = Outputs(out, probabilities=True, overlays=True)
    predict_files(segmenter(Brightness(4)), [tmp_path / "ramp.png"], outputs)
    mask = read(out / "ramp.png")
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert (np.diff(mask.astype(int), axis=1) >= 0).all()
    with np.load(out / "probabilities" / "ramp.npz") as file:
        probabilities = file["probabilities"]
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (4, 40, 60)
    assert (probabilities.argmax(axis=0) == mask).mean() > 0.98
    assert (out / "overlays" / "ramp.png").is_file()


@pytest.mark.parametrize("kind", ["nii.gz", "h5"])
def test_volume(tmp_path: Path, kind: str) -> None:
    stored = bright_block()
    file = tmp_path / f"case.{kind}"
    if kind == "h5":
        save_hdf5(file, stored.T.astype(np.float32), affine=AFFINE)
    else:
        save_nifti(file, stored)
    told: list[tuple[int, int]] = []
    done = predict_files(
        segmenter(Brightness(full=255), batch_size=4),
        [file],
        Outputs(tmp_path / "out", probabilities=True, overlays=True, window=(-100, 900)),
        on_progress=lambda *at: told.append(at),
    )
    assert done.masks == [tmp_path / "out" / "case.nii.gz"]
    assert told[-1] == (6, 6)
    mask = nib.load(done.masks[0])
    np.testing.assert_allclose(mask.affine, AFFINE, rtol=1e-6)
    labels = np.asarray(mask.dataobj)
    assert labels.dtype == np.uint8
    inner = labels[:, :, 2:]
    assert (inner == (stored[:, :, 2:] == 900)).mean() > 0.97
    probabilities = nib.load(tmp_path / "out" / "probabilities" / "case.nii.gz")
    assert probabilities.get_data_dtype() == np.float32
    assert probabilities.shape == stored.shape
    np.testing.assert_allclose(probabilities.affine, AFFINE, rtol=1e-6)
    assert ((np.asarray(probabilities.dataobj) > 0.5) == labels).mean() > 0.97
    assert read(tmp_path / "out" / "overlays" / "case.png").shape[2] == 3


def test_probabilities_of_a_volume_with_classes_have_them_as_fourth_axis(tmp_path: Path) -> None:
    file = save_nifti(tmp_path / "case.nii", bright_block())
    predict_files(segmenter(Brightness(3)), [file], Outputs(tmp_path / "out", probabilities=True))
    probabilities = np.asarray(nib.load(tmp_path / "out" / "probabilities" / "case.nii.gz").dataobj)
    assert probabilities.shape == (40, 30, 6, 3)
    np.testing.assert_allclose(probabilities.sum(axis=3), 1, rtol=1e-5)


def test_a_network_of_values_in_0_to_1_wants_a_window(tmp_path: Path) -> None:
    config = DataConfig(name="ct", image_size=(32, 32), intensity="unit")
    files = [save_nifti(tmp_path / "raw.nii", bright_block()), save_picture(tmp_path / "fine.png")]
    made = segmenter(Brightness(full=1.0), config)
    done = predict_files(made, files, Outputs(tmp_path / "out"))
    assert [path.name for path in done.masks] == ["fine.png"]
    assert "holds values from -100 to 900" in done.failed[files[0]]
    assert "--window" in done.failed[files[0]]
    assert not predict_files(made, files, Outputs(tmp_path / "out", window=(-100, 900))).failed
    windowed = config.model_copy(update={"window": (-100.0, 900.0)})
    assert not predict_files(segmenter(Brightness(full=1.0), windowed), files, Outputs(tmp_path / "out")).failed


def test_broken_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    good = [save_picture(tmp_path / f"{name}.png") for name in "ab"]
    broken = [tmp_path / "cut.png", tmp_path / "text.nii.gz", tmp_path / "empty.h5"]
    broken[0].write_bytes(good[0].read_bytes()[:60])
    broken[1].write_text("no volume")
    broken[2].touch()
    done = predict_files(
        segmenter(Brightness(), batch_size=2), [broken[0], good[0], *broken[1:], good[1]], Outputs(tmp_path / "out")
    )
    assert [path.name for path in done.masks] == ["a.png", "b.png"]
    assert list(done.failed) == broken
    assert all(path.name in reason for path, reason in done.failed.items())


def test_images_on_which_the_network_fails_are_told(tmp_path: Path) -> None:
    good = save_picture(tmp_path / "bright.png")
    Image.fromarray(np.eye(40, 50, k=30, dtype=np.uint8) * 255).save(tmp_path / "dark.png")
    save_nifti(tmp_path / "volume.nii", np.eye(40, 50, k=30, dtype=np.float32)[..., None].repeat(3, axis=2))
    done = predict_files(segmenter(NotFinite()), find_inputs([tmp_path])[0], Outputs(tmp_path / "out"))
    assert [path.stem for path in done.masks] == [good.stem]
    assert {path.name for path in done.failed} == {"dark.png", "volume.nii"}
    assert all("not finite" in reason for reason in done.failed.values())


@pytest.mark.parametrize(
    ("names", "out", "said"),
    [
        (["x/a.png", "y/a.png"], "out", "need different names.*twice: .*a.png"),
        (["x/a.nii", "y/a.nii"], "out", "twice: .*a.nii"),
        (["x/a.png", "x/b.png"], "x", "would overwrite inputs: .*a.png"),
    ],
)
def test_clashes_are_refused_before_anything_is_computed(tmp_path: Path, names: list[str], out: str, said: str) -> None:
    files = [tmp_path / name for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()  # reading one would fail
    network = Brightness()
    with pytest.raises(InputError, match=said):
        predict_files(segmenter(network), files, Outputs(tmp_path / out))
    assert network.batches == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    file = save_picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"cannot be created: .*give another folder"):
        predict_files(segmenter(Brightness()), [file], Outputs(file / "out"))


def test_every_name_that_a_file_system_allows_gives_a_mask(tmp_path: Path) -> None:
    names = ("x$y^$.png", "[bold]{0}.png", "n" * 251 + ".jpg", "n" * 251 + ".png")
    files = [save_picture(tmp_path / "in" / name) for name in names]
    volume = "v" * 252 + ".h5"
    files.append(save_hdf5(tmp_path / "in" / volume, np.full((2, 30, 40), 0.5, np.float32)))
    done = predict_files(segmenter(Brightness()), files, Outputs(tmp_path / "out", overlays=True))
    assert done.failed == {}
    assert len({path.name for path in done.masks}) == len(files)
    assert all(path.is_file() for path in done.masks)
    assert len([path for path in (tmp_path / "out" / "overlays").iterdir() if path.name[0] != "."]) == len(files)
