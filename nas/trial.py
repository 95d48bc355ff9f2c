"""One evaluated architecture, as all who read a study see it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class TrialState(StrEnum):
    """RUNNING trials of a dead process are evaluated again; INFEASIBLE ones gave values that are not finite.

    PRUNED ones were given up by racing: no result, as they have not seen all images.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    PRUNED = "PRUNED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"


class Trial(BaseModel):
    """One evaluated (or still running) architecture.

    Attributes:
        number: place in the study, from 0. origin: ``fixed``, ``warm`` or the searcher's name.
        metrics: everything measured; the objectives are among them.
        violation: by how much the constraints are exceeded, see ``nas.objectives.violation``; 0 where all are met.
        asked_after: how many trials had ended when this one was asked for. ended_as: how many when it ended.
            Together they tell the order of events, which is all that is needed to bring a searcher back to its state.
        seconds: wall time of the evaluation in its worker.
        reference, peers: numbers of the trials that it races against and that tell how volatile each image is
            (``nas.racing``), fixed when it was asked for.
        work: what the evaluation took: ``images`` scored, ``blocks_computed``, ``blocks_reused``.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    state: TrialState
    architecture: str
    origin: str
    metrics: dict[str, float] = {}
    violation: float = 0.0
    error: str | None = None
    asked_after: int
    ended_as: int | None = None
    seconds: float | None = None
    reference: tuple[int, ...] = ()
    peers: tuple[int, ...] = ()
    work: dict[str, int] = {}
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.ended_as is not None

    @property
    def eligible(self) -> bool:
        """Whether it may be on the frontier: evaluated in full, and within all constraints."""
        return self.state is TrialState.COMPLETED and self.violation == 0
