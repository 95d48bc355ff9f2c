"""Nodes that join and leave in the middle of a search, and a worker that is killed: several Ray nodes, one machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import cloudpickle
from ray.cluster_utils import Cluster

from cluster import ray_tune
from cluster.config import SearchJob, parse_job
from cluster.run_folder import RunFolder
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState
from slicemamba.models.checkpoints import save_network
from slicemamba.models.supernet import Supernet

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # Ray takes its time to miss a node

JOB = {
    "data": {"name": "synthetic", "image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "search": {"searcher": "random", "objectives": ["dice"], "num_trials": 12, "evaluate_fixed": False},
}
_WAIT_SECONDS = 240.0


class GatedTrial(ray_tune.SlicingTrial):
    """Leaves a note of each evaluation, <number>-<process>, and waits for the gate before it ends it."""

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        self._folder = Path(given["run_path"])
        self._broken = None

    def _evaluate(self) -> dict[str, Any]:
        note = self._folder / f"{self.config['number']}-{os.getpid()}"
        note.touch()
        while not (self._folder / "gate").exists():
            time.sleep(0.02)
        return {"pruned": False, "metrics": {"dice": self.config["number"] / 100}, "work": {}, "seconds": 0.1}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_candidates_follow_the_nodes_and_none_is_lost(small_cluster: Cluster, tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this module
    job = parse_job(JOB)
    assert isinstance(job, SearchJob)
    run = RunFolder(tmp_path / "run")
    study = Study(run.study_location, "search", job.search_space, ("dice",), "random")
    session = SearchSession(study, make_searcher(job.search, job.search_space), origin="random", num_trials=12)
    save_network(tmp_path / "supernet", Supernet(job.model, 1, job.space.choices, "separate"), job.data)

    def notes() -> set[tuple[int, int]]:
        return {(int(number), int(pid)) for number, pid in (file.name.split("-") for file in run.path.glob("*-*"))}

    def numbers(found: set[tuple[int, int]]) -> list[int]:
        return sorted(number for number, _ in found)

    told: list[Trial] = []
    arguments = (job, session, tmp_path / "supernet", run, tmp_path)
    # The cluster is changed from the main thread, as Ray starts nodes from there alone.
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(ray_tune.search, *arguments, name="search", on_trial=told.append, worker=GatedTrial)
        try:
            wait_for(lambda: len(notes()) == 1)
            [(first, at_home)] = notes()
            node = small_cluster.add_node(num_cpus=2)
            wait_for(lambda: len(notes()) == 3)  # three at the same time, as none can end yet
            joined = notes() - {(first, at_home)}
            assert numbers(notes()) == [0, 1, 2]
            twice, victim = max(joined)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(notes()) == 4)
            assert numbers(notes() - joined) == sorted([first, twice])
            small_cluster.remove_node(node, allow_graceful=False)
            wait_for(lambda: not any(psutil.pid_exists(pid) for _, pid in notes() if pid != at_home))
        finally:
            (run.path / "gate").touch()
        searching.result()
    trials = study.trials()
    assert sorted(told, key=lambda trial: trial.number) == trials
    assert [(t.number, t.state, t.metrics["dice"]) for t in trials] == [
        (number, TrialState.COMPLETED, number / 100) for number in range(12)
    ]
    warnings = [event["message"] for _, event in run.events() if event["event"] == "warning"]
    assert len(warnings) == 3
    assert sum(f"trial {twice} died (2 of 4)" in message for message in warnings) == 1
