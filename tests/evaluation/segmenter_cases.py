"""Stand-ins for networks, and volumes, that the tests of prediction share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slicemamba.config import DataConfig
from slicemamba.evaluation.inference import InferenceOptions, Segmenter

SIZE = (32, 48)
AFFINE = np.array([[-0.6, 0.1, 0, 90], [0.1, 0.7, 0.2, -120], [0, -0.2, 3.0, 40], [0, 0, 0, 1]])


class Brightness(nn.Module):
    """Logits from each pixel's brightness alone, so that they are known at any size.

    Binary: positive above half of the range. Otherwise class k is the k-th part of the range.
    """

    def __init__(self, num_classes: int = 1, full: float = 255.0) -> None:
        super().__init__()
        self.num_classes, self.full = num_classes, full
        self.batches: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.batches.append(tuple(image.shape))
        share = image.mean(dim=1, keepdim=True) / self.full
        if self.num_classes == 1:
            return (share - 0.5) * 8
        centres = (torch.arange(self.num_classes) + 0.5) / self.num_classes
        return -50 * (share - centres.view(1, -1, 1, 1)).square()


class LeftHalf(nn.Module):
    """Foreground is the left half of whatever it is shown: not the same after a flip."""

    def forward(self, image: Tensor) -> Tensor:
        logits = image.new_full((len(image), 1, *image.shape[2:]), -2.0)
        logits[..., : image.shape[3] // 2] = 2.0
        return logits


class NotFinite(nn.Module):
    """NaN for images that are dark in the middle."""

    def forward(self, image: Tensor) -> Tensor:
        middle = image[:, :1, image.shape[2] // 2, image.shape[3] // 2][..., None, None]
        return torch.where(middle > 100, image[:, :1], float("nan"))


def segmenter(network: nn.Module, config: DataConfig | None = None, **options: Any) -> Segmenter:
    config = config or DataConfig(name="set", image_size=SIZE, num_classes=getattr(network, "num_classes", 1))
    return Segmenter(network.eval(), config, torch.device("cpu"), InferenceOptions(**options))


def save_nifti(path: Path, stored: NDArray[Any]) -> Path:
    """Stores (X, Y, Z) with the oblique AFFINE."""
    nib.save(nib.Nifti1Image(stored, AFFINE), path)
    return path


def save_hdf5(path: Path, image: NDArray[Any], label: NDArray[Any] | None = None, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["image"] = image
        if label is not None:
            file["label"] = label
        file.attrs.update(attributes)
    return path
