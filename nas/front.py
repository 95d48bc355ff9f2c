"""A frontier that is not made of noise: members that differ by more than the images and the clock can tell.

Differences of scores come with the spread of the paired bootstrap over the search split's images (or patients), those
of latencies with the spread of repeated timings, and counted costs are exact. ``nas.pareto.measurable_front`` takes
from the Pareto-optimal trials those that are better than one another by more. Few images can tell hardly anything
apart, and what is not measurably better need not be no better: a score that is higher by more than ``MARGIN`` counts
too, so that a small network is named for an accurate one only where it scores about the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import Field

from nas.counts import ScoredImages
from nas.objectives import OBJECTIVES, format_value, loss_matrix
from nas.pareto import crowded_order, measurable_front
from nas.study import Trial, pareto_front
from slicemamba.config import Config
from slicemamba.evaluation.statistics import CONFIDENCE, bootstrap_samples, percentile_interval

Floats = NDArray[np.float64]

NUM_RESAMPLES = 2000
MARGIN = 0.01
"""Difference of two scores between 0 and 1 that counts, measurable or not: one point, as ``audit.margin`` has it."""
_MOST_COMPARED = 200  # of the candidates: those on the frontier and the next best


class Ends(Config):
    """A score with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Member(Config):
    """A trial of the frontier.

    Attributes:
        intervals: of its scores over images or patients, by objective.
        tied_with: numbers of compared trials that differ from it measurably in no objective.
        supernet: its scores with the supernet's weights, where ``metrics`` are those of the finals.
    """

    number: int
    architecture: str
    metrics: dict[str, float]
    intervals: dict[str, Ends] = Field(default_factory=dict)
    tied_with: tuple[int, ...] = ()
    supernet: dict[str, float] | None = None


class MeasuredFront(Config):
    """The frontier, the best in the first objective first.

    Attributes:
        num_images, num_patients: that scores were compared on; 0 where counts of images are missing.
        num_optimal: trials that are Pareto-optimal by their figures, of which the members are some.
        num_undecided: members that score higher than a cheaper one by more than a point, but not measurably.
        num_compared: candidates that members were compared with.
        resolution: by objective, the difference that two of the Pareto-optimal trials must exceed: the median of pairs.
        sentence: what can be told, in words.
    """

    objectives: tuple[str, ...]
    num_images: int
    num_patients: int
    num_optimal: int
    num_undecided: int = 0
    num_compared: int
    resolution: dict[str, float]
    members: tuple[Member, ...]
    sentence: str


def measured_front(
    trials: Sequence[Trial],
    objectives: tuple[str, ...],
    images: Callable[[int], ScoredImages | None],
    *,
    patients: Sequence[str] | None = None,
    latency_ms: float = 0.0,
) -> MeasuredFront:
    """The frontier of a study.

    Args:
        trials: of the study; at least one is Pareto-optimal.
        images: what a trial scored on each image, by its number; one of which that is not known is taken as it is.
        patients: of the images in the order of their names; images stand alone when None.
        latency_ms: difference of two latencies that repeated timings show for one network.
    """
    optimal = pareto_front(list(trials), objectives)
    compared = _compared(trials, optimal, objectives)
    samples = [_samples(images(trial.number), objectives, patients) for trial in compared]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(optimal) - 1)
    resolution = _resolution(samples, objectives, confidence, latency_ms)
    losses = loss_matrix([trial.metrics for trial in compared], objectives)
    n = len(optimal)  # which come first among the compared
    counting = np.minimum(resolution, [MARGIN if OBJECTIVES[name].unit == "0…1" else np.inf for name in objectives])
    chosen = np.flatnonzero(measurable_front(losses[:n], counting[:n, :n]))
    undecided = len(chosen) - int(measurable_front(losses[chosen], resolution[np.ix_(chosen, chosen)]).sum())
    tied = np.all(np.abs(losses[:, None] - losses[None]) <= resolution, axis=2)
    members = tuple(
        Member(
            number=compared[i].number,
            architecture=compared[i].architecture,
            metrics=compared[i].metrics,
            intervals={name: _ends(compared[i], name, values) for name, values in samples[i].items()},
            tied_with=tuple(sorted(compared[j].number for j in np.flatnonzero(tied[i]) if j != i)),
        )
        for i in chosen
    )
    scored = next((found for trial in optimal if (found := images(trial.number)) is not None), None)
    num_images = 0 if scored is None else len(scored.names)
    # Pairs that a resolution is told of: those on the frontier, or all where that is one trial.
    pairs = resolution[:n, :n][np.triu_indices(n, 1)] if n > 1 else resolution[0, 1:]
    typical = np.median(pairs, axis=0) if len(pairs) else np.zeros(len(objectives))
    told = dict(zip(objectives, map(float, typical), strict=True))
    return MeasuredFront(
        objectives=objectives,
        num_images=num_images,
        num_patients=num_images if patients is None or not num_images else len(set(patients)),
        num_optimal=n,
        num_undecided=undecided,
        num_compared=len(compared),
        resolution=told,
        members=members,
        sentence=_sentence(members, n, undecided, len(compared), told, num_images),
    )


