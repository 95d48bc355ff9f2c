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

START_SECONDS = {
    "supernet": 15.0,
    "survey": 10.0,
    "search": 10.0,
    "random": 10.0,
    "finals": 10.0,
    "retrain": 15.0,
    "baselines": 15.0,
    "evaluate": 5.0,
}
"""Until a phase's workers have started, roughly, where this run has not shown it yet: they import torch and load
networks and images."""
END_SECONDS = 10.0
"""For what the evaluation is followed by: pictures, figures and the report."""
_START_ALIKE = {
    "supernet": "retrain",
    "retrain": "supernet",
    "baselines": "retrain",
    "search": "random",
    "random": "search",
    "survey": "search",
    "finals": "search",
}


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
    names = list(work)
    total = 0.0
    for name in names[names.index(phase) :] if phase in names else names:
        left = _left(job, name, phase, progress, _predicted(job, name, work, progress), now)
        if left is None:
            return None
        total += left
    return total


def _left(
    job: SearchJob | RetrainJob,
    name: str,
    phase: str | None,
    progress: Mapping[str, Progress],
    predicted: float | None,
    now: datetime,
) -> float | None:
    """Seconds that a phase still takes. Those of a candidate are known only roughly before the first was evaluated."""
    begun = progress.get(name)
    done, total = (0, 1) if begun is None else (begun.done, begun.total)
    if name in ("search", "random"):
        assert isinstance(job, SearchJob)
        total = job.search.num_trials  # more than it was, where the search was extended
    elif name != phase and name != "supernet" and _trials_left(job, progress):
        done = 0  # once they are evaluated another one may have won
    end = END_SECONDS if name == "evaluate" else 0.0
    if done >= total:
        waited = 0.0 if begun is None or begun.moved_at is None else (now - begun.moved_at).total_seconds()
        return max(0.0, end - max(0.0, waited))
    pace = None if begun is None else begun.seconds_per_unit
    if pace is None:
        pace = None if predicted is None else predicted / total
        if name == "random":
            pace = _pace_of_random(job, progress, pace)
    if pace is None:
        return None
    seconds = pace * (total - done) + end
    if name != phase or begun is None:
        return _start(name, progress) + seconds
    if begun.moved_at is None:
        waited = 0.0 if begun.began_at is None else (now - begun.began_at).total_seconds()
        return max(0.0, _start(name, progress) - max(0.0, waited)) + seconds
    waited = (now - begun.moved_at).total_seconds()
    return seconds - min(max(0.0, waited), pace)  # it stands still where the next unit is overdue


def _start(name: str, progress: Mapping[str, Progress]) -> float:
    """Seconds until the workers of a phase have started: as those of this phase, or of one like it, lately took."""
    for other in (name, _START_ALIKE.get(name)):
        begun = progress.get(other) if other is not None else None
        if begun is not None and begun.start_seconds is not None:
            return begun.start_seconds
    return START_SECONDS[name]


def _trials_left(job: SearchJob | RetrainJob, progress: Mapping[str, Progress]) -> bool:
    return isinstance(job, SearchJob) and ("search" not in progress or progress["search"].done < job.search.num_trials)


def _pace_of_random(
    job: SearchJob | RetrainJob, progress: Mapping[str, Progress], predicted: float | None
) -> float | None:
    """Random candidates cost what the search's do, but that none of them is given up."""
    assert isinstance(job, SearchJob)
    search = progress.get("search")
    pace = None if search is None else search.seconds_per_unit
    if pace is None:
        return predicted
    return pace if job.search.racing is None or predicted is None else max(pace, predicted)


def _predicted(
    job: SearchJob | RetrainJob, name: str, work: Mapping[str, Work], progress: Mapping[str, Progress]
) -> float | None:
    """Seconds of a whole phase by its passes; None where its workers compute with something else than those that
    were seen."""
    per_pass = seconds_per_pass(work, progress)
    if per_pass is None:
        return None
    seconds = work[name].passes * per_pass
    if name in (*TRAININGS, "baselines"):
        return seconds
    train, evaluating = job.resources.train, job.resources.search
    if name == "evaluate":  # by one worker
        return seconds * train.num_workers
    if bool(train.gpus) != bool(evaluating.gpus):
        return None
    speed = evaluating.gpus / train.gpus if train.gpus else _threads(evaluating.cpus) / _threads(train.cpus)
    return seconds * train.num_workers / speed / workers_told(progress)


def _threads(cpus: float) -> int:
    return max(1, int(cpus))


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
