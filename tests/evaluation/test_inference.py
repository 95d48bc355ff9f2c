"""Probabilities at an image's own size: by resize or window, with flips, in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from segmenter_cases import SIZE, Brightness, LeftHalf, segmenter

from slicemamba.config import DataConfig
from slicemamba.data.reading import resize_image


def disc(height: int, width: int, radius: float) -> np.ndarray:
    """A bright disc on black, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2
    return np.repeat(np.where(inside, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("mode", ["resize", "window"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_any_size_comes_back_at_that_size(mode: str, num_classes: int) -> None:
    images = [disc(*size, radius=min(size) / 4) for size in [(32, 48), (100, 37), (9, 200), (20, 20)]]
    made = segmenter(Brightness(num_classes), mode=mode, batch_size=3)
    found = list(made.pictures(images))
    for probabilities, image in zip(found, images, strict=True):
        assert probabilities.shape == (num_classes, *image.shape[:2])
        assert probabilities.dtype == torch.float32
        assert (probabilities >= 0).all()
        assert (probabilities <= 1 + 1e-6).all()
        if num_classes > 1:
            torch.testing.assert_close(probabilities.sum(0), torch.ones(image.shape[:2]))
        bright = image[..., 0] > 0
        assert (made.labels(probabilities) == bright * max(1, num_classes - 1)).mean() > 0.9


def test_window_keeps_what_resize_loses() -> None:
    image = np.zeros((256, 384, 3), np.uint8)
    image[100:103, 200:203] = 255  # less than one of the network's pixels after a resize
    image[160:, :192] = 255
    found = {mode: next(segmenter(Brightness(), mode=mode).pictures([image])) for mode in ("resize", "window")}
    assert not (found["resize"][0, 90:110] > 0.5).any()
    assert np.array_equal(found["window"][0].numpy() > 0.5, image[..., 0] > 0)


def test_window_scales_intensity_over_the_whole_image() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :48] = 100  # flat windows, which a stretch of their own would tear apart
    image[0, 0] = 200
    probabilities = next(segmenter(Brightness(), mode="window", overlap=0.0).pictures([image]))
    expected = torch.sigmoid(torch.tensor((0.5 - 0.5) * 8))
    assert probabilities[0, 40, 20].item() == pytest.approx(expected.item(), abs=1e-5)


def test_borders_are_smoother_and_nearer_than_labels_by_nearest_neighbour() -> None:
    """Why probabilities and not labels are resized."""
    image = disc(320, 480, radius=110)
    network = Brightness()
    made = segmenter(network)
    soft = made.labels(next(made.pictures([image])))
    small = next(made.pictures([resize_image(image, SIZE)]))  # so nothing is resized back
    stairs = made.labels(small).repeat(10, axis=0).repeat(10, axis=1)
    truth = image[..., 0] > 0

    def dice(mask: np.ndarray) -> float:
        return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))

    assert dice(soft > 0) > max(0.99, dice(stairs > 0))
    assert len(np.unique((soft > 0).sum(axis=1))) > 3 * len(np.unique((stairs > 0).sum(axis=1))), "rows grow in steps"


def test_flips_are_the_mean_over_four_mirror_images_put_back() -> None:
    image = disc(*SIZE, radius=10)
    plain = next(segmenter(LeftHalf()).pictures([image]))
    mean = next(segmenter(LeftHalf(), flips=True).pictures([image]))
    left = torch.sigmoid(torch.tensor(2.0)).item()
    assert plain[0, 5, 3].item() == pytest.approx(left)
    torch.testing.assert_close(mean, torch.full_like(mean, 0.5))  # left half and, of the flipped, right half
    torch.testing.assert_close(
        next(segmenter(Brightness(), flips=True).pictures([image])), next(segmenter(Brightness()).pictures([image]))
    )


def test_a_forward_pass_takes_at_most_a_batch() -> None:
    for mode in ("resize", "window"):
        network = Brightness()
        made = segmenter(network, mode=mode, batch_size=2)
        list(made.pictures([disc(90, 90, 20)] * 2))
        list(made.slices(np.zeros((5, 40, 40), np.float32)))
        assert max(shape[0] for shape in network.batches) == 2
        assert {shape[2:] for shape in network.batches} == {SIZE}


def test_slices_go_in_by_cubic_splines_and_come_back_by_nearest_neighbour() -> None:
    config = DataConfig(name="set", image_size=SIZE, num_classes=4, intensity="unit")
    rng = np.random.default_rng(0)
    volume = rng.random((5, 70, 51)).astype(np.float32)
    volume[0] = 1.0
    network = Brightness(4, full=1.0)
    found = list(segmenter(network, config, batch_size=2).slices(volume))
    assert [(labels.shape, p.shape) for labels, p in found] == [((70, 51), (4, 70, 51))] * 5
    assert (found[0][0] == 3).all()
    for z in (1, 4):
        small = ndimage.zoom(volume[z], (32 / 70, 48 / 51), order=3)
        expected = np.clip(np.floor(small * 4), 0, 3).astype(np.uint8)
        expected = ndimage.zoom(expected, (70 / 32, 51 / 48), order=0)
        assert (found[z][0] == expected).mean() > 0.999
