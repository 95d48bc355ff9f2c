"""What to do about a search or follow-up job, from its row, its driver's status and its Ray job. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from api.states import SearchState
from cluster.jobs import JobState
from cluster.run_view import RunStatus

MAX_LOSSES = 1
"""Of drivers that were lost early. One that had run for ``STEADY_SECONDS`` did not fail by itself, most likely: a long
search may lose ``MAX_STEADY_LOSSES`` of those.
"""
STEADY_SECONDS = 600.0
MAX_STEADY_LOSSES = 20
ENDING_SECONDS = 15.0

UNREACHABLE = "the Ray cluster cannot be reached at the moment; retrying every few seconds"
NO_RESULT = "the driver ended without a result"
KILLED = "the driver died without reporting an error, as when it or its node is killed"
VANISHED = "the Ray job vanished, as when the head of the cluster is restarted"


@dataclass(frozen=True)
class Sight:
    """What is seen of one search.

    Attributes:
        state, losses: of the row; ``losses`` are the drivers lost since somebody asked for it to run.
        reachable: whether Ray could be asked. job: its answer, None where it knows no such job; of a queued search
            that of the attempt before. job_id: of that job.
        status: what this attempt's driver wrote last; of a queued search that of the attempt before.
        has_result: ``result.json`` is there.
        now, changed_at: this moment, and that of the row's last change of state.
    """

    state: SearchState
    losses: int
    reachable: bool
    job: JobState | None
    status: RunStatus | None
    has_result: bool
    now: datetime
    changed_at: datetime
    job_id: str | None = None


@dataclass(frozen=True)
class Step:
    """What to do.

    Attributes:
        action: ``wait`` changes nothing, ``submit`` starts the Ray job, ``stop`` stops it (of a queued search that of
            the attempt before), ``move`` changes the state.
        to: the new state of a ``move``.
        message: shown to the user. error: why a search failed.
        with_log: the end of the driver's log belongs to the error.
    """

    action: Literal["wait", "submit", "stop", "move"]
    to: SearchState | None = None
    message: str | None = None
    error: str | None = None
    with_log: bool = False


def decide(sight: Sight, stale_seconds: float) -> Step:
    """The next step. The driver's word on its end counts first, then Ray's, as Ray may have forgotten the job."""
    if sight.state is SearchState.QUEUED:
        return _queued(sight, stale_seconds)
    if sight.state is SearchState.PAUSED:
        return _paused(sight)
    if sight.state is SearchState.STARTING and sight.status is not None:
        return Step("move", SearchState.RUNNING)
    ended = _driver_ended(sight)
    if ended is not None:
        return Step("wait", message="the driver is ending") if _still_there(sight) else ended
    if not sight.reachable:
        return Step("wait", message=UNREACHABLE)
    if sight.state is SearchState.CANCELLING:
        return _cancelling(sight, stale_seconds)
    if sight.job is None:
        return _vanished(sight, stale_seconds)
    return _job_ended(sight, sight.job) if sight.job.ended else Step("wait")


def _queued(sight: Sight, stale_seconds: float) -> Step:
    """One run has one driver: that of the attempt before must have ended first."""
    if sight.job is not None and not sight.job.ended:
        return Step("stop", message="waiting for the driver before to stop")
    if sight.reachable and sight.job is None and _alive(sight, stale_seconds):
        return Step("wait", message="the Ray job before is gone; waiting for its driver to fall silent")
    return Step("submit")


def _paused(sight: Sight) -> Step:
    if sight.status is not None and sight.status.state == "SUCCEEDED" and sight.has_result:
        return Step("move", SearchState.SUCCEEDED, "it had finished before it could be paused")
    if not sight.reachable:
        return Step("wait", message=UNREACHABLE)
    if sight.job is not None and not sight.job.ended:
        return Step("stop", message="waiting for the driver to stop")
    return Step("wait", message="paused by request")


def _alive(sight: Sight, stale_seconds: float) -> bool:
    """A driver that has not said its last word has given a sign of life lately."""
    status = sight.status
    return (
        status is not None
        and status.state == "RUNNING"
        and (sight.now - status.updated_at).total_seconds() < stale_seconds
    )


def _still_there(sight: Sight) -> bool:
    """The driver has said its last word, but its process goes on: it frees the cluster and may yet touch its folder."""
    alive = sight.job is not None and not sight.job.ended
    return alive and sight.status is not None and (sight.now - sight.status.updated_at).total_seconds() < ENDING_SECONDS


def _driver_ended(sight: Sight) -> Step | None:
    said = sight.status.state if sight.status else None
    if said == "SUCCEEDED" and sight.has_result:
        return Step("move", SearchState.SUCCEEDED)
    if said not in ("FAILED", "CANCELLED"):
        return None
    if sight.state is SearchState.CANCELLING:
        return Step("move", SearchState.CANCELLED, "stopped by request")
    if said == "CANCELLED":
        if sight.job is None:  # the head went down and took its driver along; not what anybody asked for
            return None
        return Step("move", SearchState.CANCELLED, "the driver was stopped from outside this service")
    error = sight.status.error if sight.status else None
    return Step("move", SearchState.FAILED, error=error or NO_RESULT, with_log=error is None)


def _cancelling(sight: Sight, stale_seconds: float) -> Step:
    if sight.job is not None and not sight.job.ended:
        return Step("stop", message="waiting for the driver to stop")
    alive = sight.status is not None and (sight.now - sight.status.updated_at).total_seconds() < stale_seconds
    if sight.job is None and alive:  # a driver can outlive its head, and then nobody can stop it from here
        return Step("wait", message="the Ray job is gone; waiting for its driver to fall silent")
    return Step("move", SearchState.CANCELLED, "stopped by request")


def _vanished(sight: Sight, stale_seconds: float) -> Step:
    last_sign = max(sight.changed_at, sight.status.updated_at) if sight.status else sight.changed_at
    stopped = sight.status is not None and sight.status.state == "CANCELLED"
    if not stopped and (sight.now - last_sign).total_seconds() < stale_seconds:
        return Step("wait", message="the Ray job cannot be found; waiting for a sign of its driver")
    if _worth_another(sight):
        return Step("move", SearchState.QUEUED, f"{VANISHED}; resubmitted, continuing from its run folder")
    return Step(
        "move",
        SearchState.FAILED,
        error=f"{VANISHED}, too often to be resubmitted again; resume it when the cluster is healthy",
    )


def _worth_another(sight: Sight) -> bool:
    seconds = (sight.now - sight.changed_at).total_seconds()
    steady = sight.state is SearchState.RUNNING and seconds >= STEADY_SECONDS
    return sight.losses < (MAX_STEADY_LOSSES if steady else MAX_LOSSES)


def _job_ended(sight: Sight, job: JobState) -> Step:
    if job is JobState.STOPPED:
        return Step("move", SearchState.CANCELLED, "the Ray job was stopped from outside this service")
    killed = job is JobState.FAILED and sight.status is not None and sight.status.state == "RUNNING"
    if killed and _worth_another(sight):  # in the middle of its work: its node went, or it was short of memory
        return Step("move", SearchState.QUEUED, f"{KILLED}; started once more, from where its run folder left off")
    if job is JobState.SUCCEEDED:
        return Step("move", SearchState.FAILED, error=NO_RESULT, with_log=True)
    return Step("move", SearchState.FAILED, error="the driver died", with_log=True)
