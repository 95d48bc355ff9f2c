"""A raw Synapse download in small: CT-like NIfTI volumes with eight ellipsoid organs and those that are left out."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SPACING = (0.8, 0.7, 3.0)  # mm along x, y, z


def draw_case(number: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Hounsfield units (X, Y, Z) with noise, air outside an ellipse, and labels 0…13 as in the download."""
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij", sparse=True)
    body = (x / 0.9) ** 2 + (y / 0.7) ** 2 + 0 * z < 1
    image = np.where(body, 0.0, -1000.0) + rng.normal(0, 15, shape)
    label = np.zeros(shape, np.uint8)
    for organ in range(1, 14):
        angle = 2 * np.pi * organ / 13 + 0.1 * rng.standard_normal()
        centre = (0.6 * np.cos(angle), 0.45 * np.sin(angle))
        inside = ((x - centre[0]) / 0.15) ** 2 + ((y - centre[1]) / 0.12) ** 2 + (z / 0.8) ** 2 < 1
        label[inside] = organ
        image[inside] += 20 * organ
    return np.rint(image).astype(np.int16), label


def write_download(root: Path, count: int, shape: tuple[int, int, int] = (48, 40, 5), first: int = 1) -> Path:
    """``averaged-training-{images,labels}/{img,label}0001.nii.gz`` …; returns ``root``."""
    affine = np.diag([*SPACING, 1.0])
    for part in ("images", "labels"):
        (root / f"averaged-training-{part}").mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, label = draw_case(number, shape)
        for part, prefix, array in (("images", "img", image), ("labels", "label", label)):
            path = root / f"averaged-training-{part}" / f"{prefix}{number:04d}.nii.gz"
            nib.save(nib.Nifti1Image(array, affine), path)
    return root
