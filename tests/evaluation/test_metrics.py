"""Metrics against brute force over pixels and medpy, and the empty-mask rule."""

from __future__ import annotations

import math

import medpy.metric.binary as medpy
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slicemamba.evaluation.metrics import confusion, hd95, mean_hd95, summarize, to_labels

Mask = NDArray[np.uint8]


def masks(num_classes: int, count: int = 5, size: tuple[int, int] = (11, 9), seed: int = 0) -> tuple[Mask, Mask]:
    """Random labels and a prediction that is right for most pixels."""
    rng = np.random.default_rng(seed)
    labels = max(num_classes, 2)
    target = rng.integers(0, labels, (count, *size), dtype=np.uint8)
    noise = rng.integers(0, labels, (count, *size), dtype=np.uint8)
    return np.where(rng.random(target.shape) < 0.7, target, noise), target


def brute_force(prediction: Mask, target: Mask, label: int) -> list[int]:
    tp = fp = fn = tn = 0
    for predicted, actual in zip(prediction.ravel() == label, target.ravel() == label, strict=True):
        tp += int(predicted and actual)
        fp += int(predicted and not actual)
        fn += int(actual and not predicted)
        tn += int(not predicted and not actual)
    return [tp, fp, fn, tn]


def scores(prediction: Mask, target: Mask, num_classes: int = 1) -> dict[str, float]:
    return summarize(confusion(torch.from_numpy(prediction), torch.from_numpy(target), num_classes))


def squares(*corners: tuple[int, int], size: tuple[int, int] = (20, 30)) -> Mask:
    mask = np.zeros((1, *size), np.uint8)
    for row, column in corners:
        mask[0, row : row + 5, column : column + 5] = 1
    return mask


EMPTY, SQUARE = squares(), squares((4, 6))


@pytest.mark.parametrize("num_classes", [1, 3, 5])
def test_confusion_equals_brute_force(num_classes: int) -> None:
    prediction, target = masks(num_classes)
    counts = confusion(torch.from_numpy(prediction), torch.from_numpy(target), num_classes)
    labels = [1] if num_classes == 1 else list(range(num_classes))
    assert counts.dtype == torch.int64
    expected = [
        [brute_force(one, other, label) for label in labels] for one, other in zip(prediction, target, strict=True)
    ]
    assert counts.tolist() == expected


def test_binary_logits_are_cut_at_one_half() -> None:
    logits = torch.tensor([[[[-0.1, 0.0], [1e-6, 5.0]]]])
    assert to_labels(logits, 1).tolist() == [[[False, False], [True, True]]]
    assert torch.equal(to_labels(logits, 1), torch.sigmoid(logits.double())[:, 0] > 0.5)


def test_a_diverged_network_predicts_background() -> None:
    assert not to_labels(torch.full((1, 1, 3, 3), math.nan), 1).any()
    assert not to_labels(torch.full((1, 4, 3, 3), math.nan), 4).any()


def test_label_logits_give_the_largest() -> None:
    logits = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 4, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(confusion(logits, target, 4), confusion(logits.argmax(dim=1), target, 4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_any_label_type(dtype: torch.dtype) -> None:
    prediction, target = (torch.from_numpy(mask) for mask in masks(1))
    expected = confusion(prediction, target, 1)
    assert torch.equal(confusion(prediction.to(dtype), target.to(torch.int64), 1), expected)
    assert torch.equal(confusion(prediction.to(dtype), target.bool(), 1), expected)


@pytest.mark.parametrize(
    ("prediction", "num_classes"),
    [(torch.zeros(2, 4, 4), 1), (torch.zeros(2, 2, 4, 4), 1), (torch.zeros(2, 1, 4, 4, dtype=torch.int64), 1)],
)
def test_other_prediction_shapes(prediction: torch.Tensor, num_classes: int) -> None:
    with pytest.raises(ValueError, match="must have shape"):
        confusion(prediction, torch.zeros(2, 4, 4, dtype=torch.int64), num_classes)


def test_other_target_shape() -> None:
    with pytest.raises(ValueError, match="same pixels"):
        confusion(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.int64), 1)


def test_pooled_binary_scores() -> None:
    prediction, target = masks(1)
    tp, fp, fn, tn = brute_force(prediction, target, 1)
    found = scores(prediction, target)
    assert found["miou"] == pytest.approx(tp / (tp + fp + fn))
    assert found["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["accuracy"] == pytest.approx((tp + tn) / target.size)
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))


