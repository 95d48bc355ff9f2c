"""What Tune's workers report, and what becomes of the candidates: the searcher between Tune and the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from cluster import ray_tune
from cluster.config import SearchJob, parse_job
from cluster.ray_tune import SlicingTrial, _SessionSearcher
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState
from slicemamba.errors import InputError, RunFailedError

JOB = {
    "data": {"name": "synthetic", "image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "search": {
        "objectives": ["dice", "miou"],
        "num_trials": 6,
        "population_size": 4,
        "num_parents": 2,
        "num_mutations": 2,
        "num_crossovers": 1,
    },
}
DONE = {"metrics/dice": 0.5, "metrics/miou": 0.4, "work/images": 3, "seconds": 0.1, "pruned": False}


@pytest.fixture
def job() -> SearchJob:
    parsed = parse_job(JOB)
    assert isinstance(parsed, SearchJob)
    return parsed


class Harness:
    """A searcher on a session of six candidates, and what it told."""

    def __init__(self, job: SearchJob, folder: Path, room: Callable[[], int] = lambda: 1) -> None:
        self.study = Study(folder / "search.journal", "search", job.search_space, job.search.objectives, "evolution")
        self.session = SearchSession(
            self.study, make_searcher(job.search, job.search_space), origin="evolution", num_trials=6
        )
        self.told: list[Trial] = []
        self.lost: list[tuple[int, int, str | None]] = []
        self.searcher = _SessionSearcher(
            self.session, self.told.append, room, lambda trial, *how: self.lost.append((trial.number, *how))
        )
        self._asked = 0

    def suggest(self) -> Any:
        """A suggestion, with Tune's own id of it."""
        self._asked += 1
        suggested = self.searcher.suggest(f"t{self._asked}")
        return (f"t{self._asked}", suggested) if isinstance(suggested, dict) else suggested

    def to_the_end(self) -> None:
        while (suggestion := self.suggest()) != _SessionSearcher.FINISHED:
            self.searcher.on_trial_complete(suggestion[0], DONE)


def test_candidate_of_a_dead_worker_is_handed_out_again_under_its_number(job: SearchJob, tmp_path: Path) -> None:
    quiet, disturbed = Harness(job, tmp_path / "quiet"), Harness(job, tmp_path / "disturbed")
    quiet.to_the_end()
    first = disturbed.suggest()
    disturbed.searcher.on_trial_complete(first[0], None, error=True)
    again = disturbed.suggest()
    assert again[1] == first[1]
    assert disturbed.lost == [(0, 1, None)]
    disturbed.searcher.on_trial_complete(again[0], DONE)
    disturbed.to_the_end()
    times = {"started_at", "ended_at"}
    assert [t.model_dump(exclude=times) for t in disturbed.told] == [t.model_dump(exclude=times) for t in quiet.told]


def test_candidate_that_kills_its_workers_fails_in_the_end(job: SearchJob, tmp_path: Path) -> None:
    harness = Harness(job, tmp_path)
    for _ in range(4):
        harness.searcher.on_trial_complete(harness.suggest()[0], None, error=True)
    assert harness.lost == [(0, 1, None), (0, 2, None), (0, 3, None)]
    [failed] = harness.told
    assert (failed.number, failed.state) == (0, TrialState.FAILED)
    assert failed.error is not None
    assert "died in all 4 evaluations" in failed.error
    harness.to_the_end()
    assert [trial.number for trial in harness.told] == [0, 1, 2, 3, 4, 5]


def test_as_many_are_handed_out_as_there_is_room_for_at_the_moment(job: SearchJob, tmp_path: Path) -> None:
    room = 1
    harness = Harness(job, tmp_path, lambda: room)
    first = harness.suggest()
    assert harness.suggest() is None
    room = 3  # a node joins
    second, third = harness.suggest(), harness.suggest()
    assert harness.suggest() is None
    room = 1  # and leaves with two candidates
    for lost in (second, third):
        harness.searcher.on_trial_complete(lost[0], None, error=True)
    assert harness.suggest() is None
    harness.searcher.on_trial_complete(first[0], DONE)
    assert harness.suggest()[1]["number"] == second[1]["number"]


