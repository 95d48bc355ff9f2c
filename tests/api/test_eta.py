"""When a search will be done: told against simulated runs, whose end is known."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from service_helpers import BODY, Bench

from api.client.tables import expected_end, time_left
from api.server.eta import remaining_seconds
from cluster.config import RetrainJob, SearchJob, parse_job
from cluster.jobs import JobState
from cluster.run_view import Progress, RunStatus, RunView

IMAGES = {"train": 120, "val": 20, "search": 30, "test": 40}
START = datetime(2024, 5, 1, 12, 0, tzinfo=timezone.utc)


def job(**change: Any) -> SearchJob:
    values = {
        **BODY,
        "supernet": {"epochs": 12, "batch_size": 8, "validate_every": 3, "num_val_architectures": 2},
        "search": {"objectives": ["dice", "miou"], "num_trials": 120, "random_baseline": True, "survey": 0},
        "retrain": {"epochs": 10, "batch_size": 8, "validate_every": 2},
        "resources": {"train": {"cpus": 2}, "search": {"cpus": 1}},
    }
    made = parse_job({**values, **{key: {**values[key], **value} for key, value in change.items()}})
    assert isinstance(made, SearchJob)
    return made


@dataclass
class Simulated:
    """A run whose every cost is known, told as drivers tell it.

    Attributes:
        seconds_per_pass: a forward pass of one image on one thread.
        shares: what the first and the last candidates of the search cost of a full one: reuse and racing.
        kill_at: number of trials after which the driver dies for two hours and is started again.
    """

    job: SearchJob
    workers: int = 2
    seconds_per_pass: float = 0.05
    shares: tuple[float, float] = (0.9, 0.4)
    start_seconds: float = 12.0
    kill_at: int | None = None
    now: datetime = START
    events: list[dict[str, Any]] = field(default_factory=list)

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"time": self.now.isoformat(), "event": event, **fields})

    def progress(self, phase: str, done: int, total: int, unit: str, **metrics: float) -> None:
        self.emit("progress", phase=phase, done=done, total=total, unit=unit, metrics=metrics)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def run(self) -> Simulated:
        self.check()
        self.train("supernet", self.job.supernet, len(self.job.space.choices) + 2)
        self.search("search")
        if self.job.search.random_baseline:
            self.search("random")
        if self.job.retrain is not None:
            self.train("retrain", self.job.retrain, 1)
            if self.job.baselines:
                self.train("baselines", self.job.retrain, 1)
            self.evaluate()
        return self

    def check(self) -> None:
        self.emit("phase", phase="check")
        self.wait(4)
        total = sum(IMAGES.values())
        self.progress("check", total, total, "images", **IMAGES, workers=self.workers)

    def train(self, phase: str, settings: Any, paths: int) -> None:
        self.emit("phase", phase=phase)
        a_pass = self.seconds_per_pass / self.job.resources.train.cpus
        steps = -(-IMAGES["train"] // settings.batch_size)
        total = settings.epochs * steps
        self.progress(phase, 0, total, "steps")
        self.wait(self.start_seconds)
        for epoch in range(settings.epochs):
            for step in range(steps):
                self.wait(3 * settings.batch_size * a_pass)
                self.progress(phase, epoch * steps + step + 1, total, "steps", loss=0.5)
            if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
                self.wait(paths * IMAGES["val"] * a_pass)
            self.progress(phase, (epoch + 1) * steps, total, "steps", loss=0.5)

    def search(self, phase: str) -> None:
        total = self.job.search.num_trials
        self.emit("phase", phase=phase)
        done = 0
        while done < total:
            self.progress(phase, done, total, "trials")
            self.wait(self.start_seconds)
            last = self.kill_at if phase == "search" and self.kill_at and done < self.kill_at else total
            self.candidates(phase, done, last, total)
            done = last
            if done < total:
                self.wait(7200)
                self.check()
                self.emit("phase", phase="supernet")
                self.emit("phase", phase=phase)

    def candidates(self, phase: str, first: int, last: int, total: int) -> None:
        running: list[tuple[datetime, int, float]] = []
        number = first
        for done in range(first, last):
            while number < last and len(running) < self.workers:
                cost = self.cost(phase, number)
                heapq.heappush(running, (self.now + timedelta(seconds=cost), number, cost))
                number += 1
            at_once = len(running)
            self.now, ended, cost = heapq.heappop(running)
            self.emit("trial", phase=phase, number=ended, seconds=cost)
            self.progress(phase, done + 1, total, "trials", running=at_once)

    def cost(self, phase: str, number: int) -> float:
        first, last = self.shares if phase == "search" else (0.95, 0.95)
        share = first + (last - first) * number / self.job.search.num_trials
        return IMAGES["search"] * self.seconds_per_pass * share * (1 + 0.3 * (number * 7 % 5 - 2) / 2)

    def evaluate(self) -> None:
        self.emit("phase", phase="evaluate")
        total = IMAGES["search"] + IMAGES["test"]
        self.wait(5)
        for done in range(10, total + 1, 10):
            self.wait(10 * self.seconds_per_pass / self.job.resources.train.cpus)
            self.progress("evaluate", done, total, "images")


@dataclass
class Told:
    """What was told at a moment: (part of the run that is over, phase, estimate, truth in seconds)."""

    part: float
    phase: str | None
    estimate: float | None
    truth: float


def told(run: Simulated, asked_later: float = 0.0) -> Iterator[Told]:
    """After each event, and ``asked_later`` seconds after it; a driver that starts again knows what it has written."""
    phases = RunView({})
    for event in run.events:
        if event["event"] == "phase" and event["phase"] == "check":
            phases = RunView(json_round(phases.progress))
        phases.see(event)
        now = datetime.fromisoformat(event["time"]) + timedelta(seconds=asked_later)
        left = remaining_seconds(run.job, phases.phase, json_round(phases.progress), now)
        yield Told((now - START) / (run.now - START), phases.phase, left, (run.now - now).total_seconds())


def json_round(progress: dict[str, Progress]) -> dict[str, Progress]:
    """As read from the file that it was written to."""
    status = RunStatus(state="RUNNING", progress=progress, updated_at=START)
    return RunStatus.model_validate_json(json.dumps(status.model_dump(mode="json"))).progress


def off(told: Told) -> float:
    """By how much of the truth it is off; half a minute is no fault."""
    assert told.estimate is not None
    return max(0.0, abs(told.estimate - told.truth) - 30) / max(told.truth, 1.0)


def final(run: Simulated) -> dict[str, Progress]:
    phases = RunView({})
    for event in run.events:
        phases.see(event)
    return phases.progress


def test_nothing_is_told_before_anything_was_observed() -> None:
    run = Simulated(job()).run()
    first = next(place for place, one in enumerate(told(run)) if one.estimate is not None)
    assert run.events[first]["phase"] == "supernet"
    assert run.events[first]["done"] == 2, "one step from the first that was told to the next"
    assert remaining_seconds(run.job, "supernet", {}, START) is None


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("racing", [False, True])
def test_estimate_comes_near_and_nearer(workers: int, racing: bool) -> None:
    search = {"racing": {"confidence": 0.9}} if racing else {}
    shares = (0.9, 0.3) if racing else (0.95, 0.7)
    found = [
        one for one in told(Simulated(job(search=search), workers, shares=shares).run()) if one.estimate is not None
    ]
    assert all(one.estimate is not None and one.estimate >= 0 for one in found)
    assert {one.phase for one in found} == {"supernet", "search", "random", "retrain", "baselines", "evaluate"}
    for one in found:
        # What candidates share and are spared is not known before the search, and shows while it goes on.
        limit = {"supernet": 0.8, "search": 0.5}.get(one.phase or "", 0.2)
        assert off(one) <= limit, one
    later = [off(one) for one in found if one.phase == "search"][60:]
    assert max(later) <= 0.3


def test_recent_candidates_count_more_than_the_first() -> None:
    """A search whose candidates cost a fifth in the end: the mean of all is off by far more."""
    wanted = without_retraining({"random_baseline": False, "num_trials": 240})
    run = Simulated(wanted, shares=(1.0, 0.2), seconds_per_pass=1.0).run()
    began = next(event for event in run.events if event["event"] == "trial")
    ended = [event for event in run.events if event.get("phase") == "search" and event.get("done")]
    found = [one for one in told(run) if one.phase == "search" and one.estimate is not None]
    for event in ended[120:220:10]:
        seconds = (datetime.fromisoformat(event["time"]) - datetime.fromisoformat(began["time"])).total_seconds()
        by_mean = seconds / event["done"] * (event["total"] - event["done"])
        truth = (run.now - datetime.fromisoformat(event["time"])).total_seconds()
        estimate = next(one.estimate for one in found if one.truth == pytest.approx(truth))
        assert estimate is not None
        assert 0 <= estimate - truth < 0.8 * (by_mean - truth)


def without_retraining(search: dict[str, Any]) -> SearchJob:
    made = job(search=search)
    return made.model_copy(update={"retrain": None})


def test_killed_and_started_again_time_away_does_not_count() -> None:
    run = Simulated(job(), kill_at=50).run()
    again = next(place for place, event in enumerate(run.events) if place > 5 and event.get("phase") == "check")
    found = list(told(run))
    after = found[again + 2 :]
    assert all(one.estimate is not None for one in after), "it knows what it knew before"
    assert max(off(one) for one in after) < 0.5
    assert found[again + 1].estimate == pytest.approx(after[0].truth, rel=0.4)


def test_extended_search_has_the_new_candidates_and_another_winner_before_it() -> None:
    first = Simulated(job()).run()
    progress = final(first)
    extended = job(search={"num_trials": 240})
    run = Simulated(extended)
    run.check()
    phases = RunView(progress)
    for event in run.events:
        phases.see(event)
    left = remaining_seconds(extended, "check", phases.progress, run.now)
    assert left is not None
    one = {name: progress[name].seconds_per_unit or 0.0 for name in ("search", "random", "retrain", "baselines")}
    expected = 120 * one["search"] + 120 * one["random"]
    expected += sum(progress[name].total * one[name] for name in ("retrain", "baselines"))
    starts = sum(progress[name].start_seconds or 0.0 for name in (*one, "evaluate"))
    assert left == pytest.approx(expected + starts, rel=0.1)
    assert remaining_seconds(first.job, "check", progress, first.now) == 0


def test_number_stands_still_where_nothing_comes() -> None:
    run = Simulated(job()).run()
    middle = next(place for place, event in enumerate(run.events) if event.get("phase") == "random") - 20
    run.events = run.events[:middle]
    *_, at_once = told(run)
    *_, soon = told(run, asked_later=0.4)
    *_, late = told(run, asked_later=600)
    assert at_once.estimate is not None
    assert soon.estimate == pytest.approx(at_once.estimate - 0.4)
    *_, later = told(run, asked_later=6000)
    assert late.estimate == later.estimate
    assert late.estimate is not None
    assert late.estimate > 0.9 * at_once.estimate


def test_workers_of_another_kind_tell_nothing_of_candidates() -> None:
    run = Simulated(job(resources={"train": {"cpus": 2, "gpus": 1}, "search": {"cpus": 1}})).run()
    found = list(told(run))
    assert all(one.estimate is None for one in found if one.phase == "supernet"), "a GPU says nothing of a CPU"
    assert all(one.estimate is not None for one in found if one.phase == "search" and one.part > 0.5)
    *_, last = (one for one in found if one.phase == "search")
    assert last.estimate is not None, "random candidates cost what those of the search did"


def test_search_without_a_retraining_ends_with_its_candidates() -> None:
    run = Simulated(without_retraining({"random_baseline": False})).run()
    *_, last = told(run)
    assert (last.phase, last.estimate) == ("search", 0.0)


def test_retraining_of_a_trial_is_told_too() -> None:
    search = Simulated(job())
    search.check()
    search.train("retrain", search.job.retrain, 1)
    search.evaluate()
    spec = {**BODY, "kind": "retrain", "architecture": "s1:2x2|s2:2x2|s3:2x2|s4:2x2"}
    del spec["search"]
    retraining = parse_job(spec | {"retrain": search.job.retrain.model_dump() if search.job.retrain else {}})
    assert isinstance(retraining, RetrainJob)
    search.job = retraining  # type: ignore[assignment]
    found = [one for one in told(search) if one.estimate is not None and one.part > 0.2]
    assert {one.phase for one in found} == {"retrain", "evaluate"}
    assert max(off(one) for one in found) < 0.2


# Over REST


MOMENTS = ("began_at", "moved_at")


def drive(bench: Bench, search_id: str, run: Simulated, upto: int, **more: Any) -> Told:
    """The driver's status after so many events, as if the last of them was right now."""
    phases = RunView({})
    for event in run.events[:upto]:
        phases.see(event)
    moved = datetime.fromisoformat(run.events[upto - 1]["time"])
    now = datetime.now(timezone.utc)
    progress = {
        name: one.model_copy(
            update={field: getattr(one, field) and getattr(one, field) + (now - moved) for field in MOMENTS}
        )
        for name, one in phases.progress.items()
    }
    bench.drive(search_id, phase=phases.phase, progress=progress, **more)
    bench.round()
    return Told(0, phases.phase, None, (run.now - moved).total_seconds())


