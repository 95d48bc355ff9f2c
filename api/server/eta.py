"""When a search, or the retraining of a trial, will be done.

A phase that goes on takes as long for what is left as it lately took (``cluster.run_view``). One that has not begun is
predicted: its forward passes (``cluster.work``), at the seconds a pass that this run's training shows, times how much
longer or shorter such a phase took than predicted in an earlier search like it. Before a first step was taken, only an
earlier search of the same network on the same workers tells anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from api.server.estimate import alike, seconds_per_pass, work_told, workers_of, workers_told
from api.server.models import SEARCH, Search, utc_now
from api.server.past_searches import ended_searches, read_progress
from api.server.service import SearchService
from api.states import SearchState
from cluster.config import RetrainJob, SearchJob, TrainWorkers, parse_job
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
_MAX_KEPT = 256


@dataclass(frozen=True)
class Before:
    """What an earlier search like this one shows.

    Attributes:
        seconds_per_pass: of the training workers together; None where it had other ones, or another network.
        factors: by phase, the time that it took as a multiple of what would have been predicted for it.
    """

    seconds_per_pass: float | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


NOTHING = Before()


def remaining_seconds(
    job: SearchJob | RetrainJob,
    phase: str | None,
    progress: Mapping[str, Progress],
    now: datetime,
    before: Before = NOTHING,
) -> float | None:
    """Seconds until a run that goes on is done; None while nothing tells.

    Args:
        job: what it does. phase: that it is in; None where it has just been started (again).
        progress: by phase, of all that have ever begun in its folder. now: the moment to tell it for.
        before: of an earlier search like it.
    """
    work = work_told(job, progress)
    if work is None:
        return None
    per_pass = seconds_per_pass(work, progress) or before.seconds_per_pass
    workers, total = workers_told(progress), 0.0
    for name in _phases_left(work, phase):
        predicted = _predicted(job, name, work, per_pass, workers)
        if predicted is not None:
            predicted *= before.factors.get(name, 1.0)
        left = _left(job, name, phase, progress, predicted, now, known=name in before.factors)
        if left is None:
            return None
        total += left
    return total


def _phases_left(work: Mapping[str, Work], phase: str | None) -> list[str]:
    names = list(work)
    return names[names.index(phase) :] if phase in names else names


def _left(
    job: SearchJob | RetrainJob,
    name: str,
    phase: str | None,
    progress: Mapping[str, Progress],
    predicted: float | None,
    now: datetime,
    *,
    known: bool,
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
    if pace is None and name == "random" and not known:
        pace = _pace_of_random(job, progress, None if predicted is None else predicted / total)
    if pace is None:
        pace = None if predicted is None else predicted / total
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
    if pace is None or job.search.racing is None or predicted is None:
        return pace
    return max(pace, predicted)


def _predicted(
    job: SearchJob | RetrainJob, name: str, work: Mapping[str, Work], per_pass: float | None, workers: float
) -> float | None:
    """Seconds of a whole phase by its passes; None where its workers compute with something else than those that
    were seen."""
    if per_pass is None:
        return None
    seconds = work[name].passes * per_pass
    if name in (*TRAININGS, "baselines"):
        return seconds
    train = job.resources.train
    if name == "evaluate":  # by one worker
        return seconds * train.num_workers
    evaluating = job.resources.search
    if bool(train.gpus) != bool(evaluating.gpus):
        return None
    speed = evaluating.gpus / train.gpus if train.gpus else _threads(evaluating.cpus) / _threads(train.cpus)
    return seconds * train.num_workers / speed / workers


def _threads(cpus: float) -> int:
    return max(1, int(cpus))


def seen_before(job: SearchJob, earlier: Iterable[tuple[SearchJob, Mapping[str, Progress]]]) -> Before:
    """What the first of some ended searches that is like this one shows.

    Args:
        job: the search. earlier: others with their progress, newest first.
    """
    for other, progress in earlier:
        if (alike(other), workers_of(other), _costs(other)) != (alike(job), workers_of(job), _costs(job)):
            continue
        work = work_told(other, progress)
        per_pass = None if work is None else seconds_per_pass(work, progress)
        if work is None or per_pass is None:
            continue
        factors: dict[str, float] = {}
        for name in work:
            begun = progress.get(name)
            predicted = _predicted(other, name, work, per_pass, workers_told(progress))
            if name != "supernet" and begun is not None and begun.seconds > 0 and predicted:
                factors[name] = begun.seconds / predicted
        same = _trained_by(other.resources.train) == _trained_by(job.resources.train)
        return Before(per_pass if same else None, factors)
    return NOTHING


def _costs(job: SearchJob) -> tuple[Any, ...]:
    """What must agree for candidates to cost the same share of a pass."""
    search = job.search
    return search.searcher, search.racing, search.measured, search.latency, search.activation_cache_mb > 0


def _trained_by(workers: TrainWorkers) -> tuple[Any, ...]:
    return workers.num_workers, workers.placement


class Etas:
    """Expected ends of what runs on this service. What earlier searches show is looked up once for each of them.

    Args:
        service: of the searches.
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[SearchJob | RetrainJob, Before] | None] = OrderedDict()

    def expected_end(self, row: Search) -> datetime | None:
        """When a search or job that goes on will be done, to the second; None while nothing tells."""
        if row.state not in (SearchState.STARTING, SearchState.RUNNING):
            return None
        known, now = self._known(row), utc_now()
        if known is None:
            return None
        try:
            progress = read_progress(row.progress)
        except ValueError:  # written by another version
            return None
        seconds = remaining_seconds(known[0], row.phase, progress, now, known[1])
        return None if seconds is None else (now + timedelta(seconds=seconds)).replace(microsecond=0)

    def _known(self, row: Search) -> tuple[SearchJob | RetrainJob, Before] | None:
        """The row's job and what is known of searches like it; None for a job of another kind."""
        key = (row.id, row.attempt)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._look_up(row)
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return found

    def _look_up(self, row: Search) -> tuple[SearchJob | RetrainJob, Before] | None:
        if row.kind not in (SEARCH, "retrain"):
            return None
        try:
            job = parse_job(row.spec if row.kind != SEARCH else self._service.spec_of(row.id))
        except InputError:  # of a version with other options
            return None
        if not isinstance(job, SearchJob):
            assert isinstance(job, RetrainJob)
            return job, NOTHING
        return job, seen_before(job, ((other, progress) for _, other, progress in ended_searches(self._service)))
