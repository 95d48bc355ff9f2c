"""The table of transitions, and what is decided from what is seen."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest

from api.decisions import Sight, decide
from api.states import ACTIVE, TRANSITIONS, IllegalTransitionError, SearchState, check_transition
from cluster.jobs import JobState
from cluster.run_view import RunState, RunStatus

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
LATELY = NOW - timedelta(minutes=5)
STALE_SECONDS = 60.0
S = SearchState


def sight(
    state: SearchState, job: JobState | None, said: RunState | None = None, age: float = 0, **other: Any
) -> Sight:
    status = RunStatus(state=said, updated_at=NOW - timedelta(seconds=age)) if said else None
    values = {"losses": 0, "reachable": True, "has_result": False, "now": NOW, "changed_at": NOW - timedelta(hours=1)}
    return Sight(state=state, job=job, status=status, **{**values, **other})


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
        (sight(S.QUEUED, None), "submit", None),
        (sight(S.QUEUED, None, "RUNNING", age=1), "wait", None),
        (sight(S.QUEUED, None, "RUNNING", age=61), "submit", None),
        (sight(S.QUEUED, None, "CANCELLED", age=1), "submit", None),
        (sight(S.QUEUED, JobState.RUNNING, "RUNNING"), "stop", None),
        (sight(S.QUEUED, JobState.STOPPED, "RUNNING"), "submit", None),
        (sight(S.QUEUED, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "submit", None),
        (sight(S.PAUSED, JobState.RUNNING, "RUNNING"), "stop", None),
        (sight(S.PAUSED, JobState.PENDING), "stop", None),
        (sight(S.PAUSED, JobState.STOPPED, "CANCELLED"), "wait", None),
        (sight(S.PAUSED, JobState.FAILED, "FAILED"), "wait", None),
        (sight(S.PAUSED, None, reachable=False), "wait", None),
        (sight(S.PAUSED, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (sight(S.STARTING, JobState.PENDING), "wait", None),
        (sight(S.STARTING, JobState.RUNNING), "wait", None),
        (sight(S.STARTING, JobState.RUNNING, "RUNNING"), "move", S.RUNNING),
        (sight(S.STARTING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.RUNNING),
        (sight(S.STARTING, JobState.FAILED), "move", S.FAILED),
        (sight(S.STARTING, None, changed_at=NOW), "wait", None),
        (sight(S.STARTING, None), "move", S.QUEUED),
        (sight(S.RUNNING, JobState.RUNNING, "RUNNING"), "wait", None),
        (sight(S.RUNNING, JobState.RUNNING, "RUNNING", age=3600), "wait", None),
        (sight(S.RUNNING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (sight(S.RUNNING, None, "SUCCEEDED", has_result=True, reachable=False), "move", S.SUCCEEDED),
        (sight(S.RUNNING, JobState.SUCCEEDED, "SUCCEEDED"), "move", S.FAILED),
        (sight(S.RUNNING, JobState.SUCCEEDED, "RUNNING"), "move", S.FAILED),
        (sight(S.RUNNING, JobState.FAILED, "RUNNING"), "move", S.QUEUED),
        (sight(S.RUNNING, JobState.FAILED, "RUNNING", losses=1, changed_at=LATELY), "move", S.FAILED),
        (sight(S.RUNNING, JobState.FAILED, "RUNNING", losses=19), "move", S.QUEUED),
        (sight(S.RUNNING, JobState.FAILED, "RUNNING", losses=20), "move", S.FAILED),
        (sight(S.RUNNING, JobState.FAILED, "FAILED"), "move", S.FAILED),
        (sight(S.RUNNING, JobState.RUNNING, "FAILED"), "wait", None),
        (sight(S.RUNNING, JobState.RUNNING, "FAILED", age=60), "move", S.FAILED),
        (sight(S.RUNNING, JobState.STOPPED, "RUNNING"), "move", S.CANCELLED),
        (sight(S.RUNNING, JobState.STOPPED, "CANCELLED"), "move", S.CANCELLED),
        (sight(S.RUNNING, None, "RUNNING", age=30), "wait", None),
        (sight(S.RUNNING, None, "RUNNING", age=61), "move", S.QUEUED),
        (sight(S.RUNNING, None, "CANCELLED", age=1), "move", S.QUEUED),
        (sight(S.RUNNING, None, "RUNNING", age=61, losses=1, changed_at=LATELY), "move", S.FAILED),
        (sight(S.RUNNING, None, "RUNNING", age=61, losses=19), "move", S.QUEUED),
        (sight(S.STARTING, None, losses=1), "move", S.FAILED),
        (sight(S.RUNNING, None, "RUNNING", age=61, reachable=False), "wait", None),
        (sight(S.CANCELLING, JobState.RUNNING, "RUNNING"), "stop", None),
        (sight(S.CANCELLING, JobState.PENDING), "stop", None),
        (sight(S.CANCELLING, JobState.STOPPED, "RUNNING"), "move", S.CANCELLED),
        (sight(S.CANCELLING, JobState.FAILED, "FAILED"), "move", S.CANCELLED),
        (sight(S.CANCELLING, JobState.SUCCEEDED, "SUCCEEDED", has_result=True), "move", S.SUCCEEDED),
        (sight(S.CANCELLING, None, changed_at=NOW), "move", S.CANCELLED),
        (sight(S.CANCELLING, None, "RUNNING", age=1), "wait", None),
        (sight(S.CANCELLING, None, "RUNNING", age=61, changed_at=NOW), "move", S.CANCELLED),
        (sight(S.CANCELLING, None, reachable=False), "wait", None),
    ],
)
def test_decision(seen: Sight, action: str, to: SearchState | None) -> None:
    step = decide(seen, STALE_SECONDS)
    assert (step.action, step.to) == (action, to)


def test_every_decision_is_legal_and_says_why_it_failed() -> None:
    """All that can be seen of a search, in all combinations."""
    jobs = [None, *JobState]
    said: list[RunState | None] = [None, "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
    for state, job, status, reachable, result, losses, age in product(
        ACTIVE, jobs, said, (True, False), (True, False), (0, 1), (0, 120)
    ):
        seen = sight(
            state, job if reachable else None, status, age, reachable=reachable, has_result=result, losses=losses
        )
        step = decide(seen, STALE_SECONDS)
        if step.action == "move":
            assert step.to is not None
            check_transition(state, step.to)
            assert (step.to is S.FAILED) == (step.error is not None)
            assert step.to is not S.SUCCEEDED or (status == "SUCCEEDED" and result)
