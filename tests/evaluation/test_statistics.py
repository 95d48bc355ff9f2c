"""Bootstrap intervals against SciPy, against all resamples of a few images, and where there is nothing to vary."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from slicemamba.evaluation.metrics import summarize
from slicemamba.evaluation.statistics import (
    Interval,
    bootstrap_metrics,
    bootstrap_samples,
    paired_difference,
    percentile_interval,
)

Counts = NDArray[np.int64]
POOLED = ("miou", "dice", "accuracy", "specificity", "sensitivity")
PER_IMAGE = ("dice_per_image", "miou_per_image")


def draw_counts(num_images: int, num_classes: int = 1, seed: int = 0) -> Counts:
    """Counts of random label maps, a class more common in some images than in others."""
    rng = np.random.default_rng(seed)
    counts = []
    for _ in range(num_images):
        target = rng.random((12, 12)) < rng.uniform(0.05, 0.6)
        target = target * rng.integers(1, max(num_classes, 2), target.shape)
        noise = rng.integers(0, max(num_classes, 2), target.shape)
        prediction = np.where(rng.random(target.shape) < rng.uniform(0.5, 1), target, noise)
        labels = [1] if num_classes == 1 else range(num_classes)
        counts.append([_count(prediction == label, target == label) for label in labels])
    return np.array(counts)


def _count(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> list[int]:
    return [int((a & b).sum()) for a, b in [(predicted, actual), (predicted, ~actual), (~predicted, actual)]] + [
        int((~predicted & ~actual).sum())
    ]


@pytest.mark.parametrize("num_classes", [1, 4])
def test_every_score_of_the_contract_has_an_interval_around_it(num_classes: int) -> None:
    counts = draw_counts(40, num_classes)
    scores = summarize(torch.from_numpy(counts))
    intervals = bootstrap_metrics(counts, num_resamples=2000)
    assert list(intervals) == list(scores) == [*POOLED, *PER_IMAGE]
    for name, (low, high) in intervals.items():
        assert 0 <= low < scores[name] < high <= 1


@pytest.mark.parametrize("metric", [*POOLED, *PER_IMAGE])
def test_intervals_are_those_of_scipy(metric: str) -> None:
    """SciPy draws other resamples, so the ends agree to their Monte Carlo error."""
    counts = draw_counts(15)

    def statistic(indices: NDArray[np.int64], axis: int = -1) -> Any:
        return np.array([summarize(torch.from_numpy(counts[row]))[metric] for row in np.atleast_2d(indices)])

    expected = stats.bootstrap(
        (np.arange(15),), statistic, n_resamples=3000, method="percentile", confidence_level=0.9, rng=1, batch=3000
    )
    found = bootstrap_metrics(counts, confidence=0.9, seed=3)[metric]
    spread = float(expected.standard_error)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.15 * spread)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.15 * spread)


def test_samples_are_drawn_from_all_resamples_alike() -> None:
    """Three images have 27 resamples: each score is one of theirs, and as common as it should be."""
    counts = draw_counts(3)
    exact = [summarize(torch.from_numpy(counts[list(drawn)])) for drawn in itertools.product(range(3), repeat=3)]
    samples = bootstrap_samples(counts, num_resamples=20_000)
    for name in (*POOLED, *PER_IMAGE):
        values, times = np.unique(np.round([one[name] for one in exact], 10), return_counts=True)
        found, drawn = np.unique(np.round(samples[name], 10), return_counts=True)
        assert found == pytest.approx(values)
        assert drawn / 20_000 == pytest.approx(times / 27, abs=0.015)


def test_interval_of_hd95_is_that_of_the_mean() -> None:
    counts, distances = draw_counts(200), np.random.default_rng(2).exponential(10, 200)
    low, high = bootstrap_metrics(counts, hd95=distances)["hd95"]
    half = 1.96 * distances.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((distances.mean() - half, distances.mean() + half), abs=0.2 * half)
    assert "hd95" not in bootstrap_metrics(counts, num_resamples=10)


def test_same_seed_same_interval_whatever_the_type_of_the_counts() -> None:
    counts = draw_counts(20)
    expected = bootstrap_metrics(counts, num_resamples=500, seed=4)
    assert bootstrap_metrics(torch.from_numpy(counts), num_resamples=500, seed=4) == expected
    assert bootstrap_metrics(counts.astype(np.uint32), num_resamples=500, seed=4) == expected
    assert bootstrap_metrics(counts, num_resamples=500, seed=5) != expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = draw_counts(20)
    whole = bootstrap_samples(counts, num_resamples=103, seed=1)
    monkeypatch.setattr("slicemamba.evaluation.statistics._BLOCK", 200)
    parts = bootstrap_samples(counts, num_resamples=103, seed=1)
    for name, values in whole.items():
        assert parts[name] == pytest.approx(values, abs=1e-12)


def test_more_confidence_is_wider_and_more_images_are_narrower() -> None:
    few, many = draw_counts(20), draw_counts(320)
    narrow, wide = (bootstrap_metrics(few, confidence=c)["dice"] for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    certain = bootstrap_metrics(many, confidence=0.8)["dice"]
    assert certain.high - certain.low < (narrow.high - narrow.low) / 2


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 300 samples of 60 images, about 90 % hold the score of the population they came from."""
    population = draw_counts(4000, seed=9)
    truth = summarize(torch.from_numpy(population))["dice"]
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        sample = population[rng.integers(0, len(population), 60)]
        low, high = bootstrap_metrics(sample, num_resamples=400, confidence=0.9)["dice"]
        hits.append(low <= truth <= high)
    assert 0.84 <= np.mean(hits) <= 0.95


