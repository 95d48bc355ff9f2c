"""The table of transitions, and what is decided from what is seen."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest

from api.server.decisions import Observation, decide
from api.states import ACTIVE, TRANSITIONS, IllegalTransitionError, SearchState, check_transition
from cluster.jobs import JobState
from cluster.run_view import RunState, RunStatus

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
LATELY = NOW - timedelta(minutes=5)
STALE_SECONDS = 60.0
S = SearchState


def observed(
    state: SearchState, job: JobState | None, said: RunState | None = None, age: float = 0, **other: Any
) -> Observation:
    status = RunStatus(state=said, updated_at=NOW - timedelta(seconds=age)) if said else None
    values = {"losses": 0, "reachable": True, "has_result": False, "now": NOW, "changed_at": NOW - timedelta(hours=1)}
    return Observation(state=state, job=job, status=status, **{**values, **other})


def test_legal_transitions_pass_and_all_others_are_refused() -> None:
    legal = {(old, new) for old, after in TRANSITIONS.items() for new in after}
    for old, new in product(SearchState, SearchState):
        if (old, new) in legal:
            check_transition(old, new)
        else:
            with pytest.raises(IllegalTransitionError, match=f"{old.value} cannot become {new.value}"):
                check_transition(old, new)


def test_every_state_leads_to_an_end_and_an_end_only_back_to_the_queue() -> None:
    ended = {state for state in SearchState if state.ended}
    assert ended == {S.SUCCEEDED, S.CANCELLED, S.FAILED}
    assert all(TRANSITIONS[state] == {S.QUEUED} for state in ended)
    for state in set(SearchState) - ended:
        reached, frontier = {state}, [state]
        while frontier:
            frontier = [new for old in frontier for new in TRANSITIONS[old] - reached]
            reached.update(frontier)
        assert reached & ended


@pytest.mark.parametrize(
    ("seen", "action", "to"),
    [
        (observed(S.QUEUED, None), "submit", None),
        (observed(S.QUEUED, None, "RUNNING", age=1), "wait", None),
        (observed(S.QUEUED, None, "RUNNING", age=61), "submit", None),
        (observed(S.QUEUED, None, "CANCELLED", age=1), "submit", None),
        (observed(S.QUEUED, JobState.RUNNING, "RUNNING"), "stop", None),
        (observed(S.QUEUED, JobState.STOPPED, "RUNNING"), "submit", None),
        (observed(S.QUEUED, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "submit", None),
        (observed(S.PAUSED, JobState.RUNNING, "RUNNING"), "stop", None),
        (observed(S.PAUSED, JobState.PENDING), "stop", None),
        (observed(S.PAUSED, JobState.STOPPED, "CANCELLED"), "wait", None),
        (observed(S.PAUSED, JobState.FAILED, "FAILED"), "wait", None),
        (observed(S.PAUSED, None, reachable=False), "wait", None),
        (observed(S.PAUSED, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (observed(S.STARTING, JobState.PENDING), "wait", None),
        (observed(S.STARTING, JobState.RUNNING), "wait", None),
        (observed(S.STARTING, JobState.RUNNING, "RUNNING"), "move", S.RUNNING),
        (observed(S.STARTING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.RUNNING),
        (observed(S.STARTING, JobState.FAILED), "move", S.FAILED),
        (observed(S.STARTING, None, changed_at=NOW), "wait", None),
        (observed(S.STARTING, None), "move", S.QUEUED),
        (observed(S.RUNNING, JobState.RUNNING, "RUNNING"), "wait", None),
        (observed(S.RUNNING, JobState.RUNNING, "RUNNING", age=3600), "wait", None),
        (observed(S.RUNNING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (observed(S.RUNNING, None, "SUCCEEDED", has_result=True, reachable=False), "move", S.SUCCEEDED),
        (observed(S.RUNNING, JobState.SUCCEEDED, "SUCCEEDED"), "move", S.FAILED),
        (observed(S.RUNNING, JobState.SUCCEEDED, "RUNNING"), "move", S.FAILED),
        (observed(S.RUNNING, JobState.FAILED, "RUNNING"), "move", S.QUEUED),
        (observed(S.RUNNING, JobState.FAILED, "RUNNING", losses=1, changed_at=LATELY), "move", S.FAILED),
        (observed(S.RUNNING, JobState.FAILED, "RUNNING", losses=19), "move", S.QUEUED),
        (observed(S.RUNNING, JobState.FAILED, "RUNNING", losses=20), "move", S.FAILED),
        (observed(S.RUNNING, JobState.FAILED, "FAILED"), "move", S.FAILED),
        (observed(S.RUNNING, JobState.RUNNING, "FAILED"), "wait", None),
        (observed(S.RUNNING, JobState.RUNNING, "FAILED", age=60), "move", S.FAILED),
        (observed(S.RUNNING, JobState.STOPPED, "RUNNING"), "move", S.CANCELLED),
        (observed(S.RUNNING, JobState.STOPPED, "CANCELLED"), "move", S.CANCELLED),
        (observed(S.RUNNING, None, "RUNNING", age=30), "wait", None),
        (observed(S.RUNNING, None, "RUNNING", age=61), "move", S.QUEUED),
        (observed(S.RUNNING, None, "CANCELLED", age=1), "move", S.QUEUED),
        (observed(S.RUNNING, None, "RUNNING", age=61, losses=1, changed_at=LATELY), "move", S.FAILED),
        (observed(S.RUNNING, None, "RUNNING", age=61, losses=19), "move", S.QUEUED),
        (observed(S.STARTING, None, losses=1), "move", S.FAILED),
        (observed(S.RUNNING, None, "RUNNING", age=61, reachable=False), "wait", None),
        (observed(S.CANCELLING, JobState.RUNNING, "RUNNING"), "stop", None),
        (observed(S.CANCELLING, JobState.PENDING), "stop", None),
        (observed(S.CANCELLING, JobState.STOPPED, "RUNNING"), "move", S.CANCELLED),
        (observed(S.CANCELLING, JobState.FAILED, "FAILED"), "move", S.CANCELLED),
        (observed(S.CANCELLING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (observed(S.CANCELLING, None, changed_at=NOW), "move", S.CANCELLED),
        (observed(S.CANCELLING, None, "RUNNING", age=1), "wait", None),
        (observed(S.CANCELLING, None, "RUNNING", age=61, changed_at=NOW), "move", S.CANCELLED),
        (observed(S.CANCELLING, None, reachable=False), "wait", None),
    ],
)
def test_decision(seen: Observation, action: str, to: SearchState | None) -> None:
    step = decide(seen, STALE_SECONDS)
    assert (step.action, step.to) == (action, to)


def test_every_decision_is_legal_and_says_why_it_failed() -> None:
    """All that can be seen of a search, in all combinations."""
    jobs = [None, *JobState]
    said: list[RunState | None] = [None, "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
    for state, job, status, reachable, result, losses, age in product(
        ACTIVE, jobs, said, (True, False), (True, False), (0, 1), (0, 120)
    ):
        seen = observed(
            state, job if reachable else None, status, age, reachable=reachable, has_result=result, losses=losses
        )
        step = decide(seen, STALE_SECONDS)
        if step.action == "move":
            assert step.to is not None
            check_transition(state, step.to)
            assert (step.to is S.FAILED) == (step.error is not None)
            assert step.to is not S.SUCCEEDED or (status == "SUCCEEDED" and result)
