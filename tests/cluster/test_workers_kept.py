"""A search on Ray keeps all of its workers busy, and none of them is started twice."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle

from benchmarks.sleeper import Sleeper
from cluster import ray_tune
from cluster.config import SearchJob
from cluster.connect import ENVIRONMENT
from cluster.run_folder import RunFolder
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial
from slicemamba.models.checkpoints import save_network
from slicemamba.models.supernet import Supernet

WORKERS = 3
CANDIDATES = 30
FIRST = 9  # of the evolution's second generation some
CANDIDATES_A_START = 3  # evaluated by the first worker while one more starts; it could do a generation alone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(__file__).parents[2])  # workers import the one that sleeps
        for name, value in (ENVIRONMENT | {"PYTHONPATH": root}).items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which Ray's workers cannot import
        yield
        ray.shutdown()


class SlowlyStarted(Sleeper):
    """Each start takes until the workers before have evaluated some candidates more, and all but the first candidates
    wait for the last start.

    What is started, ready and done is told by files in the folder of the run.
    """

    seconds = 0.05
    places = WORKERS

    def setup(self, config: dict[str, Any], *, run_path: str, **shared: Any) -> None:
        self._run = Path(run_path)
        (self._run / f"{os.getpid()}.started").touch()
        before = len(list(self._run.glob("*.started"))) - 1
        self._wait_for("*.done", CANDIDATES_A_START * before)
        (self._run / f"{os.getpid()}.ready").touch()

    def step(self) -> dict[str, Any]:
        if self.config["number"] > FIRST:
            self._wait_for("*.ready", self.places)
        outcome = super().step()
        (self._run / f"{self.config['number']}.done").touch()
        return outcome

    def _wait_for(self, pattern: str, number: int) -> None:
        deadline = time.monotonic() + 100
        while len(list(self._run.glob(pattern))) < number:
            assert time.monotonic() < deadline, f"a worker whose start was given up never gets ready ({pattern})"
            time.sleep(0.02)


class WithoutOne(SlowlyStarted):
    """Where one worker fewer has a place."""

    places = WORKERS - 1


def search(searcher: str, folder: Path, worker: type[Sleeper] = SlowlyStarted) -> list[Trial]:
    """The trials of a search, of which the evolution waits for the last of each generation of six."""
    job = SearchJob.model_validate(
        {
            "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
            "resources": {"search": {"num_workers": WORKERS}},
            "search": {
                "searcher": searcher,
                "num_trials": CANDIDATES,
                "population_size": 6,
                "num_parents": 2,
                "num_mutations": 3,
                "num_crossovers": 2,
            },
        }
    )
    torch.manual_seed(0)
    save_network(folder / "supernet", Supernet(job.model, 1, job.space.choices))
    run = RunFolder(folder / "run")
    study = Study(run.study_location, "search", job.search_space, job.search.objectives, searcher)
    session = SearchSession(study, make_searcher(job.search, job.search_space), origin=searcher, num_trials=CANDIDATES)
    ray_tune.search(
        job,
        session,
        folder / "supernet",
        run,
        folder / "cache",
        name="search",
        on_trial=lambda trial: None,
        worker=worker,
    )
    return study.trials()


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("searcher", ["nsga2", "evolution"])
def test_each_worker_is_started_once_and_used(searcher: str, tmp_path: Path) -> None:
    """Also where the first worker could do a generation alone before the others are there."""
    trials = search(searcher, tmp_path)
    assert len(trials) == CANDIDATES
    assert len({trial.work["worker"] for trial in trials}) == WORKERS
    assert len(list((tmp_path / "run").glob("*.started"))) == WORKERS
    assert not list(RunFolder(tmp_path / "run").events()), "this Ray's controller is as it was expected"


@pytest.mark.usefixtures("_ray")
def test_candidate_without_a_place_is_not_overtaken_by_others(tmp_path: Path) -> None:
    """Another user holds one of the places, so one of the first candidates waits for it in vain."""

    @ray.remote(num_cpus=1)
    class Guest:
        def ready(self) -> None:
            pass

    guest = Guest.remote()  # type: ignore[attr-defined]
    try:
        ray.get(guest.ready.remote())
        trials = search("nsga2", tmp_path, WithoutOne)
    finally:
        ray.kill(guest)
    assert len({trial.work["worker"] for trial in trials}) == WORKERS - 1
    assert max(trial.ended_as or 0 for trial in trials[:WORKERS]) <= 2 * WORKERS
