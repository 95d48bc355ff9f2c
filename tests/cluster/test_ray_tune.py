"""The worker and Tune's view of a session, without Ray: what one hands over, the other understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import ray_tune
from cluster.config import SearchJob, parse_job
from cluster.ray_tune import SlicingTrial
from cluster.run_folder import RunFolder
from nas.racing import Leaders
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState
from slicemamba.data.base import load_split
from slicemamba.data.transforms import to_input
from slicemamba.evaluation.metrics import summarize
from slicemamba.models.checkpoints import read_card, save_network
from slicemamba.models.supernet import Supernet

JOB = {
    "data": {
        "name": "synthetic",
        "image_size": [48, 48],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 14, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "search": {
        "num_trials": 24,
        "population_size": 6,
        "num_parents": 2,
        "num_mutations": 3,
        "num_crossovers": 2,
        "batch_size": 2,
        "racing": {"confidence": 0.6, "min_images": 6},
    },
}


def flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """As Tune hands results over."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return found


def worker(job: SearchJob, run: RunFolder, folder: Path) -> SlicingTrial:
    network = Supernet(job.model, 1, job.space.choices, "separate")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(10)  # so that slicings differ, and logits have both signs
        images = to_input(load_split(job.data, "search", folder / "cache").images)
        network.final_conv.bias.sub_(network.eval()(images, job.search_space.fixed()[0]).median())  # type: ignore[union-attr,operator,arg-type]
    save_network(folder / "supernet", network, job.data)
    trial = object.__new__(SlicingTrial)
    trial.setup(
        {},
        weights=ray_tune._weights(folder / "supernet"),
        card=read_card(folder / "supernet").model_dump_json(),
        job=job.model_dump(mode="json"),
        cache_dir=str(folder / "cache"),
        run_path=str(run.path),
        study="search",
    )
    return trial


def test_raced_search_leaves_counts_and_work_of_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "show_as", lambda text: None)  # here it would rename the process of the tests
    job = parse_job(JOB)
    assert isinstance(job, SearchJob)
    run = RunFolder(tmp_path / "run")
    actor = worker(job, run, tmp_path)
    study = Study(run.study_location, "search", job.search_space, job.search.objectives, "evolution")
    session = SearchSession(
        study,
        make_searcher(job.search, job.search_space),
        origin="evolution",
        num_trials=24,
        enqueue=job.search_space.fixed(),
        leaders=Leaders(job.search),
    )
    told: list[Trial] = []
    searcher = ray_tune._SessionSearcher(session, told.append, lambda: 1, lambda *_: None)
    while isinstance(suggested := searcher.suggest(str(len(told))), dict):
        actor.config = suggested
        searcher.on_trial_complete(str(len(told)), flat(actor.step()))
    assert suggested == searcher.FINISHED
    assert told == study.trials()
    assert {trial.state for trial in told} == {TrialState.COMPLETED, TrialState.PRUNED}
    assert sum(trial.work["blocks_reused"] for trial in told) > 0
    for trial in told:
        with np.load(run.counts_path("search", trial.number)) as arrays:
            counts, names = arrays["counts"], arrays["names"]
        assert counts.shape == (trial.work["images"], 1, 4) == (len(names), 1, 4)
        assert trial.work["blocks_computed"] + trial.work["blocks_reused"] == 4 * len(counts)
        assert (len(counts) < 14) == (trial.state is TrialState.PRUNED)
        if trial.state is TrialState.COMPLETED:
            assert trial.metrics["dice"] == summarize(torch.from_numpy(counts.astype(np.int64)))["dice"]
        else:
            assert len(counts) >= 6
            assert len(trial.reference) == 1
            assert len(trial.peers) == 10
