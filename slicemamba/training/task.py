"""What a network is trained on: samples, targets and the loss between them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import augment, inputs_of
from slicemamba.training.losses import segmentation_loss
from slicemamba.training.seeds import torch_generator

Indices = npt.NDArray[np.int64]


class Task(Protocol):
    """What a network is trained on. The same index, step and rank always give the same."""

    score: str
    """The validation metric that is to rise."""

    def __len__(self) -> int:
        """Training samples."""

    def prefetch(self, indices: Indices, step: int) -> None:
        """Told of the samples that the next ``load`` will ask for, so that slow reading may begin."""

    def load(self, indices: Indices, step: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, augmented, on the device; both with the samples first."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the samples; a scalar in float32."""

    def name(self, index: int) -> str:
        """What a person calls a sample."""


class Segmentation:
    """Segmenting the images of a training split."""

    score = "dice"

    def __init__(self, data: SegmentationData, config: TrainConfig) -> None:
        self._data = data
        self._config = config

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        return self._data.names[index]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return segmentation_loss(output, target)

    def prefetch(self, indices: Indices, step: int) -> None:
        """Nothing to do: the images are in memory."""

    def load(self, indices: Indices, step: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and masks (B, H, W)."""
        images = inputs_of(self._data, indices).to(device, non_blocking=True)
        masks = torch.from_numpy(np.array(self._data.masks[indices])).to(device, non_blocking=True)
        if not self._config.augment:
            return images, masks
        return augment(
            images,
            masks,
            torch_generator(self._config.seed, "augment", step, rank),
            flip_probability=self._config.flip_probability,
            rotate_probability=self._config.rotate_probability,
            scale_probability=self._config.scale_probability,
            scale_range=self._config.scale_range,
            intensity_probability=self._config.intensity_probability,
        )
