"""From stored pixels to the network's input, and random augmentation. Batches only; B images of H×W."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from slicemamba.config import Intensity
from slicemamba.data.base import SegmentationData

GAMMA, CONTRAST, BRIGHTNESS = (0.7, 1.5), (0.75, 1.25), (-0.15, 0.15)
"""Ranges of the intensity augmentation, about those of nnU-Net; brightness is a share of the image's own range."""


def inputs_of(data: SegmentationData, index: slice | NDArray[Any]) -> Tensor:
    """The network's input (B, C, H, W) for some images of a split."""
    return to_input(data.images[index], data.intensity, channels=data.channels, per_channel=data.per_channel)


def input_of(data: SegmentationData, index: int) -> Tensor:
    """The network's input (C, h, w) for one image of a split, without what lies around it in the split's array."""
    own = data.images[index][data.inside(index)][None]
    return to_input(own, data.intensity, channels=data.channels, per_channel=data.per_channel)[0]


class Scale(NamedTuple):
    """How the values of images become inputs: (x - low) · gain / span. ``low`` and ``span`` are (B, C or 1, 1, 1)."""

    low: Tensor | float
    gain: float
    span: Tensor | float

    @classmethod
    def of(cls, images: NDArray[Any], intensity: Intensity, *, per_channel: bool) -> Scale:
        """Of images (B, H, W, C) as wholes, each for itself; arguments as of ``to_input``."""
        if intensity == "unit":
            return cls(0.0, 1.0, 255.0 if images.dtype == np.uint8 else 1.0)
        pixels, axes = _as_pixels(images), (2, 3) if per_channel else (1, 2, 3)
        if intensity == "zscore":
            spread, mean = torch.std_mean(pixels, dim=axes, keepdim=True, correction=0)
            return cls(mean, 1.0, spread.clamp(min=1e-3))
        low = pixels.amin(dim=axes, keepdim=True)
        return cls(low, 255.0, (pixels.amax(dim=axes, keepdim=True) - low).clamp(min=1e-6))


def _as_pixels(images: NDArray[Any]) -> Tensor:
    """(B, H, W, C) → (B, C, H, W) float32, contiguous."""
    stored = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    return stored.to(torch.float32, memory_format=torch.contiguous_format)


def to_input(
    images: NDArray[Any],
    intensity: Intensity = "minmax",
    *,
    channels: int = 3,
    per_channel: bool = False,
    scale: Scale | None = None,
) -> Tensor:
    """The network's input: each image stretched to 0…255, standardised, or in 0…1.

    ``minmax``: the published intensity step is (x - mean) / std with the data set's mean and standard deviation, then
    min-max to 0…255 for each image over all its pixels and channels. The min-max undoes any affine step before it, so
    it is computed directly and no data set statistics are needed. ``zscore``: mean 0 and standard deviation 1 for each
    image, as nnU-Net does. ``unit``: 8-bit values divided by 255, floating point values as they are, as VM-UNet feeds
    Synapse. With the first two an image of one value throughout becomes 0.

    Args:
        images: (B, H, W, C) uint8 or float32; a single channel is repeated where the network takes three.
        intensity: as in DataConfig. channels: that the network takes.
        per_channel: scale each channel on its own.
        scale: of the images that these are cut from; their own where None.

    Returns:
        (B, channels, H, W) float32, contiguous, on the CPU.
    """
    low, gain, span = scale or Scale.of(images, intensity, per_channel=per_channel)
    pixels = (_as_pixels(images) - low) * gain / span  # in this order the highest value is exactly 255
    return pixels if pixels.shape[1] == channels else pixels.expand(-1, channels, -1, -1).contiguous()


