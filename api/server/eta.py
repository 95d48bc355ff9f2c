"""When a search, or the retraining of a trial, will be done.

A phase that goes on takes as long for what is left as it lately took (``cluster.run_view``). One that has not begun is
predicted: its forward passes (``cluster.work``), at the seconds a pass that this run's training shows. So nothing is
told before a first step was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from api.server.estimate import seconds_per_pass, work_told, workers_told
from api.server.models import SEARCH, Search, utc_now
from api.server.past_searches import read_progress
from api.server.service import SearchService
from api.states import SearchState
from cluster.config import RetrainJob, SearchJob, parse_job
from cluster.run_view import Progress
from cluster.work import Work
from slicemamba.errors import InputError
from slicemamba.recipes import TRAININGS

START_SECONDS = 12.0
"""Until a phase's workers have started, roughly, where this run has not shown it yet: they import torch and load
networks and images."""


def remaining_seconds(
    job: SearchJob | RetrainJob, phase: str | None, progress: Mapping[str, Progress], now: datetime
) -> float | None:
    """Seconds until a run that goes on is done; None while nothing tells.

    Args:
        job: what it does. phase: that it is in; None where it has just been started (again).
        progress: by phase, of all that have ever begun in its folder. now: the moment to tell it for.
    """
    work = work_told(job, progress)
    if work is None:
        return None
    seen = [begun.start_seconds for begun in progress.values() if begun.start_seconds is not None]
    start = sum(seen) / len(seen) if seen else START_SECONDS
    names = list(work)
    total = 0.0
    for name in names[names.index(phase) :] if phase in names else names:
        units = _units(job, name, progress) - _done(job, name, phase, progress)
        if units <= 0:
            continue
        pace = _pace(job, name, work, progress)
        if pace is None:
            return None
        total += units * pace + start
        total -= _passed(progress.get(name), start, pace, now) if name == phase else 0.0
    return total


def _units(job: SearchJob | RetrainJob, name: str, progress: Mapping[str, Progress]) -> int:
    """Steps, candidates or images of a phase; 1, the whole of it, where it has not begun and they are not known."""
    if isinstance(job, SearchJob) and name in ("search", "random"):
        return job.search.num_trials  # more than it was, where the search was extended
    return progress[name].total if name in progress else 1


def _done(job: SearchJob | RetrainJob, name: str, phase: str | None, progress: Mapping[str, Progress]) -> int:
    """Of these units; none of a later phase's while candidates are left, as another one may win."""
    searched = progress["search"].done if "search" in progress else 0
    if isinstance(job, SearchJob) and name not in (phase, "supernet", "survey", "search", "random"):
        return progress[name].done if name in progress and searched >= job.search.num_trials else 0
    return progress[name].done if name in progress else 0


def _pace(
    job: SearchJob | RetrainJob, name: str, work: Mapping[str, Work], progress: Mapping[str, Progress]
) -> float | None:
    """Seconds of a unit as it lately took, or by its passes; random candidates cost what the search's do, but that none
    of them is given up."""
    begun, searched = progress.get(name), progress.get("search")
    if begun is not None and begun.seconds_per_unit is not None:
        return begun.seconds_per_unit
    predicted = _predicted(job, name, work, progress)
    if name != "random" or searched is None or searched.seconds_per_unit is None:
        return predicted
    assert isinstance(job, SearchJob)
    return max(searched.seconds_per_unit, (predicted or 0.0) if job.search.racing is not None else 0.0)


def _predicted(
    job: SearchJob | RetrainJob, name: str, work: Mapping[str, Work], progress: Mapping[str, Progress]
) -> float | None:
    """Seconds of a unit by its passes; None where its workers compute with something else than those that were seen."""
    per_pass, train, evaluating = seconds_per_pass(work, progress), job.resources.train, job.resources.search
    if per_pass is None:
        return None
    seconds = work[name].passes * per_pass / max(1, _units(job, name, progress))
    if name in (*TRAININGS, "baselines"):
        return seconds
    if name == "evaluate":  # by one worker
        return seconds * train.num_workers
    if bool(train.gpus) != bool(evaluating.gpus):
        return None
    speed = evaluating.gpus / train.gpus if train.gpus else _threads(evaluating.cpus) / _threads(train.cpus)
    return seconds * train.num_workers / speed / workers_told(progress)


def _threads(cpus: float) -> int:
    return max(1, int(cpus))


def _passed(begun: Progress | None, start: float, pace: float, now: datetime) -> float:
    """Of the phase that goes on: since it began, while its workers start, else since its last unit; it stands still
    where that is overdue."""
    if begun is None or begun.began_at is None:
        return 0.0
    if begun.moved_at is None:
        return min(start, max(0.0, (now - begun.began_at).total_seconds()))
    return start + min(pace, max(0.0, (now - begun.moved_at).total_seconds()))


class Etas:
    """Expected ends of what runs on this service.

    Args:
        service: of the searches.
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._job_of = lru_cache(maxsize=256)(self._parse)  # lists are asked for every few seconds

    def expected_end(self, row: Search) -> datetime | None:
        """When a search or job that goes on will be done, to the second; None while nothing tells."""
        if row.state not in (SearchState.STARTING, SearchState.RUNNING):
            return None
        now = utc_now()
        try:
            job, progress = self._job_of(row.id, row.attempt), read_progress(row.progress)
        except ValueError:  # written by another version
            return None
        seconds = None if job is None else remaining_seconds(job, row.phase, progress, now)
        return None if seconds is None else (now + timedelta(seconds=seconds)).replace(microsecond=0)

    def _parse(self, row_id: str, attempt: int) -> SearchJob | RetrainJob | None:
        """What an attempt does, as a later one may have more trials; None for a job whose end is not told."""
        row = self._service.find(row_id)
        try:
            job = None if row is None or row.kind not in (SEARCH, "retrain") else parse_job(row.spec)
        except InputError:  # of a version with other options
            return None
        return job if isinstance(job, SearchJob | RetrainJob) else None
