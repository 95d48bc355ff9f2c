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
NO_PLACE = "waiting in the queue for a place on the cluster"
NO_RESULT = "the driver ended without a result"
KILLED = "the driver died without reporting an error, as when it or its node is killed"
VANISHED = "the Ray job vanished, as when the head of the cluster is restarted"


@dataclass(frozen=True)
class Observation:
    """What is known of one search at a moment.

    Attributes:
        state, losses: of the row; ``losses`` are the drivers lost since somebody asked for it to run.
        reachable: whether Ray could be asked. job: its answer, None where it knows no such job; of a queued search
            that of the attempt before. job_id: of that job.
        status: what this attempt's driver wrote last; of a queued search that of the attempt before.
        has_result: ``result.json`` is there.
        admitted: a queued search has a place among those that run.
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
    admitted: bool = True


@dataclass(frozen=True)
class Decision:
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


def decide(seen: Observation, stale_seconds: float) -> Decision:
    """The next step. The driver's word on its end counts first, then Ray's, as Ray may have forgotten the job."""
    if seen.state is SearchState.QUEUED:
        return _queued(seen, stale_seconds)
    if seen.state is SearchState.PAUSED:
        return _paused(seen)
    if seen.state is SearchState.STARTING and seen.status is not None:
        return Decision("move", SearchState.RUNNING)
    ended = _driver_ended(seen)
    if ended is not None:
        return Decision("wait", message="the driver is ending") if _still_there(seen) else ended
    if not seen.reachable:
        return Decision("wait", message=UNREACHABLE)
    if seen.state is SearchState.CANCELLING:
        return _cancelling(seen, stale_seconds)
    if seen.job is None:
        return _vanished(seen, stale_seconds)
    return _job_ended(seen, seen.job) if seen.job.ended else Decision("wait")


def _queued(seen: Observation, stale_seconds: float) -> Decision:
    """One run has one driver: that of the attempt before must have ended first."""
    if seen.job is not None and not seen.job.ended:
        return Decision("stop", message="waiting for the driver before to stop")
    if seen.reachable and seen.job is None and _alive(seen, stale_seconds):
        return Decision("wait", message="the Ray job before is gone; waiting for its driver to fall silent")
    return Decision("submit") if seen.admitted else Decision("wait", message=NO_PLACE)


def _paused(seen: Observation) -> Decision:
    if seen.status is not None and seen.status.state == "SUCCEEDED" and seen.has_result:
        return Decision("move", SearchState.SUCCEEDED, "it had finished before it could be paused")
    if not seen.reachable:
        return Decision("wait", message=UNREACHABLE)
    if seen.job is not None and not seen.job.ended:
        return Decision("stop", message="waiting for the driver to stop")
    return Decision("wait", message="paused by request")


def _alive(seen: Observation, stale_seconds: float) -> bool:
    """A driver that has not said its last word has given a sign of life lately."""
    status = seen.status
    return (
        status is not None
        and status.state == "RUNNING"
        and (seen.now - status.updated_at).total_seconds() < stale_seconds
    )


def _still_there(seen: Observation) -> bool:
    """The driver has said its last word, but its process goes on: it frees the cluster and may yet touch its folder."""
    alive = seen.job is not None and not seen.job.ended
    return alive and seen.status is not None and (seen.now - seen.status.updated_at).total_seconds() < ENDING_SECONDS


def _driver_ended(seen: Observation) -> Decision | None:
    said = seen.status.state if seen.status else None
    if said == "SUCCEEDED" and seen.has_result:
        return Decision("move", SearchState.SUCCEEDED)
    if said not in ("FAILED", "CANCELLED"):
        return None
    if seen.state is SearchState.CANCELLING:
        return Decision("move", SearchState.CANCELLED, "stopped by request")
    if said == "CANCELLED":
        if seen.job is None:  # the head went down and took its driver along; not what anybody asked for
            return None
        return Decision("move", SearchState.CANCELLED, "the driver was stopped from outside this service")
    error = seen.status.error if seen.status else None
    return Decision("move", SearchState.FAILED, error=error or NO_RESULT, with_log=error is None)


def _cancelling(seen: Observation, stale_seconds: float) -> Decision:
    if seen.job is not None and not seen.job.ended:
        return Decision("stop", message="waiting for the driver to stop")
    alive = seen.status is not None and (seen.now - seen.status.updated_at).total_seconds() < stale_seconds
    if seen.job is None and alive:  # a driver can outlive its head, and then nobody can stop it from here
        return Decision("wait", message="the Ray job is gone; waiting for its driver to fall silent")
    return Decision("move", SearchState.CANCELLED, "stopped by request")


def _vanished(seen: Observation, stale_seconds: float) -> Decision:
    last_sign = max(seen.changed_at, seen.status.updated_at) if seen.status else seen.changed_at
    stopped = seen.status is not None and seen.status.state == "CANCELLED"
    if not stopped and (seen.now - last_sign).total_seconds() < stale_seconds:
        return Decision("wait", message="the Ray job cannot be found; waiting for a sign of its driver")
    if _worth_another(seen):
        return Decision("move", SearchState.QUEUED, f"{VANISHED}; resubmitted, continuing from its run folder")
    return Decision(
        "move",
        SearchState.FAILED,
        error=f"{VANISHED}, too often to be resubmitted again; resume it when the cluster is healthy",
    )


def _worth_another(seen: Observation) -> bool:
    seconds = (seen.now - seen.changed_at).total_seconds()
    steady = seen.state is SearchState.RUNNING and seconds >= STEADY_SECONDS
    return seen.losses < (MAX_STEADY_LOSSES if steady else MAX_LOSSES)


def _job_ended(seen: Observation, job: JobState) -> Decision:
    if job is JobState.STOPPED:
        return Decision("move", SearchState.CANCELLED, "the Ray job was stopped from outside this service")
    killed = job is JobState.FAILED and seen.status is not None and seen.status.state == "RUNNING"
    if killed and _worth_another(seen):  # in the middle of its work: its node went, or it was short of memory
        return Decision("move", SearchState.QUEUED, f"{KILLED}; started once more, from where its run folder left off")
    if job is JobState.SUCCEEDED:
        return Decision("move", SearchState.FAILED, error=NO_RESULT, with_log=True)
    return Decision("move", SearchState.FAILED, error="the driver died", with_log=True)