def _compared(trials: Sequence[Trial], optimal: Sequence[Trial], objectives: tuple[str, ...]) -> list[Trial]:
    """The Pareto-optimal trials, and of the others the fixed slicings and the next best."""
    kept = {trial.number for trial in optimal}
    others = [trial for trial in trials if trial.eligible and trial.number not in kept]
    if not others:
        return list(optimal)
    order = crowded_order(loss_matrix([trial.metrics for trial in others], objectives))
    ranked = sorted((others[i] for i in order), key=lambda trial: trial.origin != "fixed")  # stable
    return [*optimal, *ranked[: max(0, _MOST_COMPARED - len(optimal))]]


def _samples(
    scored: ScoredImages | None, objectives: Sequence[str], patients: Sequence[str] | None
) -> dict[str, Floats]:
    """(R,) resampled scores of a trial by objective, of those that are made from images; paired between trials."""
    if scored is None:
        return {}
    found = bootstrap_samples(scored.counts, hd95=scored.hd95, groups=patients, num_resamples=NUM_RESAMPLES)
    return {name: found[name] for name in objectives if name in found}


def _resolution(
    samples: Sequence[Mapping[str, Floats]], objectives: Sequence[str], confidence: float, latency_ms: float
) -> Floats:
    """(n, n, objectives): half the width of the interval of each pair's difference."""
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    n = len(samples)
    widths = np.zeros((n, n, len(objectives)))
    for column, name in enumerate(objectives):
        if name == "latency_ms":
            widths[..., column] = latency_ms
            continue
        rows = [i for i in range(n) if name in samples[i]]
        if len(rows) > 1:
            covariance = np.cov(np.stack([samples[i][name] for i in rows]))
            variance = np.diag(covariance)
            spread = np.sqrt(np.maximum(0.0, variance[:, None] + variance[None] - 2 * covariance))
            widths[np.ix_(rows, rows, [column])] = z * spread[..., None]
    return widths


def _ends(trial: Trial, name: str, samples: Floats) -> Ends:
    low, high = percentile_interval(samples)
    return Ends(value=trial.metrics[name], low=low, high=high)


def _sentence(
    members: Sequence[Member],
    num_optimal: int,
    num_undecided: int,
    num_compared: int,
    resolution: Mapping[str, float],
    num_images: int,
) -> str:
    if num_compared == 1:
        return "Only one network could be compared."
    limits = " and ".join(
        f"{OBJECTIVES[name].title} below about {format_value(name, limit)}{_unit(name)}"
        for name, limit in resolution.items()
        if limit > 0
    )
    on = f"on these {num_images} images, " if num_images else ""
    limit = f" ({on}differences in {limits} cannot be told from chance)" if limits else ""
    if len(members) > 1:
        more = num_optimal - len(members)
        others = f"; {more} more Pareto-optimal by their figures are not measurably better than these" if more else ""
        if num_undecided:
            less = "scores" if num_undecided == 1 else "score"
            return (
                f"{len(members)} networks are on the frontier; {num_undecided} of them {less} higher than a cheaper "
                f"one by more than a point, but not measurably{others}{limit}."
            )
        return f"{len(members)} networks of the frontier differ measurably from one another{others}{limit}."
    if len(members[0].tied_with) == num_compared - 1:
        return f"No measurable difference between these networks{limit}."
    tied = f"; {len(members[0].tied_with)} of {num_compared - 1} compared are tied with it"
    return f"One network is on the frontier, trial {members[0].number}: no other is measurably better{tied}{limit}."


def _unit(name: str) -> str:
    unit = OBJECTIVES[name].unit
    return "" if unit in ("0…1", "count") else f" {unit}"


def timing_noise_ms(trials: Sequence[Trial]) -> float:
    """Difference of two latencies that cannot be told from chance, from networks of equal cost that were timed apart.

    The spread within groups of equal parameters and FLOPs, as the 95 % interval of a difference. 0 where no two cost
    the same.
    """
    groups: dict[tuple[float, float], list[float]] = {}
    for trial in trials:
        if "latency_ms" in trial.metrics:
            key = (trial.metrics["params"], trial.metrics["flops"])
            groups.setdefault(key, []).append(trial.metrics["latency_ms"])
    several = [np.asarray(group) for group in groups.values() if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return 0.0
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in several) / freedom
    return float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(2 * variance))


def as_rows(front: MeasuredFront) -> list[dict[str, Any]]:
    """The members as JSON."""
    return [member.model_dump(mode="json") for member in front.members]
