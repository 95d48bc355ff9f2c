"""Evaluation of a split: complete, the same at any batch size, and honest about logits that are not finite."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import to_input
from slicemamba.evaluation.evaluate import batches, evaluate, trivial_baselines
from slicemamba.evaluation.metrics import mean_hd95
from slicemamba.evaluation.per_image import class_scores
from slicemamba.models.unet import SliceMambaUNet

CPU = torch.device("cpu")


def darkness(image: Tensor) -> Tensor:
    """A stand-in for a network: dark pixels are foreground."""
    return 110 - image.mean(dim=1, keepdim=True)


@pytest.fixture
def labelled(tiny_data: SegmentationData) -> SegmentationData:
    """Three classes: background, left and right half of each lesion."""
    masks = tiny_data.masks.copy()
    masks[:, :, 20:] *= 2
    return replace(tiny_data, masks=masks, num_classes=3)


def oracle(data: SegmentationData) -> Tensor:
    """The logits of the truth, (N, classes, H, W)."""
    truth = torch.from_numpy(data.masks)
    if data.num_classes == 1:
        return truth[:, None].float() * 2 - 1
    return torch.stack([(truth == label).float() for label in range(data.num_classes)], dim=1)


def replay(logits: Tensor):  # type: ignore[no-untyped-def]
    """A network that gives stored logits, a batch after the other."""
    queue = list(logits)

    def forward(image: Tensor) -> Tensor:
        return torch.stack([queue.pop(0) for _ in image])

    return forward


def test_hd95_of_an_image_does_not_depend_on_the_others_sizes() -> None:
    """An outline that is not there is as far away as the image's own diagonal, however large the split's arrays."""
    small = np.zeros((64, 64), dtype=np.uint8)
    small[20:30, 20:30] = 1
    found = []
    for others in ([], [np.zeros((600, 800), dtype=np.uint8)]):
        masks = [small, *others]
        sizes = np.array([mask.shape for mask in masks])
        whole = np.zeros((len(masks), *sizes.max(axis=0)), dtype=np.uint8)
        for array, mask in zip(whole, masks, strict=True):
            array[: mask.shape[0], : mask.shape[1]] = mask
        data = SegmentationData(
            images=np.zeros((*whole.shape, 3), dtype=np.uint8),
            masks=whole,
            names=tuple(map(str, range(len(masks)))),
            split="test",
            num_classes=1,
            intensity="unit",
            window=(32, 32),
            sizes=sizes,
        )
        nothing = evaluate(lambda windows: -windows.new_ones(len(windows), 1, 32, 32), data, batch_size=4, device=CPU)
        assert nothing.hd95 is not None
        found.append(nothing.hd95[0])
        assert trivial_baselines(data)["all background"]["hd95"] == pytest.approx(nothing.hd95.mean())
    assert found == [pytest.approx(64 * math.sqrt(2))] * 2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_batch_size_changes_no_score(tiny_data: SegmentationData, batch_size: int) -> None:
    whole = evaluate(darkness, tiny_data, batch_size=7, device=CPU)
    split = evaluate(darkness, tiny_data, batch_size=batch_size, device=CPU)
    assert whole.metrics == split.metrics
    assert np.array_equal(whole.counts, split.counts)
    assert np.array_equal(whole.labels, split.labels)
    assert 0 < whole.metrics["dice"] < 1


def test_batch_size_changes_no_score_of_a_network(tiny_model: ModelConfig, tiny_data: SegmentationData) -> None:
    network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 4), tiny_model.depths)).eval()
    whole, split = (evaluate(network, tiny_data, batch_size=size, device=CPU).metrics for size in (7, 2))
    assert whole == pytest.approx(split, abs=1e-3)


def test_batches_hold_every_image_once_in_order(tiny_data: SegmentationData) -> None:
    parts = list(batches(tiny_data, 3, CPU))
    assert [len(images) for images, _ in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in parts]), to_input(tiny_data.images))
    assert np.array_equal(torch.cat([masks for _, masks in parts]).numpy(), tiny_data.masks)


def test_truth_scores_full_marks(tiny_data: SegmentationData, labelled: SegmentationData) -> None:
    for data in (tiny_data, labelled):
        scored = evaluate(replay(oracle(data)), data, batch_size=2, device=CPU)
        assert scored.metrics.pop("hd95") == 0
        assert set(scored.metrics.values()) == {1.0}
        assert np.array_equal(scored.labels, data.masks)
        assert scored.labels.dtype == np.uint8


def test_hd95_is_measured_only_when_wanted(tiny_data: SegmentationData) -> None:
    without = evaluate(darkness, tiny_data, batch_size=4, device=CPU, with_hd95=False)
    wanted = evaluate(darkness, tiny_data, batch_size=4, device=CPU)
    assert "hd95" not in without.metrics
    assert without.hd95 is None
    assert wanted.hd95 is not None
    assert wanted.metrics.pop("hd95") == mean_hd95(wanted.labels, tiny_data.masks, 1) == wanted.hd95.mean()
    assert wanted.metrics == without.metrics


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_logit_that_is_not_finite_makes_all_scores_nan(tiny_data: SegmentationData, bad: float) -> None:
    logits = oracle(tiny_data)
    logits[4, 0, 3, 3] = bad
    scored = evaluate(replay(logits), tiny_data, batch_size=3, device=CPU)
    assert {"dice", "miou", "hd95", "accuracy"} <= scored.metrics.keys()
    assert all(math.isnan(value) for value in scored.metrics.values())
    assert scored.intervals() == {}


def test_scores_lie_in_their_intervals(tiny_data: SegmentationData) -> None:
    scored = evaluate(darkness, tiny_data, batch_size=7, device=CPU)
    intervals = scored.intervals()
    assert intervals.keys() == scored.metrics.keys()
    assert all(low < scored.metrics[name] < high for name, (low, high) in intervals.items())


def test_label_logits_of_nan_make_all_scores_nan(labelled: SegmentationData) -> None:
    scored = evaluate(replay(oracle(labelled) * float("nan")), labelled, batch_size=3, device=CPU)
    assert all(math.isnan(value) for value in scored.metrics.values())


def test_progress_counts_images(tiny_data: SegmentationData) -> None:
    told: list[tuple[int, int]] = []
    evaluate(darkness, tiny_data, batch_size=3, device=CPU, on_progress=lambda *counts: told.append(counts))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_evaluation_records_no_gradients(tiny_data: SegmentationData) -> None:
    weight = torch.ones(1, requires_grad=True)
    modes: list[bool] = []

    def forward(image: Tensor) -> Tensor:
        logits = weight * darkness(image)
        modes.append(logits.requires_grad)
        return logits

    evaluate(forward, tiny_data, batch_size=7, device=CPU)
    assert modes == [False]


def test_trivial_baselines_of_binary_masks(tiny_data: SegmentationData) -> None:
    scores = trivial_baselines(tiny_data)
    share = tiny_data.masks.mean()
    background, foreground = scores["all background"], scores["all foreground"]
    assert background["dice"] == background["miou"] == background["sensitivity"] == 0
    assert background["specificity"] == 1
    assert background["accuracy"] == pytest.approx(1 - share)
    assert background["hd95"] == pytest.approx(math.hypot(32, 40))
    assert foreground["miou"] == pytest.approx(share)
    assert foreground["dice"] == pytest.approx(2 * share / (1 + share))
    assert foreground["sensitivity"] == 1
    assert foreground["accuracy"] == pytest.approx(share)


def test_trivial_baselines_of_label_masks(labelled: SegmentationData) -> None:
    scores = trivial_baselines(labelled)
    assert scores["all background"]["accuracy"] == pytest.approx((labelled.masks == 0).mean())
    assert scores["all foreground"]["accuracy"] == pytest.approx((labelled.masks == 1).mean())
    assert scores["all background"].keys() == evaluate(darknesses, labelled, batch_size=7, device=CPU).metrics.keys()


def darknesses(image: Tensor) -> Tensor:
    """``darkness`` for three classes."""
    dark = darkness(image)
    return torch.cat([-dark, dark, dark - 1], dim=1)


def test_class_that_is_never_found_is_seen(labelled: SegmentationData) -> None:
    """Of two classes one is perfect and one missed, which their mean would hide."""
    logits = oracle(labelled)
    logits[:, 2] = -1
    counts = evaluate(replay(logits), labelled, batch_size=2, device=CPU).counts
    found = class_scores(counts, ("skin", "left", "right"))
    assert found["left"] == {"dice": 1.0, "iou": 1.0, "sensitivity": 1.0, "images": len(labelled)}
    assert found["right"] == {"dice": 0.0, "iou": 0.0, "sensitivity": 0.0, "images": len(labelled)}
    assert list(class_scores(counts)) == ["class 1", "class 2"]
