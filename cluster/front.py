"""The frontier of a finished search: measured once, after the last candidate, and kept in ``front.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from cluster.config import SearchJob
from cluster.run_folder import FRONT, LATENCIES, RunFolder
from nas.counts import ScoredImages, load_scored
from nas.front import MeasuredFront, measured_front, timing_noise_ms
from nas.objectives import primary_metric
from nas.sizes import has_sizes
from nas.study import Trial
from nas.survey import Survey, survey
from slicemamba.data.patients import groups_of


def measure_front(job: SearchJob, run: RunFolder, trials: Sequence[Trial], study: str = "search") -> MeasuredFront:
    """The frontier with its ties, from the counts of each image that the search has left; written to the folder.

    Args:
        trials: of the study; at least one is within the constraints.
    """
    scored = _scores_of(run, study)
    names = next((found.names for trial in trials if trial.eligible and (found := scored(trial.number))), None)
    return keep_front(
        run,
        measured_front(
            trials,
            job.search.objectives,
            scored,
            patients=None if names is None else groups_of(names, job.data),
            latency_ms=latency_resolution_ms(job, run, trials),
        ),
    )


def _scores_of(run: RunFolder, study: str) -> Callable[[int], ScoredImages | None]:
    """What a trial scored on each image, by its number; None where that was not kept."""

    @cache
    def scored(number: int) -> ScoredImages | None:
        try:
            return load_scored(run.counts_path(study, number))
        except FileNotFoundError:
            return None

    return scored


def keep_front(run: RunFolder, front: MeasuredFront) -> MeasuredFront:
    """Writes the frontier to the run's folder, where it stands for the search's answer."""
    run.write_json(FRONT, front.model_dump(mode="json"))
    return front


def survey_of(job: SearchJob, run: RunFolder, trials: Sequence[Trial], study: str) -> Survey | None:
    """What random architectures of a study show of the search; None where too few have scores of each image."""
    metric = primary_metric(job.search.objectives)
    scored = _scores_of(run, study)
    names = next((found.names for trial in trials if (found := scored(trial.number))), None)
    costs = {"latency_ms", "peak_memory_mb", "params", "flops"} & set(job.search.objectives)
    return survey(
        trials,
        scored,
        job.search_space,
        metric,
        num_candidates=job.search.num_trials,
        has_costs=bool(costs) and has_sizes(job.search_space, job.model),
        patients=None if names is None else groups_of(names, job.data),
    )


def latency_resolution_ms(job: SearchJob, run: RunFolder, trials: Sequence[Trial]) -> float:
    """Difference of two latencies that cannot be told from chance: by the table's timings, or those of candidates."""
    if job.search.latency == "table":
        return float((run.read_json(LATENCIES) or {}).get("resolution_ms", 0.0))
    return timing_noise_ms(trials)


def read_front(run: RunFolder) -> MeasuredFront | None:
    """What ``measure_front`` has written; None in runs of older versions."""
    values = run.read_json(FRONT)
    return None if values is None else MeasuredFront.model_validate(values)