def test_search_tells_its_end_while_it_goes_on_and_not_otherwise(bench: Bench) -> None:
    body = job().model_dump(mode="json", exclude={"kind"})
    body["data"] = BODY["data"]
    body.pop("init")
    run = Simulated(job()).run()
    search_id = bench.submit(body)
    assert bench.get(search_id)["expected_end_at"] is None
    bench.round()
    bench.jobs.states[search_id] = JobState.RUNNING
    drive(bench, search_id, run, 1)
    assert bench.get(search_id)["expected_end_at"] is None
    middle = next(place for place, event in enumerate(run.events) if event.get("phase") == "random") - 20
    truth = drive(bench, search_id, run, middle).truth
    found = bench.get(search_id)
    left = (datetime.fromisoformat(found["expected_end_at"]) - datetime.now(timezone.utc)).total_seconds()
    assert left == pytest.approx(truth, rel=0.3, abs=40)
    assert found["progress"]["search"]["seconds_per_unit"] > 0
    (listed,) = bench.http.get("/v1/searches").json()["searches"]
    assert listed["expected_end_at"] is not None
    bench.http.post(f"/v1/searches/{search_id}/pause")
    assert bench.get(search_id)["expected_end_at"] is None
    bench.round()
    bench.http.post(f"/v1/searches/{search_id}/resume")
    assert bench.get(search_id)["expected_end_at"] is None
    bench.round()
    assert bench.get(search_id)["expected_end_at"] is not None, "it has not begun anew"
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    assert bench.get(search_id)["expected_end_at"] is None


def test_time_left_is_said_as_precisely_as_it_is_known() -> None:
    now = datetime.now(timezone.utc)
    said = [
        (30, "less than a minute"),
        (-30, "less than a minute"),
        (12 * 60 + 20, "about 12 min"),
        (5 * 3600, "about 5.0 h"),
        (72 * 3600, "about 3.0 days"),
    ]
    for seconds, text in said:
        assert time_left(now + timedelta(seconds=seconds)) == text
    assert time_left(None) == expected_end(None) == ""
    at = (now + timedelta(days=3)).astimezone()
    assert expected_end(at) == f"in about 3.0 days, at {at:%Y-%m-%d %H:%M}"
