"""Racing: a candidate is given up once the images seen show that it cannot be among those that matter.

The pooled score of a candidate is compared with that of a reference which was measured in full. Scores are ratios of
sums over images, such as IoU = Σ TP / Σ (TP + FP + FN). With r the reference's ratio and B its denominator, each image
adds

    d = ((a − r·b) of the candidate − (a − r·b) of the reference) / B,    a, b the numerator and denominator it adds,

and since Σ (a − r·b) of the reference is 0, the candidate's ratio is below r exactly when Σ d over all images is
negative. Over several classes, whose mean is the score, d is the mean of the classes' (first order in the difference).
Of the N images, n were seen, in an order drawn at random; the sum over all is estimated by N times the mean of d, with
the t interval for draws without replacement, and the candidate is given up when the upper bound is negative. The error
allowed, 1 − confidence, is divided by the number of times one looks (Bonferroni).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from nas.config import RacingConfig, SearchConfig
from nas.objectives import losses
from nas.pareto import pareto_mask

Counts = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


def ratio_parts(counts: Counts, objective: str) -> tuple[Values, Values]:
    """Numerator and denominator, each (N, foreground classes), of counts (N, K, 4): TP, FP, FN, TN."""
    foreground = counts if counts.shape[1] == 1 else counts[:, 1:]
    tp, fp, fn, tn = np.moveaxis(foreground.astype(np.float64), -1, 0)
    parts = {
        "miou": (tp, tp + fp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
    }
    return parts[objective]


class Race:
    """One candidate against its references, all of which must be beaten by it, one objective at least, to go on.

    Args:
        config: confidence and the least number of images.
        objectives: to compare in: the first alone for ``evolution``; all, when it is domination that counts.
        references: counts (N, K, 4) of each in full, images in the order in which the candidate sees them.
        num_looks: how often ``lost`` will be asked at most.
    """

    def __init__(
        self, config: RacingConfig, objectives: Sequence[str], references: Sequence[Counts], num_looks: int
    ) -> None:
        self._min_images = config.min_images
        self._objectives = objectives
        self._references = references
        self._level = 1 - (1 - config.confidence) / max(1, num_looks * len(references))

    def lost(self, counts: Counts) -> bool:
        """Whether some reference is better in every objective, at the stated confidence, given the counts so far."""
        if len(counts) < self._min_images:
            return False
        return any(
            all(upper_bound(counts, reference, objective, self._level) < 0 for objective in self._objectives)
            for reference in self._references
        )


def upper_bound(candidate: Counts, reference: Counts, objective: str, level: float) -> float:
    """Upper bound of a one-sided interval for the candidate's score over all images less the reference's.

    Args:
        candidate: (n, K, 4) counts of the images seen, n at least 2. reference: (N, K, 4), the same images first.
        objective: as in ``ratio_parts``. level: of the interval, such as 0.99.
    """
    seen, total = len(candidate), len(reference)
    above, below = ratio_parts(reference, objective)
    whole = below.sum(axis=0)
    # Where there is nothing to find, the score is 1 by the rule for empty masks, and whatever is marked lowers it.
    ratio = np.where(whole > 0, above.sum(axis=0) / np.maximum(whole, 1), 1.0)
    own_above, own_below = ratio_parts(candidate, objective)
    gain = (own_above - ratio * own_below) - (above[:seen] - ratio * below[:seen])
    differences = (gain / np.maximum(whole, 1)).mean(axis=1)
    error = differences.std(ddof=1) * math.sqrt(total * (total - seen) / seen)
    return float(total * differences.mean() + student.ppf(level, seen - 1) * error)


class Leaders:
    """The completed trials that a newcomer must match: told of each completed trial, it names them at any moment.

    For ``evolution`` that is the last of the best ``num_parents``: who scores below it in the first objective is no
    parent now, nor later, as the best only get better. For other searchers it is the Pareto front.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._ranked: list[tuple[tuple[float, ...], int]] = []

    def add(self, number: int, metrics: Mapping[str, float]) -> None:
        """A completed trial."""
        bisect.insort(self._ranked, (losses(metrics, self._config.objectives), number))
        if self._config.searcher == "evolution":
            del self._ranked[self._config.num_parents :]
        else:
            mask = pareto_mask(np.array([row for row, _ in self._ranked]))
            self._ranked = [entry for entry, keep in zip(self._ranked, mask, strict=True) if keep]

    def numbers(self) -> tuple[int, ...]:
        """Trials to race against; none while there are too few."""
        if self._config.searcher != "evolution":
            return tuple(number for _, number in self._ranked)
        return (self._ranked[-1][1],) if len(self._ranked) == self._config.num_parents else ()
