"""How far the answer of a search can be trusted: the statistics of the audit and the rules of its verdict.

Everything here is a function of numbers; ``cluster.audit`` has them measured. The rules stand in docs/audit.md too.
The verdict is about two claims: *the network that this search found is better than fixed slicing on unseen images, and
it was found by a search that works*; and *a cheaper network of the front is not worse by a margin or more*.
``not supported`` means that the evidence does not carry the claim, not that the claim is false.

Shapes: N images, K classes counted, R resamples, S training seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from nas.objectives import COUNTED, OBJECTIVES, format_value
from nas.study import Trial, TrialState
from slicemamba.config import Config
from slicemamba.evaluation.metrics import summarize
from slicemamba.evaluation.statistics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Training,
    bootstrap_samples,
    difference_of_trainings,
    percentile_interval,
)

Floats = NDArray[np.float64]
Counts = NDArray[Any]
Patients = Sequence[str] | None
Outcome = Literal["passed", "open", "failed"]
Word = Literal["supported", "weak", "not supported"]

MIN_ARCHITECTURES = 8  # below, an interval of a rank correlation says nothing
MIN_TEST_IMAGES = 20  # that are independent of each other; below, percentile intervals are too narrow
MIN_SEEDS = 3  # trainings of the best and of its rival; random searches
RANK_RESAMPLES = 1000
ONE_SIDED = 0.05  # chance of calling any member not worse that is worse by the margin
SEED_DEVIATION = 0.021
"""Standard deviation of Dice over training seeds in short trainings from scratch: the studies' (docs/studies.md), taken
until an audit has measured its own."""
MOST_SEEDS = 200


class Estimate(Config):
    """A figure with the ends of its interval; None where there was too little to make one."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        ends = "no interval" if self.low is None else f"{self.low:+.3f} to {self.high:+.3f}"
        return f"{self.value:+.3f} ({ends})".replace("-", "−")


class Criterion(Config):
    """One condition of the verdict, with what was found."""

    name: str
    question: str
    outcome: Outcome
    evidence: str


class Claim(Config):
    """One of the two claims that are judged, ``better`` and ``cheaper``, in a word and a sentence."""

    name: Literal["better", "cheaper"]
    word: Word
    sentence: str


class Verdict(Config):
    """The audit in a word and a sentence, with the criteria it follows from.

    The word is the better one of the two claims; the sentence says which holds, and for which network.
    """

    word: Word
    sentence: str
    criteria: tuple[Criterion, ...]
    claims: tuple[Claim, ...] = ()


def spread_sample(trials: Sequence[Trial], metric: str, count: int, leave_out: set[str]) -> list[Trial]:
    """Trials whose scores lie evenly over the range: of each of ``count`` equal parts, the nearest to its middle.

    Args:
        trials: candidates; those without a score, and repetitions of an architecture, are passed over.
        metric: the score. leave_out: architectures that are not wanted.
    """
    pool = {t.architecture: t for t in trials if t.state is TrialState.COMPLETED and t.architecture not in leave_out}
    if not pool:
        return []
    scores = [trial.metrics[metric] for trial in pool.values()]
    edges = np.linspace(min(scores), max(scores), count + 1)
    chosen = []
    for middle in (edges[1:] + edges[:-1]) / 2:
        if pool:
            nearest = min(pool.values(), key=lambda t: (abs(t.metrics[metric] - middle), t.number))
            chosen.append(pool.pop(nearest.architecture))
    return chosen


