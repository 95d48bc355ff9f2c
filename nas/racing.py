"""Racing: a candidate is given up once the images seen show that it cannot be among those that matter.

The pooled score of a candidate is compared with that of a reference which was measured in full. Scores are ratios of
sums over images, such as IoU = Σ TP / Σ (TP + FP + FN). With r the reference's ratio and B its denominator, each image
adds

    d = ((a − r·b) of the candidate − (a − r·b) of the reference) / B,    a, b the numerator and denominator it adds,

and since Σ (a − r·b) of the reference is 0, the candidate's ratio is below r exactly when Σ d over all images is
negative. Over several classes, whose mean is the score, d is the mean of the classes' (first order in the difference).

Of the N images, n were seen, in an order drawn at random. Most images hardly tell slicings apart and a few do strongly,
so the images seen alone say little about how much the others can still make up: on recorded counts, intervals by
Student's t from d alone gave up several times more good candidates than they promised. But other trials were scored in
full. How strongly an image moves is taken from these peers, as the mean square of their d, mixed half and half with its
mean over all images; how far the candidate moves in proportion to that, from the images seen. So

    upper bound of Σ d = Σ seen d + t · √(s · Σ unseen v),    s = mean over seen of d² / v,

with v the images' volatility and t Student's quantile for n − 1 degrees of freedom. The candidate is given up when the
bound is negative. The error allowed, 1 − confidence, is divided by the number of comparisons (Bonferroni).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy

from nas.config import RacingConfig, SearchConfig
from nas.objectives import losses
from nas.pareto import pareto_mask

Counts = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]

NUM_PEERS = 10
"""Trials scored in full that a race needs, to tell images apart by how much they move."""


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
    """One candidate against its references: behind one of them in every objective, it is given up.

    Args:
        config: confidence and the least number of images.
        objectives: to compare in: the first alone for ``evolution``; all, when it is domination that counts.
        references: counts (N, K, 4) of each in full, images in the order in which the candidate sees them.
        peers: the same of trials that tell how volatile each image is.
        num_looks: how often ``lost`` will be asked at most.
    """

    def __init__(
        self,
        config: RacingConfig,
        objectives: Sequence[str],
        references: Sequence[Counts],
        peers: Sequence[Counts],
        num_looks: int,
    ) -> None:
        self._min_images = config.min_images
        self._rivals = [[Comparison(counts, peers, name) for name in objectives] for counts in references]
        self._level = 1 - (1 - config.confidence) / max(1, num_looks * len(references))

    def lost(self, counts: Counts) -> bool:
        """Whether some reference is better in every objective, at the stated confidence, given the counts so far."""
        if len(counts) < self._min_images:
            return False
        return any(all(each.upper_bound(counts, self._level) < 0 for each in rival) for rival in self._rivals)


class Comparison:
    """A candidate's score in one objective, less a reference's, as far as the images seen tell.

    Args:
        reference, peers: counts (N, K, 4) each, images in the order in which candidates see them; without peers all
            images count as equally volatile.
        objective: as in ``ratio_parts``.
    """

    def __init__(self, reference: Counts, peers: Sequence[Counts], objective: str) -> None:
        self._objective = objective
        above, below = ratio_parts(reference, objective)
        whole = below.sum(axis=0)
        # Where there is nothing to find, the score is 1 by the rule for empty masks, and whatever is marked lowers it.
        self._ratio = np.where(whole > 0, above.sum(axis=0) / np.maximum(whole, 1), 1.0)
        self._whole = np.maximum(whole, 1)
        self._own = above - self._ratio * below
        self._volatility = np.ones(len(reference))
        squares = np.sum([self._gains(peer) ** 2 for peer in peers], axis=0)
        if np.any(squares):
            self._volatility = 0.5 + 0.5 * squares / squares.mean()

    def _gains(self, counts: Counts) -> Values:
        """d of each image of ``counts`` (n, K, 4), which are the first n of the reference's."""
        above, below = ratio_parts(counts, self._objective)
        gains: Values = ((above - self._ratio * below - self._own[: len(counts)]) / self._whole).mean(axis=1)
        return gains

    def upper_bound(self, counts: Counts, level: float) -> float:
        """Upper bound of a one-sided interval for the difference over all images.

        Args:
            counts: (n, K, 4) of the candidate on the first n images, n at least 2. level: such as 0.99.
        """
        seen, gains = len(counts), self._gains(counts)
        scale = (gains**2 / self._volatility[:seen]).mean()
        rest = math.sqrt(scale * self._volatility[seen:].sum())
        return float(gains.sum() + scipy.stats.t.ppf(level, seen - 1) * rest)


class Leaders:
    """The completed trials that a newcomer must match: told of each completed trial, it names them at any moment.

    For ``evolution`` that is the last of the best ``num_parents``: who scores below it in the first objective is no
    parent now, nor later, as the best only get better. For other searchers it is the Pareto front.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._best: list[tuple[tuple[float, ...], int]] = []
        self._front: list[tuple[tuple[float, ...], int]] = []

    def add(self, number: int, metrics: Mapping[str, float]) -> None:
        """A completed trial."""
        entry = (losses(metrics, self._config.objectives), number)
        bisect.insort(self._best, entry)
        del self._best[max(NUM_PEERS, self._config.num_parents) :]
        if self._config.searcher != "evolution":
            candidates = [*self._front, entry]
            mask = pareto_mask(np.array([row for row, _ in candidates]))
            self._front = [each for each, keep in zip(candidates, mask, strict=True) if keep]

    def references(self) -> tuple[int, ...]:
        """Trials to race against; none before there are enough peers."""
        if len(self._best) < max(NUM_PEERS, self._config.num_parents):
            return ()
        if self._config.searcher == "evolution":
            return (self._best[self._config.num_parents - 1][1],)
        return tuple(number for _, number in self._front)

    def peers(self) -> tuple[int, ...]:
        """Trials that tell how volatile each image is: the best in the first objective."""
        return tuple(number for _, number in self._best[:NUM_PEERS]) if self.references() else ()
