"""A search on Ray keeps all of its workers busy, and none of them is started twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.sleeper import Sleeper
from cluster import ray_tune
from cluster.config import SearchJob
from cluster.connect import ENVIRONMENT
from cluster.run_folder import RunFolder
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study
from slicemamba.models.checkpoints import save_network
from slicemamba.models.supernet import Supernet

WORKERS = 3
CANDIDATES = 30

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(__file__).parents[2])  # workers import the one that sleeps
        for name, value in (ENVIRONMENT | {"PYTHONPATH": root}).items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("searcher", ["nsga2", "evolution"])
def test_each_worker_is_started_once_and_used(searcher: str, tmp_path: Path) -> None:
    """A start takes longer than an evaluation, and the evolution waits for the last of each generation of six."""

    class SlowlyStarted(Sleeper):
        seconds = 0.3

        def setup(self, config: dict[str, Any], **shared: Any) -> None:
            time.sleep(1.0)

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
    save_network(tmp_path / "supernet", Supernet(job.model, 1, job.space.choices))
    run = RunFolder(tmp_path / "run")
    study = Study(run.study_location, "search", job.search_space, job.search.objectives, searcher)
    session = SearchSession(study, make_searcher(job.search, job.search_space), origin=searcher, num_trials=CANDIDATES)
    ray_tune.search(
        job,
        session,
        tmp_path / "supernet",
        run,
        tmp_path / "cache",
        name="search",
        on_trial=lambda trial: None,
        worker=SlowlyStarted,
    )
    trials = study.trials()
    assert len(trials) == CANDIDATES
    assert len({trial.work["worker"] for trial in trials}) == WORKERS
