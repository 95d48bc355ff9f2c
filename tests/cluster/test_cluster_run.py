"""A search as a Ray job: what the job says of itself, and what Ray's metrics say of it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from cluster import jobs
from cluster.jobs import JobState
from cluster.local import RayHead, ray_head
from cluster.run_folder import RunFolder
from nas.study import find_trials, open_storage, pareto_front

NUM_TRIALS = 30
JOB = {
    "data": {
        "name": "synthetic",
        "image_size": [48, 48],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 2, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "supernet": {"epochs": 2, "batch_size": 4, "t_max": 2, "num_val_architectures": 0},
    "search": {
        "searcher": "random",
        "objectives": ["dice", "latency_ms"],
        "latency": "table",
        "num_trials": NUM_TRIALS,
    },
    "retrain": None,
    "resources": {"search": {"cpus": 2, "num_workers": 1}},
}
SAMPLE = re.compile(r"ray_(slicemamba_\w+)\{(.*)\} (\S+)")


class Metrics:
    """The latest value of each of a run's samples that was seen at the endpoint: the driver's end with the driver."""

    def __init__(self, url: str, run: str) -> None:
        self._url = url
        self._run = run
        self.values: dict[str, dict[str, float]] = defaultdict(dict)

    def scrape(self) -> None:
        with urllib.request.urlopen(self._url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        for found in filter(None, map(SAMPLE.match, lines)):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
            if labels.get("run") == self._run:
                own = [labels[key] for key in ("phase", "state", "source", "figure", "le") if key in labels]
                self.values[found[1]][" ".join(own)] = float(found[3])


def submit(head: RayHead, folder: Path, config: Path) -> None:
    """Tries again while the new head has no agent yet."""
    # In a shell, as a user's job may have this variable: it must not decide how many threads the workers take.
    command = ["env", "OMP_NUM_THREADS=1", f"SLICEMAMBA_CACHE={folder / 'cache'}", sys.executable]
    command += ["-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(folder / "run")]
    deadline = time.monotonic() + 120
    while True:
        try:
            return jobs.submit_run(head.dashboard, "s-metrics", folder / "run", command)
        except jobs.ClusterUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_search_shows_itself_in_metrics_status_and_log(tmp_path: Path, head: RayHead) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(JOB))
    run = RunFolder(tmp_path / "run")
    submit(head, tmp_path, config)
    metrics = Metrics(head.metrics, "run")
    while not ((state := jobs.job_state(head.dashboard, "s-metrics")) and state.ended):
        metrics.scrape()
        time.sleep(0.2)
    log = jobs.job_logs(head.dashboard, "s-metrics") or ""
    assert state is JobState.SUCCEEDED, log
    # Reported every few seconds, and kept by the node for a while when the process that set them has ended.
    deadline = time.monotonic() + 60
    while sum(metrics.values["slicemamba_candidates"].values()) < NUM_TRIALS:
        assert time.monotonic() < deadline, dict(metrics.values)
        metrics.scrape()
        time.sleep(0.5)

    result, status = run.read_json("result.json"), run.read_status()
    assert result is not None
    assert status is not None
    assert status.job_id == "s-metrics"
    seen = metrics.values
    assert seen["slicemamba_candidates"]["search COMPLETED"] == NUM_TRIALS
    assert seen["slicemamba_candidates_running"]["search"] <= 1
    trials = find_trials(open_storage(run.study_location), "search")
    assert seen["slicemamba_front_size"]["search"] == len(pareto_front(trials, ("dice", "latency_ms")))
    assert seen["slicemamba_hypervolume"]["search"] == pytest.approx(result["hypervolume"]["search"])
    assert seen["slicemamba_hypervolume"]["search"] == status.progress["search"].metrics["hypervolume"]
    assert seen["slicemamba_best"]["search"] == result["best"]["metrics"]["dice"]
    assert seen["slicemamba_candidate_seconds_count"]["search"] == NUM_TRIALS
    blocks = seen["slicemamba_blocks_total"]
    assert blocks["search computed"] + blocks["search reused"] == NUM_TRIALS * 2 * 4
    assert seen["slicemamba_training_steps_planned"]["supernet"] == 4

    # Workers take as many threads as CPUs, though the job came with OMP_NUM_THREADS=1.
    assert (run.read_json("latencies.json") or {})["device"] == "cpu, 2 threads"
    lines = log.splitlines()
    assert f"run folder: {run.path}" in lines
    assert any(re.match(r"Search: 30/30 trials  front \d+  hypervolume \S+  best_dice \S+", line) for line in lines)
    assert lines[-1] == f"done: {run.result_path}"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("way", "kind"), [("gcs", "search"), ("client", "supernet")])
def test_driver_outside_of_ray_works_on_a_cluster(tmp_path: Path, way: str, kind: str) -> None:
    """By way of HEAD:PORT, and of ray:// for trainings."""
    config, run = tmp_path / "job.yaml", RunFolder(tmp_path / "run")
    job = {name: part for name, part in JOB.items() if kind == "search" or name not in ("search", "retrain")}
    config.write_text(yaml.safe_dump(job | {"kind": kind, "resources": {}}))
    with ray_head(num_cpus=2, log=tmp_path / "ray.log") as head:
        command = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(run.path)]
        command += ["--address", getattr(head, way)]
        environment = head.environment | {"SLICEMAMBA_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    result, status = run.read_json("result.json"), run.read_status()
    assert result is not None
    assert len(result["supernet"]["epochs"]) == 2
    assert status is not None
    assert (status.state, status.job_id) == ("SUCCEEDED", None)
