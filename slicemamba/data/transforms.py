"""From stored pixels to the network's input, and random augmentation. Batches only; B images of H×W."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from slicemamba.config import Intensity


def to_input(images: NDArray[Any], intensity: Intensity = "minmax") -> Tensor:
    """The network's input: each image stretched to 0…255, standardised, or in 0…1.

    ``minmax``: the published intensity step is (x - mean) / std with the data set's mean and standard deviation, then
    min-max to 0…255 for each image over all its pixels and channels. The min-max undoes any affine step before it, so
    it is computed directly and no data set statistics are needed. ``zscore``: mean 0 and standard deviation 1 for each
    image, as nnU-Net does. ``unit``: 8-bit values divided by 255, floating point values as they are, as VM-UNet feeds
    Synapse. With the first two an image of one value throughout becomes 0.

    Args:
        images: (B, H, W, 3) uint8, or (B, H, W, 1) float32, whose channel is repeated.
        intensity: as in DataConfig.

    Returns:
        (B, 3, H, W) float32, contiguous, on the CPU.
    """
    stored = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    pixels = stored.to(torch.float32, memory_format=torch.contiguous_format)
    if intensity == "unit":
        pixels = pixels / 255 if stored.dtype == torch.uint8 else pixels
    elif intensity == "zscore":
        spread, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True, correction=0)
        pixels = (pixels - mean) / spread.clamp(min=1e-3)
    else:
        low = pixels.amin(dim=(1, 2, 3), keepdim=True)
        span = pixels.amax(dim=(1, 2, 3), keepdim=True) - low
        pixels = (pixels - low) * 255.0 / span.clamp(min=1e-6)  # in this order the highest value is exactly 255
    return pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1).contiguous()


def augment(
    images: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    *,
    flip_probability: float,
    rotate_probability: float,
) -> tuple[Tensor, Tensor]:
    """Random flips and rotation, the same for an image and its mask.

    Each sample is flipped left-right and upside down, each with ``flip_probability``, and rotated about its centre by
    a uniform angle of 0…360° with ``rotate_probability``. Images are sampled bilinearly, masks by nearest neighbour;
    what comes from outside is 0 and background, as in the published training: edge values would smear a lesion at the
    border over pixels whose label nobody knows.

    Args:
        images: (B, C, H, W) floating point, as from ``to_input``.
        masks: (B, H, W) class indices of any dtype.
        generator: source of all randomness; equal states give equal results.

    Returns:
        New tensors of the same shapes and dtypes; masks hold no label that was not there (but 0).
    """
    draws = torch.rand(len(images), 4, generator=generator, device=generator.device).to(images.device)
    images, masks = _flip(images, masks, draws[:, 0] < flip_probability, dim=-1)
    images, masks = _flip(images, masks, draws[:, 1] < flip_probability, dim=-2)
    chosen = (draws[:, 2] < rotate_probability).nonzero().flatten()
    if len(chosen):
        rotated = rotate(images[chosen], masks[chosen], draws[chosen, 3] * (2 * math.pi))
        images = images.index_copy(0, chosen, rotated[0])
        masks = masks.index_copy(0, chosen, rotated[1])
    return images, masks


def rotate(images: Tensor, masks: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates each sample counter-clockwise by its angle in radians, (B,); shapes as in ``augment``."""
    height, width = images.shape[-2:]
    cos, sin = angles.cos(), angles.sin()
    zero = torch.zeros_like(cos)
    # affine_grid runs over -1…1 along both sides; the aspect keeps the rotation rigid when they differ.
    rows = [cos, -sin * (height / width), zero, sin * (width / height), cos, zero]
    transform = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.dtype)
    grid = affine_grid(transform, [len(images), 1, height, width], align_corners=False)
    turned = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    labels = masks.unsqueeze(1).to(images.dtype)
    labels = grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, labels.squeeze(1).to(masks.dtype)


def _flip(images: Tensor, masks: Tensor, chosen: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    flipped_images = torch.where(chosen[:, None, None, None], images.flip(dim), images)
    return flipped_images, torch.where(chosen[:, None, None], masks.flip(dim), masks)
