"""How sure a score is: bootstrap over the images of a split (docs/metrics.md, Intervals).

The split's N images are drawn N times with replacement, and each such resample is scored anew; the middle 95 % of the
scores make the interval (Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13: the percentile interval).
Images of one patient are alike, so where patients are known these are drawn, each with all images (the cluster
bootstrap). What it covers: another draw of images from where these came from. What it does not: another training seed;
``difference_of_trainings`` takes several trainings of each network, and covers both.

Shapes: N images, K classes counted, R resamples, G groups drawn: patients, or the images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicemamba.evaluation.metrics import check_counts, image_scores, pooled_scores

Samples = NDArray[np.float64]

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
SMALLER_IS_BETTER = frozenset({"hd95"})
_BLOCK = 1 << 22  # drawn images held at once: 32 MiB for each of a few arrays


class Interval(NamedTuple):
    """Ends of a confidence interval; a list of two numbers in JSON."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """What network a scores more than network b on the same images.

    Attributes:
        difference: a − b on the images as they are.
        interval: of that difference.
        share_better: share of resamples in which a is the better one (for ``hd95`` the smaller); ties count half.
        samples: (R,) the difference in each resample.
    """

    difference: float
    interval: Interval
    share_better: float
    samples: Samples


def bootstrap_metrics(
    counts: NDArray[Any] | Tensor,
    *,
    hd95: NDArray[Any] | None = None,
    groups: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile interval of every score that ``summarize`` gives.

    Args:
        counts: (N, K, 4) pixel counts, from ``confusion``.
        hd95: (N,) from ``image_hd95``; with it the mean ``hd95`` gets an interval too.
        groups: each image's patient, or a name of its own; images are drawn one by one when None.
        num_resamples, seed: the same seed and groups give the same resamples.
        confidence: share of the resamples' scores inside the interval.

    Raises:
        ValueError: arguments that do not fit together, or are out of range.
    """
    samples = bootstrap_samples(counts, hd95=hd95, groups=groups, num_resamples=num_resamples, seed=seed)
    return {name: percentile_interval(values, confidence) for name, values in samples.items()}


