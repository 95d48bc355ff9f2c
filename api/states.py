"""States of a search and the only transitions between them; every change asks ``check_transition``."""

from __future__ import annotations

from enum import StrEnum


class SearchState(StrEnum):
    """Where a search is. PAUSED: its job is stopped, or being stopped, until somebody resumes it."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        return self in (SearchState.SUCCEEDED, SearchState.CANCELLED, SearchState.FAILED)


_S = SearchState

TRANSITIONS: dict[SearchState, frozenset[SearchState]] = {
    # FAILED: the cluster refuses the job for good.
    _S.QUEUED: frozenset({_S.STARTING, _S.PAUSED, _S.CANCELLING, _S.FAILED}),
    # Back to QUEUED: the driver was killed, or its Ray job vanished with the head; it is submitted once more.
    # CANCELLED without CANCELLING: somebody stopped the Ray job from outside.
    _S.STARTING: frozenset({_S.RUNNING, _S.QUEUED, _S.PAUSED, _S.CANCELLING, _S.CANCELLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.QUEUED, _S.PAUSED, _S.CANCELLING, _S.CANCELLED, _S.FAILED}),
    # SUCCEEDED: the driver had finished before it could be stopped.
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLING, _S.SUCCEEDED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.SUCCEEDED}),
    # Ended, until somebody wants it to go on: extended, or resumed after whatever ended it was mended.
    _S.SUCCEEDED: frozenset({_S.QUEUED}),
    _S.CANCELLED: frozenset({_S.QUEUED}),
    _S.FAILED: frozenset({_S.QUEUED}),
}

ACTIVE = tuple(state for state in SearchState if not state.ended)
"""States in which the reconciler may have something to do."""


class IllegalTransitionError(Exception):
    """A change of state that the table does not hold: a fault of the program, or of what was asked."""


def check_transition(old: SearchState, new: SearchState) -> None:
    """Raises IllegalTransitionError where ``new`` does not follow from ``old``."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old]))
        raise IllegalTransitionError(f"a search that is {old.value} cannot become {new.value}; allowed: {allowed}")
