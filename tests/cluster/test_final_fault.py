"""A training ends at once with a fault that would come again; all else Ray may try again."""

from __future__ import annotations

import os
import pickle
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RetrainJob
from cluster.final_fault import FinalFault
from cluster.ray_train import run_workers
from cluster.run_folder import RunFolder
from slicemamba.data.findings import BadFileError, Fault
from slicemamba.errors import InputError, RunFailedError
from slicemamba.training.trainer import TrainingDivergedError


def raise_error(error: Exception, config: dict[str, Any]) -> None:
    raise error


def note(path: Path, config: dict[str, Any]) -> None:
    path.touch()


def test_fault_of_the_data_ends_all_workers_and_is_raised_by_the_driver(tmp_path: Path) -> None:
    fault = FinalFault(tmp_path / ".ray" / "fault.json")
    error = BadFileError(Fault.BROKEN, "x$y^$.png")
    fault.run(partial(raise_error, error), {})
    pickle.loads(pickle.dumps(partial(fault.run, partial(note, tmp_path / "called"))))({})  # as in another process
    assert not (tmp_path / "called").exists()
    with pytest.raises(InputError, match=r"x\$y\^\$.png; replace it") as caught:
        fault.tell()
    assert caught.value.pointer == "/data"
    fault.forget()
    fault.tell()
    fault.run(partial(note, tmp_path / "called"), {})
    assert (tmp_path / "called").exists()


def test_diverged_training_fails_with_its_reason(tmp_path: Path) -> None:
    fault = FinalFault(tmp_path / "fault.json")
    fault.run(partial(raise_error, TrainingDivergedError("the loss is nan at step 2")), {})
    with pytest.raises(RunFailedError, match="training failed: the loss is nan at step 2"):
        fault.tell()


def test_other_errors_are_left_to_ray(tmp_path: Path) -> None:
    fault = FinalFault(tmp_path / "fault.json")
    with pytest.raises(RuntimeError, match="a node died"):
        fault.run(partial(raise_error, RuntimeError("a node died")), {})
    fault.tell()


@pytest.mark.ray
def test_a_dead_worker_is_replaced_and_a_fault_of_the_data_is_not_tried_again(
    tmp_path: Path, small_cluster: object
) -> None:
    def dies_and_meets_a_bad_file(config: dict[str, Any]) -> None:  # in here, as workers cannot import this module
        calls = Path(config["run"]) / "called"
        with calls.open("a") as file:
            file.write("x")
        if calls.read_text() == "x":
            os.kill(os.getpid(), signal.SIGKILL)
        raise BadFileError(Fault.BROKEN, "a.png")

    run = RunFolder(tmp_path / "run")
    job = RetrainJob(network="unet")
    with pytest.raises(InputError, match=r"cannot be read as a picture: a\.png"):
        run_workers(dies_and_meets_a_bad_file, job, run, job.retrain, 8, phase="retrain")
    assert (run.path / "called").read_text() == "xx"


def test_worker_on_a_disk_of_its_own_is_told_of(tmp_path: Path) -> None:
    def trains_elsewhere(config: dict[str, Any]) -> None:
        """Its checkpoints are not where the driver looks."""

    job = RetrainJob(network="unet")
    with pytest.raises(RunFailedError, match="put runs on storage that all nodes of the cluster share"):
        run_workers(trains_elsewhere, job, RunFolder(tmp_path / "run"), job.retrain, 8, phase="retrain")
