"""Damaged downloads through `predict`: each image gives a mask or is named, and no input is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from test_dicom import write_series
from test_fuzz_readers import SIZE, Bright, damage, damaged_files
from torch import Tensor, nn

from slicemamba.config import DataConfig
from slicemamba.errors import InputError
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.inputs import find_inputs
from slicemamba.evaluation.predict import Outputs, Predicted, predict_files

RNG = np.random.default_rng(5)


class Second(nn.Module):
    """Marks what is bright in the second channel."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, 1:2] - 127.5


def predict(folder: Path, network: nn.Module, channels: int = 3, out: str = "out") -> Predicted:
    """Everything below a folder; its files are as they were."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    config = DataConfig(name="x", image_size=(32, 32), channels=channels)
    segmenter = Segmenter(network, config, torch.device("cpu"), InferenceOptions())
    place = folder.parent / out
    done = predict_files(
        segmenter, find_inputs([folder], place)[0], Outputs(place, probabilities=True, overlays=True, roots=(folder,))
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert len(set(done.masks)) == len(done.masks)
    assert all(path.is_file() for path in done.masks)
    return done


def name_each(done: Predicted) -> None:
    assert [str(path) for path, reason in done.failed.items() if path.name not in reason] == []


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(tmp_path: Path) -> None:
    files = damaged_files(tmp_path)
    done = predict(tmp_path / "in", Bright())
    name_each(done)
    assert len(done.masks) + len(done.failed) == len(files)
    assert len(done.masks) > 50


@pytest.mark.filterwarnings("ignore")
def test_damaged_series(tmp_path: Path) -> None:
    """Slices cut, changed, doubled, missing, or beside other files; a folder that is no series is its files."""
    variants = 9
    for variant in range(variants):
        values = RNG.integers(0, 900, (5, *SIZE)).astype(np.int16)
        folder = write_series(tmp_path / "in" / f"p{variant:02d}", values, f"1.9.{variant}")
        victim = folder / f"IM{RNG.integers(0, 5):03d}.dcm"
        if variant % 9 == 6:
            victim.unlink()
        elif variant % 9 == 7:
            (folder / "copy.dcm").write_bytes(victim.read_bytes())
        elif variant % 9 == 8:
            (folder / "notes.txt").write_text("a note")
        else:
            victim.write_bytes(damage(victim.read_bytes(), variant % 9, RNG))
    found, aside = find_inputs([tmp_path / "in"], tmp_path / "out")
    assert aside == {".txt": variants // 9}
    done = predict(tmp_path / "in", Bright())
    name_each(done)
    assert len(done.masks) + len(done.failed) == len(found)
    sound = [path.name for path in done.masks if path.name.endswith(".nii.gz")]
    assert {f"p{variant:02d}.nii.gz" for variant in range(variants) if variant % 9 in (5, 8)} <= set(sound)
    for variant in range(variants):
        if variant % 9 in (0, 7):
            assert f"p{variant:02d}.nii.gz" not in sound


def case(folder: Path, name: str, numbers: list[int], ending: str = ".png") -> list[Path]:
    """Noise in each channel, but the left half of the second, which is bright."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in numbers:
        pixels = RNG.integers(0, 60, SIZE).astype(np.uint8)
        pixels[:, : SIZE[1] // 2] += np.uint8(190 * (number == 1))
        paths.append(folder / f"{name}_{number:04d}{ending}")
        if ending == ".png":
            Image.fromarray(pixels).save(paths[-1])
        else:
            affine = np.diag([0.5, 0.6, 4.0, 1.0])
            nib.save(nib.Nifti1Image(np.repeat(pixels[None], 3, 0).T.astype(np.int16), affine), paths[-1])
    return paths


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_channels_of_a_case(tmp_path: Path, ending: str) -> None:
    """As in imagesTs: one mask a case, named as nnU-Net names it; missing and surplus channels are named."""
    for name in ("a", "b"):
        case(tmp_path / "in", name, [0, 1], ending)
        case(tmp_path / "in" / "more", name, [0, 1], ending)
    case(tmp_path / "in", "half", [1], ending)
    case(tmp_path / "in", "many", [0, 1, 2], ending)
    broken = case(tmp_path / "in", "broken", [0, 1], ending)[1]
    broken.write_bytes(broken.read_bytes()[:40])
    done = predict(tmp_path / "in", Second(), channels=2)
    masks = {str(path.relative_to(tmp_path / "out")): path for path in done.masks}
    assert set(masks) == {f"{place}{name}{ending}" for place in ("", "more/") for name in ("a", "b")}
    for path in masks.values():
        first = np.asarray(Image.open(path)) if ending == ".png" else np.asarray(nib.load(path).dataobj).T[0]
        assert ((first > 0) == (np.arange(SIZE[1]) < SIZE[1] // 2)).mean() > 0.95
    told = " ".join(done.failed.values())
    assert len(done.failed) == 5
    for name in (f"half_0001{ending}", f"many_0002{ending}", f"broken_0001{ending}"):
        assert name in told
    if ending == ".nii.gz":
        assert nib.load(masks["a.nii.gz"]).header.get_zooms() == pytest.approx((0.5, 0.6, 4.0))


def test_files_that_hold_all_channels_are_no_parts(tmp_path: Path) -> None:
    """Two frames of a video in two channels are two images, and so are colours."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        pixels = RNG.integers(0, 256, (*SIZE, 2), dtype=np.uint8)
        Image.fromarray(pixels, "LA").save(tmp_path / "in" / f"frame_{number:04d}.png")
    assert len(predict(tmp_path / "in", Second(), channels=2).masks) == 2
    for number in range(2):
        Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / f"in/frame_{number:04d}.png")
    assert len(predict(tmp_path / "in", Second(), out="of colours").masks) == 2


@pytest.mark.filterwarnings("ignore")
def test_damaged_cases(tmp_path: Path) -> None:
    for variant in range(60):
        ending = (".png", ".nii.gz")[variant % 2]
        paths = case(tmp_path / "in", f"c{variant:02d}", [0, 1], ending)
        victim = paths[variant // 2 % 2]
        victim.write_bytes(damage(victim.read_bytes(), variant // 4, RNG))
    done = predict(tmp_path / "in", Second(), channels=2)
    assert len(done.masks) + len(done.failed) >= 60
    told = {path.name[:3] for path in done.failed} | {path.name[:3] for path in done.masks}
    assert len(told) == 60


def test_folders_that_are_named_like_outputs(tmp_path: Path) -> None:
    """Where an overlay and the mask of an image in a folder of that name would be one file, nothing is written."""
    for place in ("a.png", "overlays/a.png"):
        path = tmp_path / "in" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match=r"twice: .*overlays/a.png"):
        predict(tmp_path / "in", Bright())
    assert not (tmp_path / "out").exists()


def test_names_as_they_come(tmp_path: Path) -> None:
    """Spaces, parentheses, umlauts, bytes that are no text, upper-case endings, one stem in several formats."""
    names = ["benign (1).PNG", "Läsion 1.png", os.fsdecode(b"L\xe4sion 2.png"), "a.png", "a.JPG", "a.tif", "[x] #1.bmp"]
    (tmp_path / "in").mkdir()
    for name in names:
        with (tmp_path / "in" / name).open("wb") as file:
            kind = {".JPG": "JPEG", ".tif": "TIFF", ".bmp": "BMP"}.get(Path(name).suffix, "PNG")
            Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(file, kind)
    (tmp_path / "in" / "table.csv").write_text("a,b")
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({}))
    done = predict(tmp_path / "in", Bright())
    assert len(done.masks) == len(names)
    assert not done.failed
    assert find_inputs([tmp_path / "in"])[1] == {".csv": 1, ".json": 1}
