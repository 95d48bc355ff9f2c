"""Intensity, and augmentation that keeps image and mask together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.synthetic import draw_mask
from slicemamba.data.transforms import augment, rotate, to_input


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images that show their mask: bright where it is 1."""
    masks = torch.from_numpy(np.stack([draw_mask(0, "train", index, size) for index in range(count)]))
    return masks[:, None].repeat(1, 3, 1, 1) * 255.0, masks


@pytest.mark.parametrize(("mean", "std"), [(157.561, 26.706), (86.17, 69.08)])
def test_equals_the_published_intensity_step(mean: float, std: float) -> None:
    images = np.random.default_rng(0).integers(20, 200, (3, 9, 7, 3), dtype=np.uint8)
    for image, result in zip(images, to_input(images), strict=True):
        scaled = (image - mean) / std
        expected = (scaled - scaled.min()) / (scaled.max() - scaled.min()) * 255
        np.testing.assert_allclose(result.numpy(), expected.transpose(2, 0, 1), atol=1e-3)


def test_input_shape_and_range() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 10, 3), dtype=np.uint8)
    result = to_input(images)
    assert result.shape == (2, 3, 8, 10)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert result.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert result.amax(dim=(1, 2, 3)).tolist() == [255, 255]


@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_image_becomes_zero(value: int) -> None:
    assert (to_input(np.full((1, 4, 4, 3), value, np.uint8)) == 0).all()


def test_images_do_not_influence_each_other() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    images[2] //= 4
    torch.testing.assert_close(to_input(images)[2:3], to_input(images[2:3]))


@pytest.mark.filterwarnings("error")
def test_read_only_maps_are_taken_without_a_warning(synthetic: DataConfig, tmp_path: Path) -> None:
    data = load_split(synthetic, "val", tmp_path)
    assert to_input(data.images).shape == (2, 3, 48, 64)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (97, 50)])
def test_image_and_mask_stay_aligned(size: tuple[int, int]) -> None:
    images, masks = blobs(24, size)
    turned, labels = augment(images, masks, generator(), flip_probability=0.5, rotate_probability=1.0)
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {0, 1}
    assert ((turned[:, 0] > 127.5) != (labels == 1)).float().mean() < 0.01
    assert (labels != masks).float().mean() > 0.02


def test_nothing_happens_at_probability_zero() -> None:
    images, masks = blobs(4, (32, 40))
    same = augment(images, masks, generator(), flip_probability=0.0, rotate_probability=0.0)
    torch.testing.assert_close(same[0], images)
    torch.testing.assert_close(same[1], masks)


def test_both_flips_at_probability_one() -> None:
    images, masks = blobs(4, (32, 40))
    flipped = augment(images, masks, generator(), flip_probability=1.0, rotate_probability=0.0)
    torch.testing.assert_close(flipped[0], images.flip(-1, -2))
    torch.testing.assert_close(flipped[1], masks.flip(-1, -2))


def test_each_sample_is_flipped_on_its_own() -> None:
    images, masks = (one[:1].repeat(64, *[1] * (one.ndim - 1)) for one in blobs(1, (32, 32)))
    _, labels = augment(images, masks, generator(), flip_probability=0.5, rotate_probability=0.0)
    kinds = {label.numpy().tobytes() for label in labels}
    assert len(kinds) == 4


def test_deterministic_from_the_generator() -> None:
    images, masks = blobs(6, (32, 32))

    def run(seed: int) -> Tensor:
        return augment(images, masks, generator(seed), flip_probability=0.5, rotate_probability=0.5)[0]

    torch.testing.assert_close(run(1), run(1), rtol=0, atol=0)
    assert (run(1) != run(2)).any()


def test_input_is_left_as_it_was() -> None:
    images, masks = blobs(4, (32, 32))
    before = images.clone(), masks.clone()
    augment(images, masks, generator(), flip_probability=1.0, rotate_probability=1.0)
    assert (images == before[0]).all()
    assert (masks == before[1]).all()


def test_quarter_turn_of_a_square_is_exact() -> None:
    images, masks = blobs(3, (33, 33))
    turned, labels = rotate(images, masks, torch.full((3,), math.pi / 2))
    torch.testing.assert_close(labels, masks.rot90(1, (-2, -1)))
    torch.testing.assert_close(turned, images.rot90(1, (-2, -1)), atol=0.05, rtol=0)


def test_rotation_keeps_shapes_on_oblong_images() -> None:
    """A disc stays a disc, and an off-centre one moves on a circle, in pixels."""
    y, x = torch.meshgrid(torch.arange(60) - 29.5, torch.arange(120) - 59.5, indexing="ij")
    disc = ((x - 15) ** 2 + y**2 <= 64).to(torch.uint8)[None]
    for angle in (0.3, 1.2, 2.5, 4.0):
        _, labels = rotate(disc[:, None].float(), disc, torch.tensor([angle]))
        rows, columns = (part.double().mean().item() for part in labels[0].nonzero().unbind(1))
        assert columns - 59.5 == pytest.approx(15 * math.cos(angle), abs=0.4)
        assert rows - 29.5 == pytest.approx(-15 * math.sin(angle), abs=0.4)
        assert labels.sum().item() == pytest.approx(disc.sum().item(), rel=0.05)


def test_labels_survive_and_outside_is_background() -> None:
    masks = torch.full((8, 40, 40), 7, dtype=torch.int64)
    images = torch.full((8, 3, 40, 40), 255.0)
    turned, labels = augment(images, masks, generator(), flip_probability=0.0, rotate_probability=1.0)
    assert set(labels.unique().tolist()) == {0, 7}
    torch.testing.assert_close(turned[:, :, 20, 20], torch.full((8, 3), 255.0))
    assert turned.min() == 0
