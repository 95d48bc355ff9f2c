"""What a network is trained on: samples, targets and the loss between them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import Scale, augment, inputs_of, to_input
from slicemamba.data.windows import FORCED, random_place
from slicemamba.training.losses import segmentation_loss
from slicemamba.training.order import Indices, epoch_order, repeat_factors
from slicemamba.training.seeds import generator_for, torch_generator


class Task(Protocol):
    """What a network is trained on. The same index, step and rank always give the same."""

    score: str
    """The validation metric that is to rise."""

    def __len__(self) -> int:
        """Training samples."""

    def order(self, epoch: int) -> Indices:
        """(samples,) the samples of an epoch; as many as there are, in an order that the seed and the epoch give."""

    def prefetch(self, indices: Indices, step: int) -> None:
        """Told of the samples that the next ``load`` will ask for, so that slow reading may begin."""

    def load(self, indices: Indices, step: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, augmented, on the device; both with the samples first."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the samples; a scalar in float32."""

    def name(self, index: int) -> str:
        """What a person calls a sample."""


def segmentation(data: SegmentationData, config: TrainConfig) -> Segmentation:
    """Segmenting a training split: its images, or windows of them."""
    return Segmentation(data, config) if data.window is None else WindowSegmentation(data, config)


class Segmentation:
    """Segmenting the images of a training split."""

    score = "dice"

    def __init__(self, data: SegmentationData, config: TrainConfig) -> None:
        self._data = data
        self._config = config
        threshold = config.rare_class_threshold
        self._repeats = None if threshold is None else repeat_factors(data, threshold)

    def __len__(self) -> int:
        return len(self._data)

    def order(self, epoch: int) -> Indices:
        """Images of rare classes more than once, if the configuration asks for it."""
        return epoch_order(len(self), self._config.seed, epoch, self._repeats)

    def name(self, index: int) -> str:
        return self._data.names[index]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return segmentation_loss(output, target)

    def prefetch(self, indices: Indices, step: int) -> None:
        """Nothing to do: the images are in memory."""

    def _samples(self, indices: Indices, step: int, rank: int) -> tuple[Tensor, Tensor]:
        return inputs_of(self._data, indices), torch.from_numpy(np.array(self._data.masks[indices]))

    def load(self, indices: Indices, step: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and masks (B, H, W)."""
        images, masks = (part.to(device, non_blocking=True) for part in self._samples(indices, step, rank))
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


class WindowSegmentation(Segmentation):
    """Segmenting random windows of images that are not resized: of each as many an epoch as it has room for.

    Values are scaled by the whole image, as where it is evaluated. The last third of a batch is sure to show something
    marked, if its images hold anything.
    """

    def __init__(self, data: SegmentationData, config: TrainConfig) -> None:
        super().__init__(data, config)
        assert data.window is not None
        self._window = data.window
        self._images = np.repeat(np.arange(len(data)), data.samples_by_image)
        if self._repeats is not None:
            self._repeats = self._repeats[self._images]
        self._scales: dict[int, Scale] = {}

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._data.names[int(self._images[index])]

    def _samples(self, indices: Indices, step: int, rank: int) -> tuple[Tensor, Tensor]:
        rng = generator_for(self._config.seed, "windows", step, rank)
        free = round(len(indices) * (1 - FORCED))
        samples = [self._sample(int(self._images[i]), rng, n >= free) for n, i in enumerate(indices.tolist())]
        images, masks = zip(*samples, strict=True)
        return torch.cat(images), torch.from_numpy(np.stack(masks))

    def _sample(self, index: int, rng: np.random.Generator, marked: bool) -> tuple[Tensor, NDArray[np.uint8]]:
        data = self._data
        mask = np.asarray(data.masks[index][data.inside(index)])
        top, left = random_place(mask, self._window, rng, marked=marked)
        inside = (slice(top, top + self._window[0]), slice(left, left + self._window[1]))
        pixels = to_input(
            np.asarray(data.images[index][inside])[None],
            data.intensity,
            channels=data.channels,
            per_channel=data.per_channel,
            scale=self._scale(index),
        )
        return pixels, mask[inside]

    def _scale(self, index: int) -> Scale:
        """Found once for each image, as it takes longer than all else."""
        if index not in self._scales:
            data = self._data
            whole = np.asarray(data.images[index][data.inside(index)])[None]
            self._scales[index] = Scale.of(whole, data.intensity, per_channel=data.per_channel)
        return self._scales[index]
