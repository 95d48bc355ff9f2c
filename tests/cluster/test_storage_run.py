"""Runs and jobs whose node is lost: killed, their folder gone, and taken up from the store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.follow_up import job_folder
from cluster.local import stop_tree
from cluster.object_store import open_store
from cluster.run_folder import RunFolder
from cluster.storage import mirrored
from nas.study import find_trials, open_storage

JOB = {
    "data": {
        "name": "synthetic",
        "image_size": [48, 48],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 12, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "supernet": {"epochs": 2, "batch_size": 4, "t_max": 2, "num_val_architectures": 0},
    "search": {
        "searcher": "evolution",
        "objectives": ["dice", "miou"],
        "num_trials": 40,
        "population_size": 6,
        "num_parents": 2,
        "num_mutations": 3,
        "num_crossovers": 2,
        "racing": {"confidence": 0.6, "min_images": 6},
        "batch_size": 3,
    },
    "retrain": None,
    "resources": {"search": {"num_workers": 1}},
}


ARCHITECTURE = "s1:2x2|s2:2x4|s3:4x2|s4:4x4"
RETRAIN: dict[str, Any] = {
    "kind": "retrain",
    "data": JOB["data"],
    "model": JOB["model"],
    "architecture": ARCHITECTURE,
    "retrain": {"epochs": 6, "batch_size": 4, "t_max": 6},
}
STORE = ("--store", "s3://runs")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("bucket")]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return variables | {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled"}


def command(run: RunFolder, *more: str) -> list[str]:
    return [sys.executable, "-m", "cluster.entrypoint", "--run-dir", str(run.path), *more]


def killed_when(started: list[str], environment: dict[str, str], reached: Callable[[], bool]) -> None:
    """Runs a driver until it has got so far, and then kills it."""
    process = subprocess.Popen(started, env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    stop_tree(process.pid)
    process.wait()


def outcome(run: RunFolder) -> list[object]:
    trials = find_trials(open_storage(run.study_location), "search")
    result = run.read_json("result.json") or {}
    return [[(t.architecture, t.state, t.metrics, t.violation) for t in trials], result["best"], result["hypervolume"]]


def test_run_whose_node_is_lost_goes_on_from_the_store_to_the_same_result(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(JOB))
    job = ("--config", str(config))
    undisturbed, lost, found = (RunFolder(tmp_path / name / "run") for name in ("whole", "lost", "found"))
    subprocess.run(command(undisturbed, *job), env=environment, check=True, stdin=subprocess.DEVNULL)

    def reached() -> bool:
        return any(event["event"] == "trial" and event["number"] >= 15 for _, event in lost.events())

    killed_when(command(lost, *job, *STORE), environment, reached)
    shutil.rmtree(lost.path)

    again = command(found, *job, *STORE)
    done = subprocess.run(again, env=environment, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "files of run from the store" in done.stdout
    assert len([event for _, event in found.events() if event["event"] == "phase" and event["phase"] == "check"]) == 2
    assert outcome(found) == outcome(undisturbed)


def test_retraining_of_a_trial_whose_node_is_lost_goes_on_from_the_store(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Run and job are stored apart; on the new node there is what the service has put there: the job's config.json."""
    whole, lost = (RunFolder(tmp_path / name / "s-1") for name in ("whole", "lost"))
    for run in (whole, lost):
        job_folder(run, "j-1").write_json("config.json", RETRAIN)
    subprocess.run(command(job_folder(whole, "j-1")), env=environment, check=True, stdin=subprocess.DEVNULL)
    with mirrored(lost, STORE[1]):
        lost.write_json("config.json", JOB)
    job = job_folder(lost, "j-1")

    def reached() -> bool:
        """The third epoch has begun, and what the second has left is in the store."""
        store = open_store(STORE[1], "s-1/jobs/j-1")
        files = [store.read(name) or b"" for name in store.names("attempts/1/events")]
        lines = [line for content in files for line in content.splitlines()]
        return sum(json.loads(line)["event"] == "epoch" for line in lines) >= 2

    killed_when(command(job, *STORE), environment, reached)
    shutil.rmtree(lost.path)

    job.write_json("config.json", RETRAIN)
    again = command(job, *STORE)
    done = subprocess.run(again, env=environment, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "files of s-1 from the store" in done.stdout
    assert "files of j-1 from the store" in done.stdout
    assert lost.read_json("config.json") == JOB

    def losses(folder: RunFolder) -> list[float]:
        epochs = (folder.read_json("result.json") or {})["retrained"]["epochs"]
        return [row["loss"] for row in epochs]

    assert losses(job) == losses(job_folder(whole, "j-1"))
    trained = [event["epoch"] for _, event in job.events() if event["event"] == "epoch"]
    assert trained[:2] == [1, 2]
    assert trained[2] in (2, 3), "it went on from its last checkpoint"
    assert "result.json" in open_store(STORE[1], "s-1/jobs/j-1").names()