def augment(
    images: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    *,
    flip_probability: float,
    rotate_probability: float,
    scale_probability: float = 0.0,
    scale_range: tuple[float, float] = (0.7, 1.4),
    intensity_probability: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Random flips, rotation and scaling, the same for an image and its mask, and random intensity of the image.

    Each sample is flipped left-right and upside down, each with ``flip_probability``, rotated about its centre by a
    uniform angle of 0…360° with ``rotate_probability``, and magnified by a log-uniform factor of ``scale_range`` with
    ``scale_probability``; rotation and scaling are one resampling. With ``intensity_probability`` each of gamma,
    contrast and brightness is changed, each on its own. Images are sampled bilinearly, masks by nearest neighbour;
    what comes from outside is 0 and background, as in the published training: edge values would smear a lesion at the
    border over pixels whose label nobody knows.

    The whole batch is transformed at once where it lies. MONAI's dictionary transforms do the same to one image at a
    time on the CPU and keep random states of their own, from which a run could not be resumed at a step.

    Args:
        images: (B, C, H, W) floating point, as from ``to_input``.
        masks: (B, H, W) class indices of any dtype.
        generator: source of all randomness; equal states give equal results.

    Returns:
        New tensors of the same shapes and dtypes; masks hold no label that was not there (but 0).
    """
    draws = torch.rand(len(images), 4, generator=generator, device=generator.device).to(images.device)
    more = torch.rand(len(images), 8, generator=generator, device=generator.device).to(images.device)
    images = adjust_intensity(images, chosen=more[:, 2:5] < intensity_probability, amounts=more[:, 5:8])
    images, masks = _flip(images, masks, draws[:, 0] < flip_probability, dim=-1)
    images, masks = _flip(images, masks, draws[:, 1] < flip_probability, dim=-2)
    rotated, scaled = draws[:, 2] < rotate_probability, more[:, 0] < scale_probability
    angles = torch.where(rotated, draws[:, 3] * (2 * math.pi), 0)
    low, high = (math.log(bound) for bound in scale_range)
    scales = torch.where(scaled, torch.exp(low + (high - low) * more[:, 1]), 1)
    chosen = (rotated | scaled).nonzero().flatten()
    if len(chosen):
        moved = rotate_and_scale(images[chosen], masks[chosen], angles[chosen], scales[chosen])
        images = images.index_copy(0, chosen, moved[0])
        masks = masks.index_copy(0, chosen, moved[1])
    return images, masks


def rotate_and_scale(images: Tensor, masks: Tensor, angles: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Turns each sample counter-clockwise by its angle in radians and magnifies it by its scale, about its centre.

    Angles and scales are (B,), other shapes as in ``augment``. Both are one affine map, so that pixels are interpolated
    once.
    """
    height, width = images.shape[-2:]
    cos, sin = angles.cos() / scales, angles.sin() / scales
    zero = torch.zeros_like(cos)
    # affine_grid runs over -1…1 along both sides; the aspect keeps the rotation rigid when they differ.
    rows = [cos, -sin * (height / width), zero, sin * (width / height), cos, zero]
    transform = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.dtype)
    grid = affine_grid(transform, [len(images), 1, height, width], align_corners=False)
    turned = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    labels = masks.unsqueeze(1).to(images.dtype)
    labels = grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, labels.squeeze(1).to(masks.dtype)


def adjust_intensity(images: Tensor, *, chosen: Tensor, amounts: Tensor) -> Tensor:
    """Gamma, contrast and brightness of each sample, within its own lowest and highest value.

    Args:
        images: (B, C, H, W).
        chosen: (B, 3) which of gamma, contrast and brightness are changed.
        amounts: (B, 3) of 0…1, where in its range each change lies.

    Returns:
        (B, C, H, W); samples of which nothing is chosen are unchanged to the bit.
    """
    index = chosen.any(dim=1).nonzero().flatten()
    if not len(index):
        return images
    pixels, chosen, amounts = images[index], chosen[index], amounts[index]
    low, high = pixels.amin(dim=(1, 2, 3), keepdim=True), pixels.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    unit = (pixels - low) / torch.where(span > 0, span, 1)

    def strength(column: int, limits: tuple[float, float], neutral: float) -> Tensor:
        values = limits[0] + (limits[1] - limits[0]) * amounts[:, column]
        return torch.where(chosen[:, column], values, neutral).view(-1, 1, 1, 1).to(images.dtype)

    unit = unit.clamp(0, 1) ** strength(0, GAMMA, 1)
    mean = unit.mean(dim=(1, 2, 3), keepdim=True)
    unit = (unit - mean) * strength(1, CONTRAST, 1) + mean + strength(2, BRIGHTNESS, 0)
    return images.index_copy(0, index, unit.clamp(0, 1) * span + low)


def _flip(images: Tensor, masks: Tensor, chosen: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    flipped_images = torch.where(chosen[:, None, None, None], images.flip(dim), images)
    return flipped_images, torch.where(chosen[:, None, None], masks.flip(dim), masks)