def test_scores_agree_with_medpy() -> None:
    prediction, target = masks(1)
    found = scores(prediction, target)
    assert found["dice"] == pytest.approx(medpy.dc(prediction, target))
    assert found["miou"] == pytest.approx(medpy.jc(prediction, target))
    assert found["specificity"] == pytest.approx(medpy.specificity(prediction, target))
    assert found["sensitivity"] == pytest.approx(medpy.sensitivity(prediction, target))
    pairs = list(zip(prediction, target, strict=True))
    assert found["dice_per_image"] == pytest.approx(np.mean([medpy.dc(*pair) for pair in pairs]))
    assert found["miou_per_image"] == pytest.approx(np.mean([medpy.jc(*pair) for pair in pairs]))


def test_label_scores_are_means_over_foreground_classes() -> None:
    prediction, target = masks(4)
    counts = np.array([brute_force(prediction, target, label) for label in (1, 2, 3)], float)
    tp, fp, fn, tn = counts.T
    found = scores(prediction, target, 4)
    assert found["miou"] == pytest.approx(np.mean(tp / (tp + fp + fn)))
    assert found["dice"] == pytest.approx(np.mean(2 * tp / (2 * tp + fp + fn)))
    assert found["accuracy"] == pytest.approx(np.mean(prediction == target))
    assert found["specificity"] == pytest.approx(np.mean(tn / (tn + fp)))
    assert found["sensitivity"] == pytest.approx(np.mean(tp / (tp + fn)))
    each = [scores(one[None], other[None], 4)["dice"] for one, other in zip(prediction, target, strict=True)]
    assert found["dice_per_image"] == pytest.approx(np.mean(each))


def test_batches_make_no_difference() -> None:
    prediction, target = (torch.from_numpy(mask) for mask in masks(1, count=7))
    whole = confusion(prediction, target, 1)
    parts = [confusion(prediction[i : i + 3], target[i : i + 3], 1) for i in range(0, 7, 3)]
    assert summarize(torch.cat(parts)) == summarize(whole)


def test_pooled_and_per_image_differ() -> None:
    """One large perfect lesion and one small missed one: pooling weighs pixels, the mean weighs images."""
    target = np.concatenate([np.ones((1, 10, 10), np.uint8), np.zeros((1, 10, 10), np.uint8)])
    target[1, 0, 0] = 1
    prediction = target.copy()
    prediction[1] = 0
    found = scores(prediction, target)
    assert found["dice"] == pytest.approx(200 / 201)
    assert found["dice_per_image"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prediction", "target", "overlap", "distance"),
    [
        (EMPTY, EMPTY, 1.0, 0.0),
        (SQUARE, EMPTY, 0.0, math.hypot(20, 30)),
        (EMPTY, SQUARE, 0.0, math.hypot(20, 30)),
        (SQUARE, SQUARE, 1.0, 0.0),
    ],
    ids=["both empty", "empty target", "empty prediction", "equal"],
)
def test_empty_mask_rule(prediction: Mask, target: Mask, overlap: float, distance: float) -> None:
    found = scores(prediction, target)
    for name in ("dice", "miou", "dice_per_image", "miou_per_image"):
        assert found[name] == overlap
    assert hd95(prediction[0], target[0]) == pytest.approx(distance)
    assert mean_hd95(prediction, target, 1) == pytest.approx(distance)


