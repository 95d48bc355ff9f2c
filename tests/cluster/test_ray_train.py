"""Ray Train on two workers: the same training as on one, as all draw the same path and share the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def train(folder: Path, num_workers: int) -> list[float]:
    """Losses of the epochs."""
    job = JOB | {"resources": {"train": {"num_workers": num_workers}}}
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(job))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"SLICEMAMBA_CACHE": str(folder.parent / "cache"), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    return [epoch["loss"] for epoch in result["supernet"]["epochs"]]


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two training workers need two cores")
def test_two_workers_train_as_one_does(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one", 1), train(tmp_path / "two", 2)
    assert len(one) == 3
    # The Dice part of the loss is a mean over images, so the mean over two half batches is that over the batch.
    assert two == pytest.approx(one, rel=1e-4)
    networks = [load_network(tmp_path / name / "supernet") for name in ("one", "two")]
    assert all(isinstance(network, Supernet) for network in networks)
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert first.detach().numpy() == pytest.approx(second.detach().numpy(), abs=2e-3)
