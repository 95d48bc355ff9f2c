"""Measures how fast images are read, beside the libraries that decode them alone.

``python -m benchmarks.reading`` prints a Markdown table: images of 512×512 a second by ``read_image``, ``read_volume``
or ``read_slice``, and by the library alone, one after the other in turns, the best of some rounds, on one thread. What
stands between the two is the search for faults, and bringing values to 8 bits where they have more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.scan import machine
from slicemamba.data.reading import read_image
from slicemamba.data.slices import read_slice
from slicemamba.data.synthetic import draw_lesion
from slicemamba.data.volumes import read_volume

SIDE, COUNT, SLICES = 512, 8, 16
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """A format: how a file is written from colours (H, W, 3), and read here and by its library alone."""

    name: str
    ending: str
    write: Callable[[Path, Pixels], object]
    ours: Callable[[Path], object]
    library: str
    alone: Callable[[Path], object]
    images: int = 1


def by_pillow(path: Path) -> Pixels:
    return np.asarray(Image.open(path))


def dicom(path: Path, pixels: Pixels) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelData = (pixels[..., 0].astype(np.uint16) * 16).tobytes()
    data.save_as(path, enforce_file_format=True)


def stack(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[None, ..., 0], SLICES, 0).astype(np.int16)


def hdf5(path: Path, pixels: Pixels) -> None:
    with h5py.File(path, "w") as file:
        for name, values in (("image", stack(pixels).astype(np.float32)), ("label", stack(pixels) > 99)):
            file.create_dataset(name, data=values.astype(np.float32), compression="gzip", chunks=(1, SIDE, SIDE))


def by_h5py(path: Path) -> Pixels:
    with h5py.File(path) as file:
        return np.asarray(file["image"][()])


def npz(path: Path, pixels: Pixels) -> None:
    np.savez_compressed(path, image=pixels[..., 0].astype(np.float32) / 255, label=pixels[..., 0] > 99)


def by_numpy(path: Path) -> tuple[Pixels, Pixels]:
    with np.load(path) as file:
        return file["image"], file["label"]


def picture(name: str, ending: str, **options: Any) -> Format:
    def write(path: Path, pixels: Pixels) -> None:
        Image.fromarray(pixels).save(path, **options)

    return Format(name, ending, write, read_image, "Pillow", by_pillow)


def formats() -> list[Format]:
    def tiff(path: Path, pixels: Pixels) -> None:
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")

    def deep(path: Path, pixels: Pixels) -> None:
        tifffile.imwrite(path, pixels.astype(np.uint16) * 200, photometric="rgb", compression="zlib")

    def nifti(path: Path, pixels: Pixels) -> None:
        nib.save(nib.Nifti1Image(stack(pixels).T, np.eye(4)), path)

    def nrrd(path: Path, pixels: Pixels) -> None:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(stack(pixels)), str(path), True)

    def by_nibabel(path: Path) -> Pixels:
        return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]

    def by_itk(path: Path) -> Pixels:
        return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))

    return [
        picture("PNG", ".png"),
        picture("JPEG", ".jpg", quality=90),
        picture("BMP", ".bmp"),
        picture("TIFF", ".tif"),
        Format("TIFF as ClinicDB has it", ".tif", tiff, read_image, "tifffile", tifffile.imread),
        Format("TIFF, 16 bits in colour", ".tif", deep, read_image, "tifffile", tifffile.imread),
        Format("DICOM frame", ".dcm", dicom, read_image, "pydicom", lambda path: pydicom.dcmread(path).pixel_array),
        Format("NIfTI, slices", ".nii.gz", nifti, read_volume, "nibabel", by_nibabel, SLICES),
        Format("NRRD, slices", ".nrrd", nrrd, read_volume, "SimpleITK", by_itk, SLICES),
        Format("HDF5, slices", ".h5", hdf5, read_volume, "h5py", by_h5py, SLICES),
        Format("NPZ slice with labels", ".npz", npz, lambda path: read_slice(path, None), "NumPy", by_numpy),
    ]


def rates(one: Format, folder: Path, rounds: int) -> tuple[float, float]:
    """Images a second, here and by the library alone."""
    files = [folder / f"{number}{one.ending}" for number in range(COUNT)]
    for number, path in enumerate(files):
        one.write(path, draw_lesion(0, "train", number, (SIDE, SIDE))[0])
    best = [float("inf")] * 2
    for _ in range(rounds):
        for which, read in enumerate((one.ours, one.alone)):
            started = time.perf_counter()
            for path in files:
                read(path)
            best[which] = min(best[which], time.perf_counter() - started)
    return COUNT * one.images / best[0], COUNT * one.images / best[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args(arguments).rounds
    print(f"{machine()}\n")
    print("| format | images/s | alone | library | share |\n| --- | --- | --- | --- | --- |")
    for one in formats():
        with tempfile.TemporaryDirectory() as folder:
            ours, alone = rates(one, Path(folder), rounds)
        print(f"| {one.name} | {ours:.0f} | {alone:.0f} | {one.library} | {ours / alone:.0%} |")


if __name__ == "__main__":
    main()
