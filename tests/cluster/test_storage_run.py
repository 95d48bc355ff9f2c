"""A run whose node is lost: killed, its folder gone, and taken up from the store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from cluster.local import stop_tree
from cluster.run_folder import RunFolder
from nas.study import find_trials, open_storage

JOB = {
    "data": {
        "name": "synthetic",
        "image_size": [48, 48],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 2, "num_test": 2},
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
        "racing": {"confidence": 0.6, "min_images": 1},
    },
    "retrain": None,
    "resources": {"search": {"num_workers": 1}},
}


def outcome(run: RunFolder) -> list[object]:
    trials = find_trials(open_storage(run.study_location), "search")
    result = run.read_json("result.json") or {}
    return [[(t.architecture, t.state, t.metrics, t.violation) for t in trials], result["best"], result["hypervolume"]]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_whose_node_is_lost_goes_on_from_the_store_to_the_same_result(tmp_path: Path) -> None:
    import boto3

    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(JOB))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    boto3.resource("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key",
                   aws_secret_access_key="secret").create_bucket(Bucket="runs")  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled", "AWS_ENDPOINT_URL": url}
    environment |= keys

    def command(run: RunFolder, *more: str) -> list[str]:
        options = ["--config", str(config), "--run-dir", str(run.path), *more]
        return [sys.executable, "-m", "cluster.entrypoint", *options]

    undisturbed, lost, found = (RunFolder(tmp_path / name / "run") for name in ("whole", "lost", "found"))
    subprocess.run(command(undisturbed), env=environment, check=True, stdin=subprocess.DEVNULL)

    first = subprocess.Popen(command(lost, "--store", "s3://runs"), env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not any(event["event"] == "trial" and event["number"] >= 15 for _, event in lost.events()):
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    stop_tree(first.pid)
    first.wait()
    shutil.rmtree(lost.path)

    again = command(found, "--store", "s3://runs")
    done = subprocess.run(again, env=environment, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    server.stop()
    assert "files of run from the store" in done.stdout
    assert len([event for _, event in found.events() if event["event"] == "phase" and event["phase"] == "check"]) == 2
    assert outcome(found) == outcome(undisturbed)