def test_images_that_stand_alone_are_groups_of_one() -> None:
    counts, distances = draw_counts(12, 3), np.arange(12.0)
    alone = bootstrap_metrics(counts, hd95=distances, num_resamples=300)
    assert bootstrap_metrics(counts, hd95=distances, groups=[f"p{i}" for i in range(12)], num_resamples=300) == alone


def test_images_of_one_patient_are_drawn_together() -> None:
    """Each image twice tells no more than once: so say patients, whereas images one by one seem to be more certain."""
    counts, distances = draw_counts(10), np.random.default_rng(1).random(10)
    once = bootstrap_metrics(counts, hd95=distances, num_resamples=2000)
    twice, both = np.concatenate([counts, counts]), np.concatenate([distances, distances])
    patients = [f"p{i}" for i in range(10)] * 2
    together = bootstrap_metrics(twice, hd95=both, groups=patients, num_resamples=2000)
    apart = bootstrap_metrics(twice, hd95=both, num_resamples=2000)
    for name, (low, high) in together.items():
        assert (low, high) == pytest.approx(once[name])
        assert apart[name].high - apart[name].low < 0.85 * (high - low)


def test_patients_with_more_images_weigh_more() -> None:
    """A mean over images of patients with 1 and 3 of them, drawn as wholes: all resamples are known."""
    counts = draw_counts(4)
    each = np.array([summarize(torch.from_numpy(counts[i : i + 1]))["dice"] for i in range(4)])
    samples = bootstrap_samples(counts, groups=["a", "b", "b", "b"], num_resamples=4000)["dice_per_image"]
    expected = [each[0], each.mean(), each[1:].mean()]
    found, times = np.unique(np.round(samples, 9), return_counts=True)
    assert found == pytest.approx(sorted(expected))
    share = dict(zip(found, times / 4000, strict=True))
    assert share[round(each.mean(), 9)] == pytest.approx(0.5, abs=0.03)


def test_one_image_has_nothing_to_vary() -> None:
    counts = draw_counts(1)
    scores = summarize(torch.from_numpy(counts))
    for name, interval in bootstrap_metrics(counts, num_resamples=50).items():
        assert interval == pytest.approx((scores[name], scores[name]))


def test_empty_masks_keep_the_rule() -> None:
    """Nothing marked anywhere: full marks. One missed lesion among empty images: resamples without it are perfect."""
    empty = np.tile([[[0, 0, 0, 64]]], (6, 1, 1))
    assert set(bootstrap_metrics(empty, num_resamples=50).values()) == {Interval(1.0, 1.0)}
    missed = empty.copy()
    missed[0] = [[0, 0, 9, 55]]
    samples = bootstrap_samples(missed, num_resamples=5000)
    without = (5 / 6) ** 6
    assert set(samples["dice"]) == {0.0, 1.0}
    assert samples["dice"].mean() == pytest.approx(without, abs=0.03)
    assert samples["dice_per_image"].mean() == pytest.approx(5 / 6, abs=0.02)


def worse(counts: Counts, pixels: int) -> Counts:
    """The same images with that many found pixels missed."""
    moved = np.minimum(counts[..., 0], pixels)
    changed = counts.copy()
    changed[..., 0] -= moved
    changed[..., 2] += moved
    return changed


@pytest.mark.parametrize("metric", ["miou", "dice", "dice_per_image", "sensitivity"])
def test_a_network_that_is_better_on_each_image_is_better_in_each_resample(metric: str) -> None:
    a = draw_counts(30)
    b = worse(a, 3)
    scores_a, scores_b = (summarize(torch.from_numpy(counts))[metric] for counts in (a, b))
    paired = paired_difference(a, b, metric, num_resamples=2000)
    assert paired.difference == pytest.approx(scores_a - scores_b)
    assert paired.share_better == 1
    assert 0 < paired.interval.low < paired.difference < paired.interval.high
    alone = bootstrap_metrics(a, num_resamples=2000)[metric]
    assert paired.interval.high - paired.interval.low < (alone.high - alone.low) / 2, "images are paired"
    turned = paired_difference(b, a, metric, num_resamples=2000)
    assert turned.share_better == 0
    assert turned.samples == pytest.approx(-paired.samples)


def test_networks_that_agree_are_a_tie() -> None:
    counts = draw_counts(10)
    paired = paired_difference(counts, counts, "dice", num_resamples=100)
    assert (paired.difference, paired.interval, paired.share_better) == (0, (0, 0), 0.5)


def test_smaller_hd95_is_better() -> None:
    counts, distances = draw_counts(10), np.arange(10.0)
    paired = paired_difference(counts, counts, "hd95", hd95=(distances, distances + 1), num_resamples=100)
    assert (paired.difference, paired.share_better) == (-1, 1)
    assert paired.interval == pytest.approx((-1, -1))


@pytest.mark.parametrize("shape", [(0, 1, 4), (2, 1, 3), (2, 4)])
def test_counts_of_other_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_metrics(np.zeros(shape, np.int64))


def test_arguments_that_do_not_fit() -> None:
    counts = draw_counts(4)
    with pytest.raises(ValueError, match="one an image"):
        bootstrap_metrics(counts, hd95=np.zeros(3))
    with pytest.raises(ValueError, match="4 in all; got 2"):
        bootstrap_metrics(counts, groups=["a", "b"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_metrics(counts, confidence=95)
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap_metrics(counts, num_resamples=0)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(counts, counts[:3], "dice")
    with pytest.raises(ValueError, match="one of miou, dice"):
        paired_difference(counts, counts, "hd95")


def test_percentiles_of_known_values() -> None:
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
