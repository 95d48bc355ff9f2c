"""The frontier of a finished search: measured once, after the last candidate, and kept in ``front.json``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cluster.config import SearchJob
from cluster.run_folder import FRONT, RunFolder
from nas.counts import ScoredImages, load_scored
from nas.front import MeasuredFront, measured_front, timing_noise_ms
from nas.study import Trial
from slicemamba.data.patients import groups_of

LATENCIES = "latencies.json"


def measure_front(job: SearchJob, run: RunFolder, trials: Sequence[Trial], study: str = "search") -> MeasuredFront:
    """The frontier with its ties, from the counts of each image that the search has left; written to the folder.

    Args:
        trials: of the study; at least one is within the constraints.
    """

    @cache
    def scored(number: int) -> ScoredImages | None:
        try:
            return load_scored(run.counts_path(study, number))
        except FileNotFoundError:
            return None

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


def keep_front(run: RunFolder, front: MeasuredFront) -> MeasuredFront:
    """Writes the frontier to the run's folder, where it stands for the search's answer."""
    run.write_json(FRONT, front.model_dump(mode="json"))
    return front


def latency_resolution_ms(job: SearchJob, run: RunFolder, trials: Sequence[Trial]) -> float:
    """Difference of two latencies that cannot be told from chance: by the table's timings, or those of candidates."""
    if job.search.latency == "table":
        return float((run.read_json(LATENCIES) or {}).get("resolution_ms", 0.0))
    return timing_noise_ms(trials)


def read_front(run: RunFolder) -> MeasuredFront | None:
    """What ``measure_front`` has written; None in runs of older versions."""
    values = run.read_json(FRONT)
    return None if values is None else MeasuredFront.model_validate(values)
