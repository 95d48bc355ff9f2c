"""Ray Train on two workers: the same training as by one, as all draw the same path and share the batch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from cluster import ray_train
from cluster.local import RayHead
from cluster.run_folder import RunFolder
from slicemamba.errors import RunFailedError
from slicemamba.models.checkpoints import load_network
from slicemamba.models.supernet import Supernet

JOB = {
    "kind": "supernet",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 12, "num_val": 2, "num_search": 2, "num_test": 2},
    },
    # Augmentation and stochastic depth are drawn for each worker, so they are left out of the comparison.
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1], "drop_path_rate": 0.0},
    "supernet": {"epochs": 3, "batch_size": 4, "t_max": 3, "num_val_architectures": 1, "augment": False},
}


def train(head: RayHead, folder: Path, num_workers: int) -> list[float]:
    """Losses of the epochs."""
    job = JOB | {"resources": {"train": {"num_workers": num_workers}}}
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(job))
    environment = head.environment | {"SLICEMAMBA_CACHE": str(folder.parent / "cache")}
    command = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(folder)]
    command += ["--address", head.gcs if num_workers > 1 else "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    return [epoch["loss"] for epoch in result["supernet"]["epochs"]]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_workers_train_as_one_does(head: RayHead, tmp_path: Path) -> None:
    one, two = train(head, tmp_path / "one", 1), train(head, tmp_path / "two", 2)
    assert len(one) == 3
    # The Dice part of the loss is a mean over images, so the mean over two half batches is that over the batch.
    assert two == pytest.approx(one, rel=1e-4)
    networks = [load_network(tmp_path / name / "supernet") for name in ("one", "two")]
    assert all(isinstance(network, Supernet) for network in networks)
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert first.detach().numpy() == pytest.approx(second.detach().numpy(), abs=2e-3)
    # Where two have trained, one finds their last checkpoint, and has nothing left to do.
    (tmp_path / "two" / "result.json").unlink()
    shutil.rmtree(tmp_path / "two" / "supernet")
    assert train(head, tmp_path / "two", 1) == two
    epochs = [event for _, event in RunFolder(tmp_path / "two").events() if event["event"] == "epoch"]
    assert len(epochs) == 3
    assert (tmp_path / "two" / "supernet" / "weights.safetensors").is_file()


class Falling:
    """A trainer that falls with each of these errors in turn, and then trains."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.trained = False

    def __call__(self) -> Falling:
        return self

    def fit(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.trained = True


def warnings(run: RunFolder) -> list[str]:
    return [event["message"] for _, event in run.events() if event["event"] == "warning"]


def test_death_that_ray_train_gives_up_for_is_tried_again(tmp_path: Path) -> None:
    died, run = ActorDiedError(), RunFolder(tmp_path / "run")
    trainer = Falling(ControllerError(died), died, ControllerError(died))  # while a group starts; the controller itself
    ray_train._fit(trainer, run, "retrain")  # type: ignore[arg-type]
    assert trainer.trained
    assert len(warnings(run)) == 3
    assert "continuing from the last checkpoint" in warnings(run)[0]
    with pytest.raises(RunFailedError, match="training failed: The actor died"):
        ray_train._fit(Falling(*[died] * 4), run, "retrain")  # type: ignore[arg-type]
    assert len(warnings(run)) == 6


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ControllerError(ValueError("no such strategy")), "training failed: no such strategy"),
        (
            ControllerError(
                RuntimeError("\x1b[36mray::RayTrainWorker.run()\x1b[39m (pid=1)\nImportError: no module x")
            ),
            "training failed: ImportError: no module x",
        ),
        (
            WorkerGroupError("", {1: RuntimeError("Traceback\nRuntimeError: the loss is nan")}),
            "after its retries: RuntimeError: the loss is nan",
        ),
        (
            WorkerGroupError("", {0: UserExceptionWithTraceback(OSError(28, "No space left"), "Traceback")}),
            "is full; free space and run again; the run continues from here",
        ),
    ],
)
def test_fault_of_the_training_itself_is_told_at_once(error: Exception, says: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RunFailedError, match=says):
        ray_train._fit(Falling(error), run, "supernet")  # type: ignore[arg-type]
    assert not warnings(run)
