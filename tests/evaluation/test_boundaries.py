"""Scores as other tools report them, against distances by brute force and lesions counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from slicemamba.evaluation.boundaries import boundary_scores, hd95_directed_max, lesion_counts, surface_dice
from slicemamba.evaluation.metrics import hd95

Mask = NDArray[np.bool_]


def blob(seed: int, *shape: int) -> Mask:
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(ndimage.gaussian_filter(noise, 2) > 0.05)


def distances(one: Mask, other: Mask, spacing: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each outline pixel of one mask to the nearest of the other, all pairs compared."""
    a, b = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (one, other))
    between = np.linalg.norm(a[:, None] - b[None], axis=2)
    return between.min(axis=1), between.min(axis=0)


CASES = [((30, 40), (1.0, 1.0)), ((30, 40), (2.0, 0.5)), ((6, 14, 15), (3.0, 1.0, 1.0))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_distances_are_those_of_brute_force(seed: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    prediction, target = blob(seed, *shape), blob(seed + 100, *shape)
    forth, back = distances(prediction, target, spacing)
    directed = max(np.percentile(forth, 95), np.percentile(back, 95))
    assert hd95_directed_max(prediction, target, spacing) == pytest.approx(directed, rel=1e-5)
    assert hd95(prediction, target, spacing) == pytest.approx(np.percentile(np.concatenate([forth, back]), 95))
    within = np.concatenate([forth, back]) <= 1.5
    assert surface_dice(prediction, target, 1.5, spacing) == pytest.approx(within.mean(), rel=1e-5)


def test_the_directed_maximum_is_never_below_the_pooled_percentile() -> None:
    pairs = [(blob(seed, 24, 24), blob(seed + 50, 24, 24)) for seed in range(20)]
    ratios = [hd95_directed_max(*pair) / hd95(*pair) for pair in pairs]
    assert min(ratios) >= 0.98  # percentiles between two distances are interpolated
    assert max(ratios) > 1.02


def test_empty_masks_follow_the_rule_of_the_contract() -> None:
    empty, marked = np.zeros((30, 40), bool), blob(0, 30, 40)
    assert hd95_directed_max(empty, empty) == 0
    assert hd95_directed_max(empty, marked) == hd95_directed_max(marked, empty) == 50
    assert hd95_directed_max(empty, marked, (2, 2)) == 100
    assert surface_dice(empty, empty, 1) == 1
    assert surface_dice(empty, marked, 1) == surface_dice(marked, empty, 1) == 0
    assert lesion_counts(empty, empty) == (0, 0, 0)


def test_lesions_by_hand() -> None:
    target, prediction = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    target[0:2, 0:2] = target[2, 2] = True  # one lesion of five, as diagonal neighbours belong together
    target[6:8, 6:8] = True  # four pixels, of which the prediction marks one
    target[10, 0] = True  # not marked
    prediction[0:2, 0:2] = prediction[7, 7] = True
    prediction[4, 10] = prediction[5, 10] = True  # made up
    assert lesion_counts(prediction, target) == (1, 2, 1)
    assert lesion_counts(prediction, target, overlap=0.25) == (2, 1, 1)
    assert lesion_counts(target, prediction) == (2, 1, 2)


def test_scores_of_a_split_are_means_and_sums_over_images_and_classes() -> None:
    targets = np.stack([blob(seed, 20, 20) + 2 * blob(seed + 9, 20, 20) for seed in range(3)]) % 3
    predictions = np.roll(targets, 1, axis=1)
    scores = boundary_scores(predictions, targets, 3, tolerance=1.0)
    pairs = [(p == k, t == k) for p, t in zip(predictions, targets, strict=True) for k in (1, 2)]
    assert scores["hd95_directed_max"] == pytest.approx(np.mean([hd95_directed_max(*pair) for pair in pairs]))
    assert scores["surface_dice"] == pytest.approx(np.mean([surface_dice(*pair, 1.0) for pair in pairs]))
    counted = [scores[f"lesions_{name}"] for name in ("found", "missed", "made_up")]
    assert counted == np.sum([lesion_counts(*pair) for pair in pairs], axis=0).tolist()
    assert boundary_scores(targets, targets, 3, tolerance=0.0)["surface_dice"] == 1


def test_wrong_input_is_named() -> None:
    mask = blob(0, 8, 8)
    with pytest.raises(ValueError, match="must fit together"):
        hd95_directed_max(mask, mask[1:])
    with pytest.raises(ValueError, match="must fit together"):
        surface_dice(mask, mask, 1, (1, 1, 1))
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        surface_dice(mask, mask, -1)
    with pytest.raises(ValueError, match="at least one image"):
        boundary_scores(np.zeros((0, 8, 8)), np.zeros((0, 8, 8)), 1, 1)