def rank_agreement(supernet: Sequence[float], alone: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """How well the supernet's scores order architectures as training from scratch does.

    Kendall's τ-b, Spearman's ρ and the recall of the best quarter, with percentile intervals over architectures (pairs
    drawn with replacement). With few architectures these intervals are wide, and too narrow still.

    Args:
        supernet, alone: score of each architecture with the supernet's weights and with its own.
    """
    x, y = np.asarray(supernet, dtype=np.float64), np.asarray(alone, dtype=np.float64)
    if len(x) != len(y):
        raise ValueError(f"as many scores of the one kind as of the other; got {len(x)} and {len(y)}")
    k = max(1, len(x) // 4)
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "kendall": lambda a, b: float(scipy.stats.kendalltau(a, b).statistic),
        "spearman": lambda a, b: float(scipy.stats.spearmanr(a, b).statistic),
        "top_k_recall": lambda a, b: top_k_recall(a, b, k),
    }
    draws = np.random.default_rng(seed).integers(0, max(1, len(x)), (RANK_RESAMPLES, len(x)))
    estimates = {name: _over_architectures(measure, x, y, draws) for name, measure in measures.items()}
    return {"num_architectures": len(x), "k": k, **{name: one.model_dump() for name, one in estimates.items()}}


def top_k_recall(supernet: Floats, alone: Floats, k: int) -> float:
    """Share of the k best on their own that are among the supernet's k best. Of equal scores, the earlier counts."""
    best = [set(np.argsort(-scores, kind="stable")[:k].tolist()) for scores in (supernet, alone)]
    return len(best[0] & best[1]) / k


def _over_architectures(
    measure: Callable[[Floats, Floats], float], x: Floats, y: Floats, draws: NDArray[np.int64]
) -> Estimate:
    if len(x) < 3:
        return Estimate(value=None)
    with warnings.catch_warnings():  # scores that are all equal have no order, and come as NaN
        warnings.simplefilter("ignore")
        value = measure(x, y)
        samples = np.array([measure(x[i], y[i]) for i in draws])
    samples = samples[np.isfinite(samples)]
    if not np.isfinite(value) or len(samples) < RANK_RESAMPLES / 2:
        return Estimate(value=value if np.isfinite(value) else None)
    low, high = percentile_interval(samples)
    return Estimate(value=value, low=low, high=high)


def smallest_visible(num_seeds: int, deviation: float, confidence: float = CONFIDENCE) -> float | None:
    """Difference of two networks, each trained from so many seeds, below which the luck of training hides it.

    Half of Student's interval of a difference of means; the sampling of images comes on top. None for a single seed,
    which tells nothing of that luck.

    Args:
        num_seeds: trainings of each. deviation: standard deviation of the score over seeds. confidence: two-sided.
    """
    if num_seeds < 2:
        return None
    quantile = float(scipy.stats.t.ppf((1 + confidence) / 2, 2 * num_seeds - 2))
    return quantile * deviation * float(np.sqrt(2 / num_seeds))


def seeds_for(margin: float, deviation: float) -> int | None:
    """Fewest seeds of each that show a loss of less than the margin where there is none, one-sided; None beyond
    ``MOST_SEEDS``.
    """
    one_sided = 1 - 2 * ONE_SIDED
    for num_seeds in range(2, MOST_SEEDS + 1):
        visible = smallest_visible(num_seeds, deviation, one_sided)
        assert visible is not None
        if visible < margin:
            return num_seeds
    return None


def foresight(num_seeds: int, margin: float, deviation: float | None = None) -> str:
    """What an audit of this size can tell, in a sentence for before it starts, or for when its scatter is known.

    Args:
        num_seeds: trainings of the best network and of each that it is compared with. margin: as in AuditConfig.
        deviation: over seeds, as the audit has measured it; None: as in the studies.
    """
    known = SEED_DEVIATION if deviation is None else deviation
    visible, wanted = smallest_visible(num_seeds, known), seeds_for(margin, known)
    told = "One training of each network cannot tell a difference from the luck of training"
    if visible is not None:
        source = "as in docs/studies.md" if deviation is None else "as measured here"
        told = (
            f"Seeds of training scatter by {_points(known)} ({source}): with {num_seeds} of each network, differences "
            f"below {_points(visible)} cannot be told from luck"
        )
    if wanted is not None and wanted <= num_seeds:
        return f"{told}; enough to show that a cheaper network loses less than {_points(margin)}."
    needed = f"{wanted} seeds" if wanted is not None else f"more than {MOST_SEEDS} seeds"
    return f"{told}; to show that a cheaper network loses less than {_points(margin)} may take {needed}."


def _points(share: float) -> str:
    """Points of a score, a hundredth each."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point" if text == "1" else f"{text} points"


def seed_deviation(scores: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation over seeds, pooled over networks; None where none was trained twice.

    Args:
        scores: of each network, those of its trainings.
    """
    repeated = [np.asarray(one, np.float64) for one in scores if len(one) > 1]
    if not repeated:
        return None
    squares = sum(float(((one - one.mean()) ** 2).sum()) for one in repeated)
    return float(np.sqrt(squares / sum(len(one) - 1 for one in repeated)))


def score_interval(counts: Counts, metric: str, seed: int = 0, *, patients: Patients = None) -> Estimate:
    """A split's score with its interval over images, or over patients. counts: (N, K, 4)."""
    samples = bootstrap_samples(counts, groups=patients, seed=seed)[metric]
    return _estimate(_whole(counts, metric), samples, CONFIDENCE)


def difference(
    first: Sequence[Counts],
    second: Sequence[Counts],
    metric: str,
    *,
    patients: Patients = None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Mean score of one architecture's trainings less that of another's, on the same images.

    The two-level bootstrap of ``slicemamba.evaluation.statistics.difference_of_trainings``: over images, or patients
    with all of theirs, and training seeds.

    Args:
        first, second: (N, K, 4) counts of each training.
        patients: N, as in SegmentationData; images are drawn one by one when None.
    """
    found = difference_of_trainings(
        [Training(counts) for counts in first],
        [Training(counts) for counts in second],
        metric,
        groups=patients,
        num_resamples=num_resamples,
        confidence=confidence,
        seed=seed,
    )
    return Estimate(value=found.difference, low=found.interval.low, high=found.interval.high)


def not_worse(
    members: Sequence[Sequence[Counts]],
    rival: Sequence[Counts],
    metric: str,
    *,
    patients: Patients = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Estimate]:
    """Difference of each of several networks to a rival, with what it is at least: the test of non-inferiority.

    One-sided at 5 % for all members together (Bonferroni): with ``low`` above −margin, a member is worse than the rival
    by less than the margin. The bootstrap is that of ``difference``, over images or patients and seeds.

    Args:
        members, rival: (N, K, 4) counts of each of their trainings.
    """
    confidence = 1 - 2 * ONE_SIDED / max(1, len(members))  # two-sided, of which the lower end is looked at
    return [
        difference(
            member, rival, metric, patients=patients, seed=seed, confidence=confidence, num_resamples=num_resamples
        )
        for member in members
    ]


def front_intervals(
    front: Sequence[Counts], metrics: Sequence[str], primary: str, seed: int = 0, *, patients: Patients = None
) -> list[dict[str, Any]]:
    """For each member of a front: its scores with intervals, and its difference to the first, the best.

    A member is a tie when the interval of that difference holds 0. These intervals are widened for the number of
    members (Bonferroni), so that among many members none is told apart by chance.

    Args:
        front: (N, K, 4) counts of each member, the best first. patients: as of ``difference``.
    """
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(front) - 1)
    rows = []
    for counts in front:
        against = difference([counts], [front[0]], primary, patients=patients, seed=seed, confidence=confidence)
        assert against.low is not None
        assert against.high is not None
        rows.append(
            {
                "intervals": {
                    name: score_interval(counts, name, seed, patients=patients).model_dump() for name in metrics
                },
                "difference_to_best": against.model_dump(),
                "tie": against.low <= 0 <= against.high,
            }
        )
    return rows


def counted(metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that have intervals over images here."""
    return [name for name in metrics if name in COUNTED]


def _whole(counts: Counts, metric: str) -> float:
    return summarize(torch.from_numpy(np.asarray(counts, dtype=np.int64)))[metric]


def _estimate(value: float, samples: Floats, confidence: float) -> Estimate:
    low, high = percentile_interval(samples, confidence)
    return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True)
class CheaperMember:
    """A member of the front that costs less than the best fixed network, and how it scores against that on test.

    Attributes:
        number: its trial. rival: what all blocks of the fixed network take.
        difference: its score less the fixed network's; ``low`` from ``not_worse``. seeds: trainings behind it.
        costs: by ``flops``, ``params`` and, where it was timed, ``latency_ms``: its own and the fixed network's.
    """

    number: int
    rival: str
    difference: Estimate
    seeds: int
    costs: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Evidence:
    """What the verdict is made of. Differences are of the primary metric, on the test split.

    Attributes:
        metric: the primary metric's name.
        leaks: images that are in two splits. data_changed: the splits are not those of the search any more.
        num_test_images: of the test split. num_test_patients: whom they show; images that stand alone count each.
        trivial: best, retrained, less the better of the trivial predictions.
        benefit: best less its rival, the fixed slicing that scores best on the search split; None when the best is
            itself a fixed slicing.
        retrain_seeds: trainings behind ``benefit``. fixed_above: fixed slicings that score above the best on test.
        ranking: Kendall's τ of supernet and stand-alone scores. num_architectures: behind it.
        search_volume: the search's final hypervolume. random_volumes: those of the random searches.
        margin: by which a cheaper network may be worse, set before looking. cheaper: those that were judged.
    """

    metric: str
    leaks: int
    data_changed: bool
    num_test_images: int
    num_test_patients: int
    trivial: Estimate
    benefit: Estimate | None
    retrain_seeds: int
    fixed_above: Sequence[str]
    ranking: Estimate
    num_architectures: int
    search_volume: float
    random_volumes: Sequence[float]
    margin: float = 0.01
    cheaper: Sequence[CheaperMember] = ()


def judge(evidence: Evidence) -> Verdict:
    """The verdict on both claims, and their criteria.

    ``better`` is ``supported`` when all of its criteria pass, ``not supported`` when a decisive one fails, else
    ``weak``. All but the comparison with random search are decisive: a slicing may be good though random search finds
    its like. ``cheaper`` needs disjoint splits and one member that passes; it has no word where no member is cheaper.
    """
    sound = (_disjoint(evidence), _above_trivial(evidence))
    decisive = (*sound, _above_fixed(evidence), _ranked(evidence))
    criteria: tuple[Criterion, ...] = (*decisive, _above_random(evidence))
    if any(one.outcome == "failed" for one in decisive):
        word: Word = "not supported"
    else:
        word = "supported" if all(one.outcome == "passed" for one in criteria) else "weak"
    claims = [Claim(name="better", word=word, sentence=_sentence(word, criteria))]
    if evidence.cheaper:
        at_no_loss = _at_no_loss(evidence)
        claims.append(_cheaper_claim(evidence, (*sound, at_no_loss)))
        criteria = (*criteria, at_no_loss)
    words: tuple[Word, ...] = ("supported", "weak", "not supported")
    return Verdict(
        word=min((claim.word for claim in claims), key=words.index),
        sentence=" ".join(claim.sentence for claim in claims),
        criteria=criteria,
        claims=tuple(claims),
    )


def _outcome(member: CheaperMember, evidence: Evidence) -> Outcome:
    """Of the question whether it is not worse by the margin or more."""
    found = member.difference
    if found.value is None or found.low is None:
        return "open"
    if found.value <= -evidence.margin:
        return "failed"
    enough = member.seeds >= MIN_SEEDS and evidence.num_test_patients >= MIN_TEST_IMAGES
    return "passed" if enough and found.low > -evidence.margin else "open"


def _of_most_use(evidence: Evidence) -> CheaperMember:
    """Of the members whose outcome is the best, the one that needs the fewest operations."""
    outcomes: tuple[Outcome, ...] = ("passed", "open", "failed")
    return min(
        evidence.cheaper,
        key=lambda one: (outcomes.index(_outcome(one, evidence)), one.costs["flops"][0]),
    )


def _at_no_loss(evidence: Evidence) -> Criterion:
    least = min(one.seeds for one in evidence.cheaper)
    found = "; ".join(
        f"trial {one.number} {one.difference.value:+.3f} (at least {one.difference.low:+.3f})".replace("-", "−")
        for one in evidence.cheaper
        if one.difference.value is not None and one.difference.low is not None
    )
    return Criterion(
        name="cheaper at no loss",
        question=f"Is a cheaper network of the front worse than the best fixed one by less than {evidence.margin:g}?",
        outcome=_outcome(_of_most_use(evidence), evidence),
        evidence=f"difference in {_title(evidence.metric)}, one-sided and corrected for {len(evidence.cheaper)} "
        f"members: {found}; over {_test_images(evidence)} and {least} seeds"
        + _too_few_images(evidence)
        + _too_few(least, MIN_SEEDS, "seeds"),
    )


def _saving(name: str, own: float, rival: float) -> str:
    """As ``2.7 times fewer FLOPs (171 M instead of 461 M)``."""
    if name == "latency_ms":
        return f"{rival / own:.1f} times less time per pass ({own:.3g} instead of {rival:.3g} ms)"
    what = "FLOPs" if name == "flops" else OBJECTIVES[name].title.lower()
    return f"{rival / own:.1f} times fewer {what} ({format_value(name, own)} instead of {format_value(name, rival)})"


def _more(name: str, own: float, rival: float) -> str:
    """As ``1.3 times the parameters (2.4 M instead of 1.8 M)``, of what a network that saves elsewhere has more of."""
    if name == "latency_ms":
        return f"{own / rival:.1f} times the time per pass ({own:.3g} instead of {rival:.3g} ms)"
    what = "FLOPs" if name == "flops" else OBJECTIVES[name].title.lower()
    return f"{own / rival:.1f} times the {what} ({format_value(name, own)} instead of {format_value(name, rival)})"


def _cheaper_claim(evidence: Evidence, criteria: Sequence[Criterion]) -> Claim:
    member = _of_most_use(evidence)
    savings = ", ".join(_saving(name, own, rival) for name, (own, rival) in member.costs.items() if 0 < own < rival)
    dearer = " and ".join(_more(name, own, rival) for name, (own, rival) in member.costs.items() if own > rival > 0)
    about = f"the network of trial {member.number}, with {savings} than the best fixed one ({member.rival})"
    about += f" but {dearer}" if dearer else ""
    points = 100 * evidence.margin
    margin = f"{points:g} point{'' if points == 1 else 's'} of {_title(evidence.metric)}"
    if any(one.outcome == "failed" for one in criteria):
        word: Word = "not supported"
        sentence = f"The evidence does not support that {about}, is worse on unseen images by less than {margin}."
    elif all(one.outcome == "passed" for one in criteria):
        word = "supported"
        sentence = f"The evidence supports that {about}, is not worse on unseen images by {margin} or more."
    else:
        word = "weak"
        sentence = f"It is left open whether {about}, is worse on unseen images by {margin} or more."
    return Claim(name="cheaper", word=word, sentence=sentence)


def _sentence(word: Word, criteria: Sequence[Criterion]) -> str:
    failed = [one.name for one in criteria if one.outcome == "failed"]
    unclear = [one.name for one in criteria if one.outcome == "open"]
    if word == "supported":
        return "The evidence supports that the slicing found is better than fixed slicing on unseen images."
    reasons = [f"against it: {', '.join(failed)}"] * bool(failed) + [f"left open: {', '.join(unclear)}"] * bool(unclear)
    start = (
        "The evidence for a gain over fixed slicing is weak"
        if word == "weak"
        else "The evidence does not support a gain over fixed slicing"
    )
    return f"{start} ({'; '.join(reasons)})."


def _disjoint(evidence: Evidence) -> Criterion:
    sound = not evidence.leaks and not evidence.data_changed
    found = f"{evidence.leaks} images are in two splits" if evidence.leaks else "no image is in two splits"
    if evidence.data_changed:
        found += "; the splits have changed since the search"
    return Criterion(
        name="disjoint splits",
        question="Do train, val, search and test share no image, and are they unchanged since the search?",
        outcome="passed" if sound else "failed",
        evidence=found,
    )


def _above_trivial(evidence: Evidence) -> Criterion:
    return Criterion(
        name="better than trivial",
        question="Does the retrained best beat marking nothing and marking everything, on test?",
        outcome=_sign(evidence.trivial, enough=evidence.num_test_patients >= MIN_TEST_IMAGES),
        evidence=f"difference in {_title(evidence.metric)} {evidence.trivial} over {_test_images(evidence)}"
        + _too_few_images(evidence),
    )


def _above_fixed(evidence: Evidence) -> Criterion:
    name, question = "better than fixed slicing", "Trained alike, does the best beat the best fixed slicing, on test?"
    if evidence.benefit is None:
        found = "the best slicing found is itself a fixed one"
        return Criterion(name=name, question=question, outcome="failed", evidence=found)
    seeds = evidence.retrain_seeds
    enough = seeds >= MIN_SEEDS and evidence.num_test_patients >= MIN_TEST_IMAGES and not evidence.fixed_above
    found = (
        f"difference in {_title(evidence.metric)} {evidence.benefit} over {_test_images(evidence)} and {seeds} seeds"
    )
    found += _too_few_images(evidence) + _too_few(seeds, MIN_SEEDS, "seeds")
    if evidence.fixed_above:
        found += f"; above it: fixed slicing {', '.join(evidence.fixed_above)}"
    outcome = _sign(evidence.benefit, enough=enough)
    return Criterion(name=name, question=question, outcome=outcome, evidence=found)


def _ranked(evidence: Evidence) -> Criterion:
    count = evidence.num_architectures
    return Criterion(
        name="ranking by the supernet",
        question="Does the supernet rank slicings as training from scratch does, on test?",
        outcome=_sign(evidence.ranking, enough=count >= MIN_ARCHITECTURES),
        evidence=f"Kendall's τ {evidence.ranking} over {count} slicings"
        + _too_few(count, MIN_ARCHITECTURES, "slicings"),
    )


def _above_random(evidence: Evidence) -> Criterion:
    random, own = evidence.random_volumes, evidence.search_volume
    below = sum(volume < own for volume in random)
    if random and below < len(random) / 2:
        outcome: Outcome = "failed"
    else:
        outcome = "passed" if below == len(random) >= MIN_SEEDS else "open"
    return Criterion(
        name="better than random search",
        question="At equal budget, does the search reach more hypervolume than random search?",
        outcome=outcome,
        evidence=f"hypervolume {own:.3f}, above {below} of {len(random)} random searches"
        + (f" ({min(random):.3f} to {max(random):.3f})" if random else "")
        + _too_few(len(random), MIN_SEEDS, "random searches"),
    )


def _sign(estimate: Estimate, *, enough: bool) -> Outcome:
    """Passed when the whole interval is above 0 and there was enough to judge by; failed at 0 and below."""
    if estimate.value is None:
        return "open"
    if estimate.value <= 0:
        return "failed"
    return "passed" if enough and estimate.low is not None and estimate.low > 0 else "open"


def _test_images(evidence: Evidence) -> str:
    """How many there are, and of how many patients where these are fewer."""
    alone = evidence.num_test_patients == evidence.num_test_images
    return f"{evidence.num_test_images} images" + ("" if alone else f" of {evidence.num_test_patients} patients")


def _too_few_images(evidence: Evidence) -> str:
    """Images of one patient are alike, so it is patients that count."""
    alone = evidence.num_test_patients == evidence.num_test_images
    return _too_few(evidence.num_test_patients, MIN_TEST_IMAGES, "images" if alone else "patients")


def _too_few(count: int, least: int, what: str) -> str:
    return f"; fewer than {least} {what} are too few to judge by" if count < least else ""


def _title(metric: str) -> str:
    return OBJECTIVES[metric].title
