"""Is a search worth it? What some random architectures show before it: where their spread of scores comes from.

The variance of n scores is that of the architectures plus that of sampling the images, of which the paired bootstrap
over images tells the part in which architectures differ. Where the images alone explain the spread, a search by this
score can only choose by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy

from nas.counts import ScoredImages
from nas.front import NUM_RESAMPLES
from nas.objectives import OBJECTIVES
from nas.space import SearchSpace
from nas.study import Trial, TrialState
from slicemamba.architecture import Architecture, format_block
from slicemamba.config import Config
from slicemamba.evaluation.statistics import bootstrap_samples

MIN_SURVEYED = 8  # as ``nas.config`` asks for
_LEVEL = 0.05


class Survey(Config):
    """What the random architectures show.

    Attributes:
        num_architectures, num_images: measured. metric: the score.
        spread: standard deviation of their scores.
        share: of its variance that the architectures explain, 0…1; the rest is sampling of images.
        p_value: of a spread as large, if all architectures were equally good.
        gain: what the best of the search's candidates may be expected to score above their mean, at most.
        choice: the choice in a block with the greatest effect on the score, in words; None where no effect is clear.
        flat: whether there is nothing to gain: scores differ no more than images explain, and nothing else does.
    """

    num_architectures: int
    num_images: int
    metric: str
    spread: float
    share: float
    p_value: float
    gain: float
    choice: str | None
    flat: bool
    sentence: str


def survey(
    trials: Sequence[Trial],
    images: Callable[[int], ScoredImages | None],
    space: SearchSpace,
    metric: str,
    *,
    num_candidates: int,
    has_costs: bool,
    patients: Sequence[str] | None = None,
) -> Survey | None:
    """What random trials show; None where fewer than ``MIN_SURVEYED`` have scores of each image.

    Args:
        trials: drawn at random. images: what one scored on each image, by its number.
        metric: a score that is made of counts.
        num_candidates: that the search will evaluate.
        has_costs: the search weighs scores against a cost in which architectures differ, so that there is something to
            gain where scores do not.
    """
    done = [t for t in trials if t.state is TrialState.COMPLETED and images(t.number) is not None]
    if len(done) < MIN_SURVEYED:
        return None
    scored = [found for t in done if (found := images(t.number)) is not None]
    samples = np.stack(
        [bootstrap_samples(one.counts, groups=patients, num_resamples=NUM_RESAMPLES)[metric] for one in scored]
    )
    n = len(done)
    variance = float(np.var([t.metrics[metric] for t in done], ddof=1))
    noise = _noise(samples)
    share = max(0.0, 1 - noise / variance) if variance > 0 else 0.0
    p_value = float(scipy.stats.chi2.sf((n - 1) * variance / noise, n - 1)) if noise > 0 else float(variance == 0)
    gain = float(np.sqrt(share * variance) * scipy.stats.norm.ppf(1 - 1 / (num_candidates + 1)))
    flat = p_value > _LEVEL and not has_costs
    choice = _clearest_choice(done, space, metric)
    return Survey(
        num_architectures=n,
        num_images=len(scored[0].names),
        metric=metric,
        spread=float(np.sqrt(variance)),
        share=share,
        p_value=p_value,
        gain=gain,
        choice=choice,
        flat=flat,
        sentence=_sentence(n, len(scored[0].names), metric, variance**0.5, share, p_value, gain, choice, has_costs),
    )


def _noise(samples: np.ndarray) -> float:  # type: ignore[type-arg]
    """Variance of a score by sampling of images, less what all architectures share: (n, R) paired resamples."""
    covariance = np.cov(samples)
    n = len(covariance)
    shared = (covariance.sum() - np.trace(covariance)) / (n * (n - 1))
    return max(0.0, float(np.trace(covariance) / n - shared))


def _clearest_choice(trials: Sequence[Trial], space: SearchSpace, metric: str) -> str | None:
    """The choice in a block whose candidates differ most clearly from the others (t-test, Bonferroni over all)."""
    genes = np.array([space.encode(Architecture.parse(t.architecture)) for t in trials])
    scores = np.array([t.metrics[metric] for t in trials])
    found: list[tuple[float, float, int, int]] = []
    for place, options in enumerate(space.options):
        for gene in options:
            having, others = scores[genes[:, place] == gene], scores[genes[:, place] != gene]
            if min(len(having), len(others)) > 2:
                test = scipy.stats.ttest_ind(having, others)
                found.append((float(test.pvalue), float(having.mean() - others.mean()), place, gene))
    found = [one for one in found if np.isfinite(one[0])]
    if not found or min(found)[0] > _LEVEL / len(found):
        return None
    _, effect, place, gene = min(found)
    return f"{format_block(space.choices[gene])} in block {place + 1} ({effect:+.3f})".replace("-0", "−0")


def _sentence(
    n: int,
    num_images: int,
    metric: str,
    spread: float,
    share: float,
    p_value: float,
    gain: float,
    choice: str | None,
    has_costs: bool,
) -> str:
    title = OBJECTIVES[metric].title
    start = f"{n} random architectures scatter by {spread:.4f} {title} (standard deviation) on {num_images} images"
    if p_value > _LEVEL:
        rest = "; what can be saved is cost" if has_costs else ": there is nothing that a search could gain"
        return f"{start}, no more than sampling of images explains{rest}."
    matters = f"; what matters most is {choice}" if choice is not None else ""
    return (
        f"{start}: {share:.0%} of the variance is the architecture's, the rest sampling of images. A search can gain "
        f"about {gain:.3f} over their mean at most{matters}."
    )
