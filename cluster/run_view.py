"""What a run's events tell of it: its state, its phases, how far each is and how fast it goes. A pure function.

The driver folds its events as they come, and leaves in ``status.json`` what they come to, for all who do not want to
read them from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

RunState = Literal["RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]

_LEAST_MEMORY = 24
_SHARE_REMEMBERED, _SHARE_OF_TRIALS = 1 / 2, 1 / 10
"""Of a phase's units. Steps of a training cost the same throughout, and the memory must hold its validations too."""
_WEIGHT_OF_BEFORE = 8
"""Units that the pace from before a driver was started again counts for."""


def _known(figures: object) -> object:
    """Without those that are null, as one is written that is not finite."""
    return (
        {name: value for name, value in figures.items() if value is not None} if isinstance(figures, dict) else figures
    )


Figures = Annotated[dict[str, float], BeforeValidator(_known)]


class Progress(BaseModel):
    """How far a phase is: ``done`` of ``total`` epochs, trials or images, with its latest figures.

    Attributes:
        seconds: spent on its units so far, by all drivers that were at work on it.
        seconds_per_unit: that it takes lately; None while nothing tells.
        began_at: when the driver that is at work now began with it. moved_at: when its last unit was done since then;
            None while its workers start.
        start_seconds: that its workers took to start, up to the first unit; None before they ever have.
    """

    model_config = ConfigDict(frozen=True)

    done: int
    total: int
    unit: str
    metrics: Figures = {}
    seconds: float = 0.0
    seconds_per_unit: float | None = None
    began_at: datetime | None = None
    moved_at: datetime | None = None
    start_seconds: float | None = None


class RunStatus(BaseModel):
    """What a run has come to. A hint beside it: Ray's job status, which knows of killed drivers.

    Attributes:
        warning: the last one of this attempt; None where there was none.
        attempt: that is at work or was last; 0 before attempts were numbered. pid: of its driver.
        job_id: the driver's in Ray, its submission id; None where it was not started as a Ray job.
    """

    model_config = ConfigDict(frozen=True)

    state: RunState
    phase: str | None = None
    progress: dict[str, Progress] = {}
    error: str | None = None
    warning: str | None = None
    attempt: int = 0
    pid: int | None = None
    job_id: str | None = None
    updated_at: datetime


class Pace:
    """How long a phase lately takes for a unit (a step, a trial, an image), by when its progress was told.

    The latest units count most, as candidates get cheaper while a search goes on. What passes before the first unit is
    done, while workers start, is left out.

    Args:
        share: of the phase's units that counts; at least some 24 units do.
        before: what was known when a driver was last at work on the phase.
    """

    def __init__(self, share: float, before: Progress | None = None) -> None:
        self._share = share
        known = None if before is None else before.seconds_per_unit
        self._units = 0.0 if known is None else float(_WEIGHT_OF_BEFORE)
        self._seconds = (known or 0.0) * self._units
        self._announced = False
        self._last: tuple[datetime, int] | None = None
        self.first_at: datetime | None = None  # unit of this start of the driver
        self._at_once = 1
        self._single: float | None = None
        self.spent = 0.0 if before is None else before.seconds

    def see(self, moment: datetime, done: int, total: int, at_once: int = 1) -> None:
        """Progress was told. The first time in a start of the driver it only says where the phase goes on.

        Args:
            at_once: units that are in work at the same time; fewer at the end, which says nothing of the pace.
        """
        self._at_once = max(self._at_once, at_once)
        if self._last is not None and done > self._last[1]:
            new, elapsed = done - self._last[1], max(0.0, (moment - self._last[0]).total_seconds())
            keep = max(0.0, 1 - new / max(_LEAST_MEMORY, total * self._share))
            self._seconds, self._units = keep * self._seconds + elapsed, keep * self._units + new
            self.spent += elapsed
        # Told again without a further unit, as after a validation: what passed meanwhile belongs to the next one.
        if self._announced and (self._last is None or done != self._last[1]):
            self._last = (moment, done)
            self.first_at = self.first_at or moment
        self._announced = True

    @property
    def moved_at(self) -> datetime | None:
        """When the last unit was done; None before the first in this start of the driver."""
        return None if self._last is None else self._last[0]

    def took(self, seconds: float) -> None:
        """A unit took so long by itself."""
        weight = 1.0 if self._single is None else 1 / _LEAST_MEMORY
        self._single = seconds * weight + (self._single or 0.0) * (1 - weight)

    @property
    def seconds_per_unit(self) -> float | None:
        """None before anything tells. No less than units at work leave room for: the first of a wave end together."""
        alone = None if self._single is None else self._single / self._at_once
        together = self._seconds / self._units if self._units >= self._at_once else None
        return max((one for one in (alone, together) if one is not None), default=None)


class RunView:
    """A run, event by event.

    Args:
        before: progress that the events before came to.
    """

    def __init__(self, before: Mapping[str, Progress]) -> None:
        self._told: dict[str, Any] = {"state": "RUNNING"}
        self.progress: dict[str, Progress] = dict(before)
        self._paces: dict[str, Pace] = {}
        self._began: dict[str, datetime] = {}

    def see(self, event: Mapping[str, Any]) -> None:
        """Takes in an event as ``RunFolder.emit`` writes it."""
        kind, phase = event["event"], event.get("phase")
        if kind == "started":  # what went before tells of a pace, and of no time until now
            self._told = {"state": "RUNNING", **{key: event[key] for key in ("attempt", "pid", "job_id")}}
            self._paces, self._began = {}, {}
        elif kind == "ended":
            self._told |= {"state": event["state"], "error": event["error"]}
        elif kind == "warning":
            self._told["warning"] = event["message"]
        elif kind == "phase":
            assert phase is not None
            self._told["phase"] = phase
            self._began[phase] = datetime.fromisoformat(event["time"])
        elif kind == "trial" and phase is not None and event.get("seconds") is not None:
            self._pace(phase, "trials").took(event["seconds"])
        elif kind == "progress" and phase is not None:
            self._told["phase"] = phase
            self._advance(phase, event)

    @property
    def phase(self) -> str | None:
        """That goes on; None before the first."""
        return self._told.get("phase")

    def status(self, now: datetime) -> RunStatus:
        """All of it at a moment, at which its driver was there."""
        return RunStatus(**self._told, progress=dict(self.progress), updated_at=now)

    def _advance(self, phase: str, event: Mapping[str, Any]) -> None:
        moment, pace = datetime.fromisoformat(event["time"]), self._pace(phase, event["unit"])
        pace.see(moment, event["done"], event["total"], int(event["metrics"].get("running", 1)))
        fields = {key: event[key] for key in ("done", "total", "unit", "metrics")}
        began, before = self._began.get(phase), self.progress.get(phase)
        start_seconds = None if before is None else before.start_seconds
        if began is not None and pace.first_at is not None:
            start_seconds = (pace.first_at - began).total_seconds()
        self.progress[phase] = Progress(
            **fields,
            seconds=pace.spent,
            seconds_per_unit=pace.seconds_per_unit,
            began_at=began,
            moved_at=pace.moved_at,
            start_seconds=start_seconds,
        )

    def _pace(self, phase: str, unit: str) -> Pace:
        share = _SHARE_OF_TRIALS if unit == "trials" else _SHARE_REMEMBERED
        return self._paces.setdefault(phase, Pace(share, self.progress.get(phase)))
