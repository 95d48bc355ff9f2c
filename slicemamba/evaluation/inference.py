"""Probabilities for images of any size: resized to the network's size, or by a sliding window at their own.

Shapes: h×w an image's own size, H×W the network's; K = 1 (probability of the foreground) for binary networks, else one
probability a class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.config import DataConfig
from slicemamba.data.fit import box_in, enlarge
from slicemamba.data.reading import fit_image
from slicemamba.data.slices import resize_slice_labels
from slicemamba.data.transforms import to_input
from slicemamba.data.windows import OVERLAP, slide
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import find_network, load_network, read_card
from slicemamba.models.supernet import Supernet

Pixels = NDArray[np.uint8]
Mode = Literal["resize", "window"]
_FLIPS = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class InferenceOptions:
    """How probabilities are made.

    Attributes:
        mode: ``resize`` brings an image to the network's size as in training, stretched or padded. ``window`` keeps
            its own size and moves a window of the network's size over it (windows weighted by a Gaussian): for networks
            trained on images of the same scale as the windows, and always for those trained on patches.
        overlap: share of a window that its neighbour covers again; ``window`` only.
        flips: mean of the probabilities of the image and its three mirror images.
        batch_size: images or windows a forward pass.
    """

    mode: Mode = "resize"
    overlap: float = OVERLAP
    flips: bool = False
    batch_size: int = 8


class Segmenter:
    """A network with what surrounds it, from stored pixels to probabilities and labels.

    Args:
        network: in eval mode, on ``device``.
        config: of the data it was trained on: its size, intensity and classes.
    """

    def __init__(
        self,
        network: nn.Module,
        config: DataConfig,
        device: torch.device,
        options: InferenceOptions = InferenceOptions(),
    ) -> None:
        self.network, self.config, self.device, self.options = network, config, device, options

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", options: InferenceOptions = InferenceOptions()
    ) -> Segmenter:
        """The trained network of a run, of a network's folder or of a bundle.

        Raises:
            InputError: there is none, it is a supernet, or its card does not say what data it was trained on.
        """
        folder = find_network(Path(path))
        data, network = read_card(folder).data, load_network(folder)
        if isinstance(network, Supernet):
            raise InputError(f"{folder} holds a supernet; give a plain network, such as RUN/retrained")
        if data is None:
            raise InputError(f"{folder} does not say what data it was trained on; its config.json needs 'data'")
        on = torch.device(device)
        return cls(network.to(on), data, on, options)

    def masks(self, images: Sequence[Pixels]) -> list[Pixels]:
        """Images (h, w, C) uint8 of any sizes → labels (h, w) uint8 of the same sizes."""
        return [self.labels(probabilities) for probabilities in self.pictures(images)]

    @torch.inference_mode()
    def pictures(self, images: Sequence[Pixels]) -> Iterator[Tensor]:
        """Images (h, w, C) of any sizes → (K, h, w) float32 on the CPU for each, one after the other.

        ``resize`` brings probabilities, not labels, back to an image's own size, bilinearly: borders between two of the
        network's pixels then fall where the probability crosses one half, and are not stairs. They are NaN where the
        network's logits are.
        """
        if self._slides:
            yield from map(self._slide, images)
            return
        size = self.config.image_size
        boxes = [box_in(image.shape[:2], size, self.config.fit) for image in images]
        small = np.stack([fit_image(image, size, box) for image, box in zip(images, boxes, strict=True)])
        for probabilities, image, box in zip(self._batch(small), images, boxes, strict=True):
            yield resize_probabilities(probabilities[box.inside], image.shape[:2])

    @torch.inference_mode()
    def slices(self, volume: NDArray[np.float32]) -> Iterator[tuple[Pixels, Tensor]]:
        """Volume (Z, h, w) or (Z, h, w, C) → labels (h, w) and probabilities (K, h, w) of each slice.

        As published for Synapse, ``resize`` brings slices to the network's size by cubic splines and labels back by
        nearest neighbour. Probabilities come back bilinearly, so labels can differ from them along borders.
        """
        size = volume.shape[1], volume.shape[2]
        for start in range(0, len(volume), self.options.batch_size):
            part = volume[start : start + self.options.batch_size]
            part = part if part.ndim == 4 else part[..., None]
            if self._slides:
                for probabilities in map(self._slide, part):
                    yield self.labels(probabilities), probabilities
                continue
            box = box_in(size, self.config.image_size, self.config.fit)
            small = [fit_image(image, self.config.image_size, box) for image in part]
            for padded in self._batch(np.stack(small)):
                probabilities = padded[box.inside]
                labels = resize_slice_labels(self.labels(probabilities), size)
                yield labels, resize_probabilities(probabilities, size)

    @property
    def _slides(self) -> bool:
        return self.options.mode == "window" or self.config.fit == "patch"

    def labels(self, probabilities: Tensor) -> Pixels:
        """(K, …) → (…) uint8: 1 where the foreground is above one half, or the class of the largest probability."""
        if self.config.num_classes == 1:
            return (probabilities[0] > 0.5).to(torch.uint8).numpy()
        return probabilities.argmax(dim=0).to(torch.uint8).numpy()

    def _batch(self, images: NDArray[Any]) -> Tensor:
        """Images (B, H, W, channels) of the network's size → (B, K, H, W) on the CPU."""
        return self._probabilities(self._inputs(images).to(self.device)).float().cpu()

    def _inputs(self, images: NDArray[Any]) -> Tensor:
        config = self.config
        return to_input(images, config.intensity, channels=config.channels, per_channel=config.scales_each)

    def _slide(self, image: NDArray[Any]) -> Tensor:
        """An image (h, w, channels) → (K, h, w) on the CPU; a smaller one than the window is enlarged by its edge."""
        height, width = image.shape[:2]
        size = self.config.image_size
        inputs = self._inputs(enlarge(image, size)[None])[0]  # scaled over the whole image, not over each window

        def forward(windows: Tensor) -> Tensor:
            return self._probabilities(windows.to(self.device)).float().cpu()

        return slide(forward, inputs, size, self.options.batch_size, self.options.overlap)[:, :height, :width]

    def _probabilities(self, inputs: Tensor) -> Tensor:
        flips = _FLIPS if self.options.flips else _FLIPS[:1]
        total = sum(self._activate(self.network(inputs.flip(dims))).flip(dims) for dims in flips)
        assert isinstance(total, Tensor)
        return total / len(flips)

    def _activate(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.config.num_classes == 1 else logits.softmax(dim=1)


def resize_probabilities(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, H, W) → (K, *size), bilinear, antialiased when shrinking."""
    if probabilities.shape[1:] == size:
        return probabilities
    return F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
