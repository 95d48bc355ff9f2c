"""Jobs without Ray: by one worker in the driver's process, with the same study and the same way to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster import cli, ray_tune
from cluster.config import Job, parse_job
from cluster.connect import NO_RAY
from cluster.driver import run_job
from cluster.run_folder import RunFolder
from cluster.training_place import Checkpoints, Place
from nas.study import TrialState, find_trials, open_storage
from slicemamba.errors import InputError, RunFailedError

TRAINING = {"epochs": 4, "batch_size": 4}
JOB: dict[str, Any] = {
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 2, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "supernet": {**TRAINING, "num_val_architectures": 0},
    "search": {"searcher": "random", "objectives": ["dice", "params"], "num_trials": 6},
    "finals": {"max_candidates": 2, "rounds": 1},
    "retrain": TRAINING,
    "baselines": [],
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray.is_initialized()


def job(**parts: Any) -> Job:
    return parse_job(JOB | parts)


def epochs(run: RunFolder) -> list[tuple[str, int]]:
    return [(event["phase"], event["epoch"]) for _, event in run.events() if event["event"] == "epoch"]


class Interrupted:
    """Interrupts at the n-th call, and does the work at all others."""

    def __init__(self, work: Callable[..., Any], at: int) -> None:
        self._work, self._left = work, at

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return self._work(*arguments, **more)


def test_a_search_stopped_in_each_phase_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    expected = run_job(job(), whole, address=NO_RAY)
    keep, step = Place.keep, ray_tune.SlicingTrial.step
    for owner, name, work, at in ((Place, "keep", keep, 3), (ray_tune.SlicingTrial, "step", step, 4)):
        interrupt = Interrupted(work, at)
        monkeypatch.setattr(owner, name, lambda self, *given, call=interrupt: call(self, *given))
        with pytest.raises(KeyboardInterrupt):
            run_job(job(), stopped, address=NO_RAY)
        monkeypatch.setattr(owner, name, work)
    found = run_job(job(), stopped, address=NO_RAY)
    assert not ray.is_initialized()
    # The third epoch of the supernet was interrupted as it was to be kept, and was done again; all else was done once.
    again = ("supernet", 3)
    assert epochs(stopped) == [*epochs(whole)[:3], again, *epochs(whole)[3:]]
    trials = [find_trials(open_storage(run.study_location), "search") for run in (whole, stopped)]
    assert [t.state for t in trials[1]] == [TrialState.COMPLETED] * 6
    assert [(t.architecture, t.metrics["dice"]) for t in trials[0]] == [
        (t.architecture, t.metrics["dice"]) for t in trials[1]
    ]
    assert found["best"] == expected["best"]
    assert found["retrained"]["scores"] == expected["retrained"]["scores"]


def test_faults_are_told_as_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = job(resources={"train": {"num_workers": 2, "cpus": 0.1}})
    with pytest.raises(InputError, match="several training workers need Ray; set"):
        run_job(several, RunFolder(tmp_path / "several"), address=NO_RAY)
    with pytest.raises(InputError, match="this machine has too few CPUs or GPUs"):
        run_job(job(resources={"train": {"cpus": 4096}}), RunFolder(tmp_path / "large"), address=NO_RAY)
    diverging = job(supernet={**JOB["supernet"], "learning_rate": 1e30, "clip_grad_norm": None})
    with pytest.raises(RunFailedError, match=r"training failed: the (loss|gradient)"):
        run_job(diverging, RunFolder(tmp_path / "diverging"), address=NO_RAY)

    def short_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Checkpoints, "last", short_of_memory)
    monkeypatch.setenv("RAY_ADDRESS", NO_RAY)  # as well as by --address
    with pytest.raises(RunFailedError, match="training failed: CUDA out of memory"):
        run_job(job(), RunFolder(tmp_path / "memory"))
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("resources", "address"),
    [
        ({"search": {"num_workers": 1}}, NO_RAY),
        ({"search": {"num_workers": 2}}, None),
        ({}, None),
        ({"train": {"num_workers": 2}, "search": {"num_workers": 1}}, None),
    ],
)
def test_ray_is_started_for_several_workers_only(
    resources: dict[str, Any], address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli._default_address(job(resources=resources)) == address
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cli._default_address(job(resources=resources)) is None