def paired_difference(
    counts_a: NDArray[Any] | Tensor,
    counts_b: NDArray[Any] | Tensor,
    metric: str,
    *,
    hd95: tuple[NDArray[Any], NDArray[Any]] | None = None,
    groups: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two networks on the same images: in each resample both are scored on the same draw.

    Images that are hard for both move both scores alike, so the interval of the difference is as a rule much narrower
    than the two scores' intervals let expect.

    Args:
        counts_a, counts_b: (N, K, 4), image i of one being image i of the other.
        metric: a score of ``summarize``, or ``hd95``.
        hd95: (N,) of both networks, needed for that metric alone.
        groups, num_resamples, confidence, seed: as in ``bootstrap_metrics``.

    Raises:
        ValueError: counts of another number of images or classes, or an unknown metric.
    """
    if tuple(counts_a.shape) != tuple(counts_b.shape):
        raise ValueError(
            "paired counts must be of the same images and classes; "
            f"got {tuple(counts_a.shape)} and {tuple(counts_b.shape)}"
        )
    distances = hd95 or (None, None)
    pair, whole = [], []
    for counts, distance in zip((counts_a, counts_b), distances, strict=True):
        features = _Features(counts, distance, groups)
        if metric not in features.scores:
            raise ValueError(f"metric must be one of {', '.join(features.scores)}; got {metric!r}")
        pair.append(features.resample(num_resamples, seed)[metric])
        whole.append(features.scores[metric])
    samples = pair[0] - pair[1]
    gain = -samples if metric in SMALLER_IS_BETTER else samples
    share = float(np.mean(gain > 0) + np.mean(gain == 0) / 2)
    return PairedDifference(whole[0] - whole[1], percentile_interval(samples, confidence), share, samples)


class Training(NamedTuple):
    """One training's scores on images: (N, K, 4) counts, and (N,) HD95 where that is asked for."""

    counts: NDArray[Any] | Tensor
    hd95: NDArray[Any] | None = None


def difference_of_trainings(
    first: Sequence[Training],
    second: Sequence[Training],
    metric: str,
    *,
    groups: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Mean score of one network's trainings less that of another's, on the same images.

    The bootstrap has two levels: images, or groups with all of theirs, are drawn with replacement, the same for all
    trainings, and trainings within each network. So the interval covers another sample of images and, with several
    trainings of both, the luck of the seed. With one of each it is that of ``paired_difference``.

    Args:
        first, second: trainings of the two networks from different seeds.
    """
    rng = np.random.default_rng(seed)
    widen = _widening(len(first), len(second))
    sides = [_over_trainings(one, metric, groups, num_resamples, seed, rng, widen) for one in (first, second)]
    samples = sides[0] - sides[1]
    gain = -samples if metric in SMALLER_IS_BETTER else samples
    share = float(np.mean(gain > 0) + np.mean(gain == 0) / 2)
    whole = mean_of_trainings(first, metric) - mean_of_trainings(second, metric)
    return PairedDifference(whole, percentile_interval(samples, confidence), share, samples)


def mean_of_trainings(trainings: Sequence[Training], metric: str) -> float:
    """Mean over trainings of a score on the images as they are."""
    return float(np.mean([_Features(one.counts, one.hd95, None).scores[metric] for one in trainings]))


def interval_of_trainings(
    trainings: Sequence[Training], metric: str, *, groups: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Interval of ``mean_of_trainings`` over images or groups and, with several trainings, over seeds."""
    rng, widen = np.random.default_rng(seed), _widening(len(trainings))
    return percentile_interval(_over_trainings(trainings, metric, groups, NUM_RESAMPLES, seed, rng, widen))


def _over_trainings(
    trainings: Sequence[Training],
    metric: str,
    groups: Sequence[str] | None,
    num_resamples: int,
    seed: int,
    rng: np.random.Generator,
    widen: float,
) -> Samples:
    """(R,) means over trainings drawn with replacement, whose scatter is widened."""
    drawn_alike = [
        bootstrap_samples(one.counts, hd95=one.hd95, groups=groups, num_resamples=num_resamples, seed=seed)[metric]
        for one in trainings
    ]
    samples = np.stack(drawn_alike)  # (S, R)
    centre = samples.mean(axis=0)
    drawn = rng.integers(0, len(samples), samples.shape)
    spread: Samples = centre + widen * (np.take_along_axis(samples, drawn, axis=0).mean(axis=0) - centre)
    return spread


def _widening(*num_seeds: int) -> float:
    """By how much the scatter of seeds drawn with replacement is widened.

    Draws from S values scatter by √((S−1)/S) too little, and of few values Student's t asks for wider intervals than
    percentiles give; for three seeds each, together, 1.7.
    """
    least, freedom = min(num_seeds), sum(num_seeds) - len(num_seeds)
    if least < 2:
        return 1.0
    return float(np.sqrt(least / (least - 1)) * scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975))


def bootstrap_samples(
    counts: NDArray[Any] | Tensor,
    *,
    hd95: NDArray[Any] | None = None,
    groups: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Samples]:
    """(R,) scores of the resamples, by name. Those of several networks on the same images with one seed are paired."""
    return _Features(counts, hd95, groups).resample(num_resamples, seed)


def percentile_interval(samples: Samples, confidence: float = CONFIDENCE) -> Interval:
    """The middle ``confidence`` share of (R,) values."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


class _Features:
    """What is summed: counts (4·K columns), the scores of each image, and 1 for each. Scores follow from the sums.

    One row a group, its images added up, as a group is drawn as a whole.
    """

    def __init__(self, counts: NDArray[Any] | Tensor, hd95: NDArray[Any] | None, groups: Sequence[str] | None) -> None:
        array = np.asarray(counts, dtype=np.float64)  # whole numbers up to 2⁵³ stay exact
        exact = check_counts(torch.from_numpy(array))
        num_images, self._num_counted = exact.shape[:2]
        means = {name: value.numpy() for name, value in image_scores(exact).items()}
        if hd95 is not None:
            if np.shape(hd95) != (num_images,):
                raise ValueError(f"hd95 must have shape ({num_images},), one an image; got {np.shape(hd95)}")
            means["hd95"] = np.asarray(hd95, dtype=np.float64)
        self._names = tuple(means)
        features = np.column_stack([array.reshape(num_images, -1), *means.values(), np.ones(num_images)])
        self._features = features if groups is None else _add_up(features, groups)
        self.scores = {
            name: float(value[0]) for name, value in self._score(self._features.sum(axis=0, keepdims=True)).items()
        }

    def _score(self, sums: Samples) -> dict[str, Samples]:
        """(R, features) sums over images → (R,) of each score."""
        split = 4 * self._num_counted
        pooled = torch.from_numpy(sums[:, :split].reshape(-1, self._num_counted, 4))
        scores = {name: value.numpy() for name, value in pooled_scores(pooled).items()}
        return scores | dict(zip(self._names, (sums[:, split:-1] / sums[:, -1:]).T, strict=True))

    def resample(self, num_resamples: int, seed: int) -> dict[str, Samples]:
        """Scores of the resamples: how often each group was drawn, times what is summed, in blocks of bounded size."""
        if num_resamples < 1:
            raise ValueError(f"num_resamples must be at least 1; got {num_resamples}")
        rng = np.random.default_rng(seed)
        num_groups = len(self._features)
        size = max(1, _BLOCK // num_groups)
        blocks = [
            _draw(rng, min(size, num_resamples - start), num_groups) @ self._features
            for start in range(0, num_resamples, size)
        ]
        return self._score(np.concatenate(blocks))


def _add_up(features: Samples, groups: Sequence[str]) -> Samples:
    """(N, columns) → (G, columns), the groups in the order of their first images."""
    if len(groups) != len(features):
        raise ValueError(f"groups must name one group an image, {len(features)} in all; got {len(groups)}")
    place = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(place), features.shape[1]))
    np.add.at(sums, [place[group] for group in groups], features)
    return sums


def _draw(rng: np.random.Generator, num_resamples: int, num_groups: int) -> Samples:
    """(R, G) how often each group is in each resample; rows sum to G."""
    drawn = rng.integers(0, num_groups, (num_resamples, num_groups))
    drawn += num_groups * np.arange(num_resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=num_resamples * num_groups)
    return times.reshape(num_resamples, num_groups).astype(np.float64)
