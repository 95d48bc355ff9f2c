"""How fast a phase goes, from when its progress was told."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cluster.run_view import Pace, Progress, RunView

START = datetime(2024, 5, 1, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_start_of_the_workers_does_not_count() -> None:
    pace = Pace(0.5)
    pace.see(at(0), 0, 100)
    pace.see(at(30), 1, 100)
    assert pace.seconds_per_unit is None, "that was the start of the workers too"
    pace.see(at(32), 2, 100)
    assert pace.seconds_per_unit == 2.0
    pace.see(at(50), 2, 100)  # after a validation
    pace.see(at(52), 3, 100)
    assert pace.seconds_per_unit == pytest.approx(11.0, rel=0.02)
    assert pace.spent == 22.0


def test_steps_before_the_last_checkpoint_were_not_taken_now() -> None:
    pace = Pace(0.5, Progress(done=60, total=100, unit="steps", seconds=120.0, seconds_per_unit=2.0))
    pace.see(at(0), 0, 100)
    pace.see(at(15), 51, 100)
    assert (pace.seconds_per_unit, pace.spent) == (2.0, 120.0)
    pace.see(at(19), 52, 100)
    assert pace.seconds_per_unit == pytest.approx((8 * 2 + 4) / 9, rel=0.02)
    assert pace.spent == 124.0


def test_units_in_work_at_the_same_time_share_the_time_that_one_takes() -> None:
    pace = Pace(0.1)
    pace.see(at(0), 0, 40)
    pace.took(10.0)
    pace.see(at(20), 1, 40, at_once=5)
    assert pace.seconds_per_unit == 2.0, "before a second one tells"
    for done in range(2, 6):  # the others of the first wave end with it
        pace.took(10.0)
        pace.see(at(20 + 0.01 * done), done, 40, at_once=5)
    assert pace.seconds_per_unit == pytest.approx(2.0)
    for done in range(6, 41):
        pace.took(10.0)
        pace.see(at(20 + 2.5 * (done - 5)), done, 40, at_once=min(5, 41 - done))
    assert pace.seconds_per_unit == pytest.approx(2.5, rel=0.05), "of which they waited a fifth"


def test_latest_units_count_most() -> None:
    pace, now = Pace(0.1), 0.0
    for done in range(301):
        now += 10 if done < 150 else 2
        pace.see(at(now), done, 300)
    assert pace.seconds_per_unit == pytest.approx(2, rel=0.1)


def test_phases_keep_what_was_known_and_tell_of_each() -> None:
    before = {"supernet": Progress(done=9, total=9, unit="steps", seconds=18.0, seconds_per_unit=2.0)}
    phases = RunView(before)
    assert phases.phase is None
    for second, fields in enumerate(
        [
            {"event": "phase", "phase": "search"},
            {"event": "progress", "phase": "search", "done": 0, "total": 8, "unit": "trials", "metrics": {}},
            {"event": "warning", "phase": None, "message": "x"},
            {"event": "trial", "phase": "search", "number": 0, "seconds": 3.0},
            {
                "event": "progress",
                "phase": "search",
                "done": 1,
                "total": 8,
                "unit": "trials",
                "metrics": {"running": 2},
            },
            {"event": "trial", "phase": "search", "number": 1, "seconds": None},  # it could not be evaluated
        ]
    ):
        phases.see({"time": at(second).isoformat(), **fields})
    assert phases.phase == "search"
    assert phases.progress["supernet"] == before["supernet"]
    found = phases.progress["search"]
    assert (found.done, found.seconds_per_unit) == (1, 1.5)
    assert (found.began_at, found.moved_at, found.start_seconds) == (at(0), at(4), 4.0)


def test_start_is_told_apart_from_the_units() -> None:
    phases = RunView({"search": Progress(done=3, total=9, unit="trials", moved_at=at(-99), start_seconds=7.0)})
    told = {"event": "progress", "phase": "search", "total": 9, "unit": "trials", "metrics": {}}
    phases.see({"time": at(0).isoformat(), "event": "phase", "phase": "search"})
    phases.see({"time": at(1).isoformat(), **told, "done": 3})
    found = phases.progress["search"]
    assert (found.began_at, found.moved_at, found.start_seconds) == (at(0), None, 7.0)
    phases.see({"time": at(12).isoformat(), **told, "done": 4})
    found = phases.progress["search"]
    assert (found.moved_at, found.start_seconds) == (at(12), 12.0)
