"""The configs that travel with the project: each is a valid job, and those of the paper's sets hold its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import SearchJob, load_job
from slicemamba.config import ModelConfig, TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SETS = {"isic2017", "isic2018", "kvasir", "clinicdb", "uwf_rhs", "synapse"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_is_a_valid_job(path: Path) -> None:
    load_job(path)


@pytest.mark.parametrize("name", sorted(SETS))
def test_holds_the_published_settings(name: str) -> None:
    job = load_job(CONFIGS / f"{name}.yaml")
    assert isinstance(job, SearchJob)
    assert job.data.name == name
    assert job.data.image_size == (256, 256)
    assert job.model == ModelConfig()
    assert job.search_space.size == 4**22
    # The scripts for Synapse take twice as many epochs to the lowest learning rate.
    training = TrainConfig(t_max=100) if name == "synapse" else TrainConfig()
    assert job.retrain == training
    assert job.supernet.model_dump(include=set(TrainConfig.model_fields)) == training.model_dump()
    assert (job.search.num_trials, job.search.population_size, job.search.num_parents) == (1000, 50, 10)
    binary = name != "synapse"
    assert job.data.num_classes == (1 if binary else 9)
    assert job.data.intensity == ("minmax" if binary else "unit")
    assert list(job.search.objectives) == (["miou"] if binary else ["dice", "hd95"])
