"""Damaged files by the hundred: each is used or named, whatever the format, and none takes the process down."""

from __future__ import annotations

import gzip
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
from PIL import Image
from pydicom.uid import RLELossless
from test_dicom import write_frame
from torch import Tensor, nn

from slicemamba.config import DataConfig
from slicemamba.data.checks import check_dataset
from slicemamba.data.convert import Reading
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import has_alpha, is_turned, read_image, read_mask, read_mask_values
from slicemamba.data.slices import read_slice
from slicemamba.data.volumes import check_orientation, is_volume, read_volume
from slicemamba.errors import InputError
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.inputs import find_inputs
from slicemamba.evaluation.predict import Outputs, predict_files

SIZE = (20, 24)
ENDINGS = (".png", ".jpg", ".tif", ".bmp", ".gif", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".h5")
VARIANTS = 44
"""Of each of the twelve seeds: 528 files."""
MOST_BYTES = 2 * 2**30


def seeds(folder: Path) -> list[Path]:
    """One sound file of each kind."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    colours = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "rgb.png")
    Image.fromarray(colours[..., 0]).convert("P").save(folder / "palette.png")
    Image.fromarray(colours).save(folder / "a.jpg")
    Image.fromarray(colours).save(folder / "a.bmp")
    Image.fromarray(colours[..., 0]).save(folder / "a.gif")
    tifffile.imwrite(folder / "deep.tif", colours.astype(np.uint16) * 200, photometric="rgb")
    volume = rng.integers(0, 900, (3, *SIZE)).astype(np.int16)
    for ending in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(volume.T, np.eye(4)), folder / f"v{ending}")
    for ending in (".nrrd", ".mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), str(folder / f"v{ending}"))
    write_frame(folder / "a.dcm", volume[0])
    with h5py.File(folder / "v.h5", "w") as file:
        file["image"], file["label"] = volume.astype(np.float32), (volume > 500).astype(np.uint8)
    return sorted(folder.iterdir())


def damage(content: bytes, variant: int, rng: np.random.Generator) -> bytes:
    """Cut, flip some bits (often in the header), fill with zeros, repeat, or leave as it is for another ending."""
    kind, size = variant % 6, len(content)
    if kind == 0:
        return content[: int(rng.integers(0, size))]
    if kind == 5:
        return content
    changed = bytearray(content)
    if kind in (1, 2):
        limit = min(size, 400) if kind == 1 else size
        for place in rng.integers(0, limit, int(rng.integers(1, 12))):
            changed[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 3:
        start = int(rng.integers(0, size))
        changed[start : start + 64] = bytes(len(changed[start : start + 64]))
    else:
        start = int(rng.integers(0, size))
        changed[start:start] = rng.bytes(50)
    return bytes(changed)


def damaged_files(root: Path) -> list[Path]:
    """528 files; every sixth is sound but has the ending of another kind."""
    rng = np.random.default_rng(11)
    (root / "in").mkdir()
    found = []
    for index, seed in enumerate(seeds(root / "seeds")):
        ending = ".nii.gz" if seed.name.endswith(".nii.gz") else seed.suffix
        for variant in range(VARIANTS):
            new = ENDINGS[int(rng.integers(0, len(ENDINGS)))] if variant % 6 == 5 else ending
            path = root / "in" / f"{index}-{variant}" / f"s{index:02d}v{variant:02d}{new}"
            path.parent.mkdir()
            path.write_bytes(damage(seed.read_bytes(), variant, rng))
            found.append(path)
    return found


class Bright(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True) - 127.5


def readers(path: Path) -> list[Callable[[], object]]:
    if is_volume(path):
        return [lambda: read_volume(path), lambda: check_orientation(path, path)]
    return [
        lambda: (read_image(path), is_turned(path), has_alpha(path)),
        lambda: read_image(path, channels=4, per_channel=True),
        lambda: read_mask(path, 1),
        lambda: read_mask_values(path),
    ]


def attempt(path: Path, read: Callable[[], object]) -> str | None:
    """None where a file is read; "named" where it is refused by its name; what came otherwise."""
    try:
        read()
    except BadFileError as error:
        return "named" if path.name in str(error) else f"{path.name}: not named by {error}"
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"
    return None


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_named(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = damaged_files(tmp_path)
    assert len(files) >= 500
    told = [error for path in files for read in readers(path) if (error := attempt(path, read)) is not None]
    assert len(told) > 500
    assert [error for error in told if not error.startswith("named")] == []
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_BYTES


@pytest.mark.filterwarnings("ignore")
def test_check_and_prepare_name_each_damaged_file(tmp_path: Path) -> None:
    """Damaged files as images and as masks, beside sound ones: all faults are told together."""
    files = [path for path in damaged_files(tmp_path) if path.suffix in (".png", ".jpg", ".tif", ".bmp", ".gif")][::3]
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index, path in enumerate(files):
        as_image = index % 2 == 0
        target = tmp_path / "raw" / ("images" if as_image else "masks") / f"{index:03d}{path.suffix}"
        target.write_bytes(path.read_bytes())
        other = tmp_path / "raw" / ("masks" if as_image else "images") / f"{index:03d}.png"
        Image.fromarray(np.zeros(SIZE, np.uint8) + np.uint8(255 * (index % 3 == 0))).save(other)
    split = SplitPlan((0.4, 0.2, 0.2, 0.2))
    for reading in (Reading(), Reading(threshold=False), Reading(any_value=True, resize_masks=True)):
        with pytest.raises(InputError, match=r"faults|colour"):
            prepare_pictures("folder", tmp_path / "raw", tmp_path / "none", split, reading=reading)
        assert not (tmp_path / "none").exists()
    for part in ("images", "masks"):
        for name in ("train", "val", "test"):
            (tmp_path / "set" / name / part).mkdir(parents=True)
        for path in (tmp_path / "raw" / part).iterdir():
            name = ("train", "val", "test")[int(path.stem) % 3]
            path.rename(tmp_path / "set" / name / part / path.name)
    with pytest.raises(InputError, match="faults"):
        check_dataset(DataConfig(name="set", root=tmp_path / "set"))


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    """As Linux stores what other systems wrote in Latin-1."""
    marks = np.zeros(SIZE, np.uint8)
    marks[4:12, 5:15] = 255
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for number in range(10):
        name = os.fsdecode(b"L\xe4sion %d.png" % number)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        with (tmp_path / "raw/images" / name).open("wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
        with (tmp_path / "raw/masks" / name).open("wb") as file:
            Image.fromarray(marks).save(file, "PNG")
    (tmp_path / "raw/masks" / os.fsdecode(b"L\xe4sion 3.png")).write_bytes(b"")
    with pytest.raises(InputError, match="1 fault") as error:
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "none", SplitPlan())
    str(error.value).encode()
    with (tmp_path / "raw/masks" / os.fsdecode(b"L\xe4sion 3.png")).open("wb") as file:
        Image.fromarray(marks).save(file, "PNG")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan())
    check_dataset(DataConfig(name="set", root=tmp_path / "set"), cache_dir=tmp_path / "cache")
    segmenter = Segmenter(Bright(), DataConfig(name="x", image_size=(32, 32)), torch.device("cpu"), InferenceOptions())
    done = predict_files(segmenter, find_inputs([tmp_path / "raw/images"])[0], Outputs(tmp_path / "out"))
    assert len(done.masks) == 10


SIDE = 20000


def png(path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(SIDE + 1)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))


def tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((1, 1), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(SIDE)


def metaimage(path: Path) -> None:
    path.write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 20000 20000 4\nElementType = MET_DOUBLE\n"
        "ElementDataFile = LOCAL\n"
    )


def nifti(path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((SIDE, SIDE, 4))
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))


def dicom(path: Path) -> None:
    write_frame(path, np.zeros((1, 1), np.uint8), syntax=RLELossless, Rows=SIDE, Columns=SIDE, encoded=bytes(64))


def dicom_series(path: Path) -> None:
    for number in range(4):
        place = [0.0, 0.0, float(number)]
        write_frame(
            path / f"{number}.dcm",
            np.zeros((1, 1), np.uint8),
            syntax=RLELossless,
            Rows=SIDE,
            Columns=SIDE,
            encoded=bytes(64),
            ImagePositionPatient=place,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
        )


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (4, SIDE, SIDE), np.float32, chunks=(1, 100, 100))


def npz(path: Path) -> None:
    """Of 100 MB, as a test lowers the limit."""
    np.savez_compressed(path, image=np.zeros((5000, 5000), np.float32), label=np.zeros((1, 1), np.uint8))


def peak_bytes(read: Callable[[], object]) -> int:
    """How much memory more than before is resident at the height of a call."""

    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    read()
    return resident("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is told by Linux only")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", png),
        ("a.tif", tiff),
        ("a.mha", metaimage),
        ("a.nii.gz", nifti),
        ("a.dcm", dicom),
        ("series", dicom_series),
        ("a.h5", hdf5),
        ("a.npz", npz),
    ],
)
def test_enormous_pictures_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], None]
) -> None:
    """Named with their size, before memory is taken for their 400 million pixels and more."""
    monkeypatch.setattr("slicemamba.data.slices.MOST_BYTES", 10_000_000)
    path = tmp_path / name
    write(path)

    def decode() -> object:
        if name.endswith(".npz"):
            return read_slice(path, None)
        return read_volume(path) if is_volume(path) else read_image(path)

    def read() -> None:
        with pytest.raises(BadFileError, match="too large to be decoded") as error:
            decode()
        assert name in str(error.value)
        assert "400000000" in str(error.value) or "20000" in str(error.value) or "GB" in str(error.value)

    assert peak_bytes(read) < 50_000_000