def test_nothing_to_get_wrong() -> None:
    assert scores(EMPTY, EMPTY)["sensitivity"] == 1
    assert scores(SQUARE, EMPTY)["sensitivity"] == 1
    full = np.ones_like(EMPTY)
    assert scores(full, full)["specificity"] == 1
    assert scores(EMPTY, full)["specificity"] == 1


def test_class_that_is_nowhere() -> None:
    """Class 2 is neither predicted nor there: it counts as agreement, for pooled scores and for each image."""
    found = scores(SQUARE, squares((4, 6), (12, 20)), 3)
    assert found["dice"] == pytest.approx((2 * 25 / 75 + 1) / 2)
    assert found["miou_per_image"] == pytest.approx((25 / 50 + 1) / 2)
    assert mean_hd95(SQUARE, EMPTY, 3) == pytest.approx(math.hypot(20, 30) / 2)


@pytest.mark.parametrize("shape", [(0, 1, 4), (2, 1, 3), (2, 4)])
def test_counts_of_other_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        summarize(torch.zeros(shape, dtype=torch.int64))


def test_counts_of_large_sets_are_exact() -> None:
    counts = torch.tensor([[[2**40, 1, 0, 2**41]]])
    assert summarize(counts)["miou"] == 2**40 / (2**40 + 1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.3])
def test_hd95_equals_medpy_on_the_whole_image(spacing: tuple[float, float], share: float) -> None:
    rng = np.random.default_rng(int(share * 1000))
    for _ in range(5):
        prediction, target = (rng.random((2, 40, 60)) < share).astype(np.uint8)
        prediction[3, 4] = target[30, 0] = 1
        expected = medpy.hd95(prediction, target, voxelspacing=spacing)
        assert hd95(prediction, target, spacing) == pytest.approx(expected, abs=1e-9)


def test_hd95_equals_brute_force() -> None:
    """Distances between all outline pixels of two squares, without medpy's or SciPy's help."""
    prediction, target = squares((4, 6))[0], squares((6, 9))[0]

    def outline(row: int, column: int) -> NDArray[np.int64]:
        return np.array([(row + r, column + c) for r in range(5) for c in range(5) if {r, c} & {0, 4}])

    one, other = outline(4, 6), outline(6, 9)
    distances = np.linalg.norm((one[:, None] - other[None]) * np.array((2.0, 0.5)), axis=2)
    expected = np.percentile(np.concatenate([distances.min(axis=1), distances.min(axis=0)]), 95)
    assert hd95(prediction, target, (2.0, 0.5)) == pytest.approx(expected)


def test_hd95_of_volumes_and_spacing_of_the_diagonal() -> None:
    volume = np.zeros((3, 4, 5), np.uint8)
    other = volume.copy()
    other[1, 2, 3] = 1
    assert hd95(volume, other, (2, 1, 1)) == pytest.approx(math.sqrt(36 + 16 + 25))
    volume[1, 2, 1] = 1
    assert hd95(volume, other, (2, 1, 1)) == pytest.approx(2)


def test_mean_hd95_over_images_and_classes() -> None:
    prediction, target = masks(3, count=3, size=(20, 20))
    expected = [
        medpy.hd95(one == label, other == label)
        for one, other in zip(prediction, target, strict=True)
        for label in (1, 2)
    ]
    assert mean_hd95(prediction, target, 3) == pytest.approx(np.mean(expected))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="fit together"):
        hd95(np.ones((3, 3)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="fit together"):
        hd95(np.ones((3, 3)), np.ones((3, 3)), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="at least one"):
        mean_hd95(np.ones((0, 3, 3)), np.ones((0, 3, 3)), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("num_classes", [1, 4])
def test_counts_on_the_gpu_are_the_same(num_classes: int) -> None:
    prediction, target = (torch.from_numpy(mask) for mask in masks(num_classes))
    found = confusion(prediction.cuda(), target.cuda(), num_classes)
    assert found.is_cuda
    assert torch.equal(found.cpu(), confusion(prediction, target, num_classes))
    assert summarize(found) == summarize(found.cpu())
