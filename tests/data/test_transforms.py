"""Intensity, and augmentation that keeps image and mask together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import max_pool2d

from slicemamba.config import DataConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.synthetic import draw_mask
from slicemamba.data.transforms import adjust_intensity, augment, rotate_and_scale, to_input
from slicemamba.training.task import Segmentation


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
    turned, labels = rotate_and_scale(images, masks, torch.full((3,), math.pi / 2), torch.ones(3))
    torch.testing.assert_close(labels, masks.rot90(1, (-2, -1)))
    torch.testing.assert_close(turned, images.rot90(1, (-2, -1)), atol=0.05, rtol=0)


def test_rotation_keeps_shapes_on_oblong_images() -> None:
    """A disc stays a disc, and an off-centre one moves on a circle, in pixels."""
    y, x = torch.meshgrid(torch.arange(60) - 29.5, torch.arange(120) - 59.5, indexing="ij")
    disc = ((x - 15) ** 2 + y**2 <= 64).to(torch.uint8)[None]
    for angle in (0.3, 1.2, 2.5, 4.0):
        _, labels = rotate_and_scale(disc[:, None].float(), disc, torch.tensor([angle]), torch.ones(1))
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


probabilities = st.sampled_from([0.0, 0.5, 1.0])
options = st.fixed_dictionaries(
    {
        "flip_probability": probabilities,
        "rotate_probability": probabilities,
        "scale_probability": probabilities,
        "scale_range": st.sampled_from([(0.7, 1.4), (0.5, 0.5), (1.0, 3.0)]),
        "intensity_probability": probabilities,
    }
)
sizes = st.tuples(st.integers(32, 70), st.integers(32, 70))


@settings(max_examples=30)
@given(options=options, size=sizes, seed=st.integers(0, 2**32))
def test_any_augmentation_keeps_image_and_mask_together(
    options: dict[str, Any], size: tuple[int, int], seed: int
) -> None:
    """Bright where marked before, so bright where marked after; the same from an equal generator; labels as before."""
    images, masks = blobs(6, size)
    labels = masks.clone() * 5
    moved, turned = augment(images, labels, generator(seed), **options)
    assert (moved.shape, moved.dtype) == (images.shape, images.dtype)
    assert (turned.shape, turned.dtype) == (masks.shape, masks.dtype)
    assert set(turned.unique().tolist()) <= {0, 5}
    assert moved.isfinite().all()
    # Intensity leaves both grey levels on their side of the middle; at the border bilinear and nearest may differ.
    inner = moved[:, 0, 3:-3, 3:-3]
    near_lesion = max_pool2d(turned[:, None].float(), 7, stride=1)[:, 0] > 0
    near_skin = max_pool2d(5 - turned[:, None].float(), 7, stride=1)[:, 0] > 0
    assert (inner[~near_skin] > 127.5).all()
    assert (inner[~near_lesion] < 127.5).all()
    assert near_lesion.any()
    again = augment(images, labels, generator(seed), **options)
    torch.testing.assert_close(again[0], moved, rtol=0, atol=0)
    torch.testing.assert_close(again[1], turned, rtol=0, atol=0)


@settings(max_examples=20)
@given(size=sizes, seed=st.integers(0, 2**32), labels=st.integers(2, 9))
def test_masks_hold_no_label_that_was_not_there(size: tuple[int, int], seed: int, labels: int) -> None:
    masks = torch.randint(0, labels, (4, *size), generator=generator(seed)) * 17 + 3
    images = torch.rand(4, 3, *size, generator=generator(seed))
    _, turned = augment(
        images,
        masks,
        generator(seed),
        flip_probability=0.5,
        rotate_probability=0.7,
        scale_probability=0.7,
        scale_range=(0.3, 3.0),
        intensity_probability=0.5,
    )
    assert set(turned.unique().tolist()) <= {0, *masks.unique().tolist()}


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.5])
def test_scaling_magnifies_about_the_centre(factor: float) -> None:
    y, x = torch.meshgrid(torch.arange(80) - 39.5, torch.arange(120) - 59.5, indexing="ij")
    disc = ((x - 16) ** 2 + (y + 8) ** 2 <= 100).to(torch.uint8)[None]
    moved, labels = rotate_and_scale(disc[:, None].float(), disc, torch.zeros(1), torch.tensor([factor]))
    rows, columns = (part.double().mean().item() for part in labels[0].nonzero().unbind(1))
    assert columns - 59.5 == pytest.approx(16 * factor, abs=0.3)
    assert rows - 39.5 == pytest.approx(-8 * factor, abs=0.3)
    assert labels.sum().item() == pytest.approx(disc.sum().item() * factor**2, rel=0.06)
    assert ((moved[:, 0] > 0.5) != (labels == 1)).sum() < math.pi * 10 * factor  # half of the border


def test_scaling_and_rotation_draw_over_their_whole_range() -> None:
    masks = torch.zeros(200, 33, 33, dtype=torch.uint8)
    masks[:, 12:21, 12:21] = 1
    images = masks[:, None].float()
    _, labels = augment(
        images,
        masks,
        generator(),
        flip_probability=0,
        rotate_probability=0,
        scale_probability=1,
        scale_range=(0.5, 2.0),
    )
    sides = labels.sum(dim=(1, 2)).double().sqrt() / 9
    assert sides.min() < 0.6
    assert sides.max() > 1.8
    assert sides.log().mean().abs() < 0.1  # as often smaller as larger


def test_published_augmentation_is_unchanged_by_the_new_kinds() -> None:
    images, masks = blobs(6, (32, 32))
    given_options = {"flip_probability": 0.5, "rotate_probability": 0.5}
    with_zero = augment(images, masks, generator(4), **given_options, scale_probability=0.0, intensity_probability=0.0)
    torch.testing.assert_close(augment(images, masks, generator(4), **given_options)[0], with_zero[0], rtol=0, atol=0)


def test_intensity_leaves_masks_places_and_range_alone() -> None:
    images = torch.rand(64, 3, 16, 16, generator=generator()) * 255
    masks = torch.zeros(64, 16, 16, dtype=torch.uint8)
    changed, same = augment(
        images, masks, generator(), flip_probability=0, rotate_probability=0, intensity_probability=0.5
    )
    assert (same == masks).all()
    touched = (changed != images).flatten(1).any(dim=1)
    assert 0.75 < touched.float().mean() < 1  # 1 - 0.5³
    assert changed.min() >= images.min()
    assert changed.max() <= images.max()
    for before, after in zip(images[touched], changed[touched], strict=True):
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() >= -1e-3).all()  # brighter stays brighter


@pytest.mark.parametrize(
    ("kind", "amount", "brighter"), [(0, 0.0, True), (0, 1.0, False), (2, 1.0, True), (2, 0.0, False)]
)
def test_gamma_and_brightness(kind: int, amount: float, brighter: bool) -> None:
    images = torch.rand(1, 3, 20, 20, generator=generator())
    chosen = torch.zeros(1, 3, dtype=torch.bool)
    chosen[0, kind] = True
    changed = adjust_intensity(images, chosen=chosen, amounts=torch.full((1, 3), amount))
    assert (changed.mean() > images.mean() + 0.05) == brighter
    assert (changed.mean() < images.mean() - 0.05) != brighter


def test_intensity_of_a_constant_image() -> None:
    images = torch.full((1, 3, 4, 4), 7.0)
    changed = adjust_intensity(images, chosen=torch.ones(1, 3, dtype=torch.bool), amounts=torch.rand(1, 3))
    torch.testing.assert_close(changed, images)


def test_unit_intensity() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_allclose(to_input(pictures, "unit").numpy(), pictures.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    slices = np.random.default_rng(0).random((2, 5, 6, 1)).astype(np.float32)
    result = to_input(slices, "unit")
    assert result.is_contiguous()
    for channel in range(3):
        np.testing.assert_array_equal(result[:, channel].numpy(), slices[..., 0])


def test_other_intensities_of_slices() -> None:
    slices = np.random.default_rng(0).random((2, 5, 6, 1)).astype(np.float32) * 0.5 + 0.2
    stretched = to_input(slices, "minmax")
    assert stretched.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    torch.testing.assert_close(stretched.amax(dim=(1, 2, 3)), torch.full((2,), 255.0))
    standard = to_input(slices, "zscore")
    torch.testing.assert_close(standard.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(dim=(1, 2, 3), correction=0), torch.ones(2))


@pytest.mark.parametrize(
    "option", ["flip_probability", "rotate_probability", "scale_probability", "intensity_probability"]
)
def test_training_takes_each_option(option: str, tiny_data: SegmentationData) -> None:
    none = dict.fromkeys(("flip_probability", "rotate_probability", "scale_probability", "intensity_probability"), 0.0)

    def load(**options: float) -> Tensor:
        task = Segmentation(tiny_data, TrainConfig.model_validate({**none, **options}))
        return task.load(np.arange(7), 0, 0, torch.device("cpu"))[0]

    torch.testing.assert_close(load(), to_input(tiny_data.images), rtol=0, atol=0)
    assert (load(**{option: 1.0}) != load()).flatten(1).any(dim=1).all()