@pytest.mark.parametrize("where", ["worker", "study", "ask"])
def test_what_is_no_candidates_fault_ends_the_search_and_fails_none(job: SearchJob, tmp_path: Path, where: str) -> None:
    harness = Harness(job, tmp_path)
    suggestion = harness.suggest()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if where == "worker":
        harness.searcher.on_trial_complete(suggestion[0], {"broken": "a worker on n1: No space left on device"})
    elif where == "study":
        harness.study.complete = full  # type: ignore[method-assign,assignment]
        harness.searcher.on_trial_complete(suggestion[0], DONE)
    else:
        harness.searcher.on_trial_complete(suggestion[0], DONE)
        harness.study.start = full  # type: ignore[method-assign,assignment]
        assert harness.suggest() is None
    assert "No space left on device" in str(harness.searcher.broken)
    assert isinstance(harness.searcher.broken, RunFailedError if where == "worker" else OSError)
    assert ray_tune._StopWhenBroken(harness.searcher).stop_all()
    assert all(trial.state is not TrialState.FAILED for trial in harness.study.trials())


def test_candidate_that_gives_nan_is_infeasible_and_the_search_goes_on(job: SearchJob, tmp_path: Path) -> None:
    harness = Harness(job, tmp_path)
    harness.searcher.on_trial_complete(harness.suggest()[0], DONE | {"metrics/dice": float("nan")})
    harness.to_the_end()
    assert [trial.state for trial in harness.told] == [TrialState.INFEASIBLE] + [TrialState.COMPLETED] * 5
    assert harness.told[0].error == "not finite: dice = nan"


class Broken:
    """An evaluator that raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def score(self, *_: object, **__: object) -> None:
        raise self._error


def worker(error: Exception) -> SlicingTrial:
    trial = object.__new__(SlicingTrial)
    trial.config = {"number": 0, "architecture": "s1:2x2|s2:2x2", "reference": [], "peers": []}
    trial._broken, trial._evaluator = None, Broken(error)  # type: ignore[assignment]
    return trial


@pytest.mark.parametrize("error", [RuntimeError("shapes"), MemoryError("no room"), RuntimeError("CUDA out of memory")])
def test_candidates_own_fault_is_told_with_the_reason(error: Exception) -> None:
    said = worker(error).step()
    assert said == {"failure": f"{type(error).__name__}: {error}", tune.result.DONE: True}


def test_storage_is_not_the_candidates_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "_FAULT_SECONDS", 0)
    assert "No space left" in worker(OSError(28, "No space left on device")).step()["fault"]


def test_fault_of_one_workers_storage_gets_the_tries_of_a_dead_worker(job: SearchJob, tmp_path: Path) -> None:
    harness, fault = Harness(job, tmp_path), "a worker on n1: Stale file handle"
    for _ in range(3):
        harness.searcher.on_trial_complete(harness.suggest()[0], {"fault": fault})
    assert harness.lost == [(0, 1, fault), (0, 2, fault), (0, 3, fault)]
    assert harness.searcher.broken is None
    harness.to_the_end()
    assert [trial.state for trial in harness.told] == [TrialState.COMPLETED] * 6


def test_fault_of_storage_that_lasts_ends_the_search_and_fails_no_candidate(job: SearchJob, tmp_path: Path) -> None:
    harness = Harness(job, tmp_path)
    for _ in range(4):
        harness.searcher.on_trial_complete(harness.suggest()[0], {"fault": "a worker on n1: the disk is full"})
    assert "the disk is full; fix it and run again" in str(harness.searcher.broken)
    assert harness.told == []


def test_worker_that_lost_its_gpu_is_given_up_and_the_candidate_tried_on_another() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        worker(RuntimeError("CUDA error: an illegal memory access was encountered")).step()


def test_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object, **__: object) -> None:
        raise InputError("the images are not to be found on this node")

    monkeypatch.setattr(SlicingTrial, "_prepare", prepare)
    trial = object.__new__(SlicingTrial)
    trial.setup({})
    assert "cannot start: InputError: the images are not to be found on this node" in trial.step()["broken"]
