"""Pretraining of an encoder, as other trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cluster.config import PretrainJob, parse_job
from cluster.history import plot_trainings
from cluster.ray_train import Reporter, run_workers, workers_folder
from cluster.run_folder import RunFolder
from cluster.training_place import place_of
from cluster.workers import use_threads
from slicemamba.data.pictures import find_pictures
from slicemamba.models.classifier import SliceClassifier, save_encoder
from slicemamba.training.pretraining import Classification, accuracy
from slicemamba.training.trainer import fit, trained_weights

PHASE, SCORE = "pretrain", "val_top1"


def pretrain(job: PretrainJob, run: RunFolder) -> Path:
    """Trains the encoder; returns the folder of the best epoch's weights, ``<run>/pretrained``."""
    pictures, _ = find_pictures(job.data)
    state = run_workers(_worker, job, run, job.pretrain, len(pictures), phase=PHASE, score=SCORE)
    network = SliceClassifier(job.model, len(pictures.classes), job.slicing)
    network.load_state_dict(trained_weights(state))
    plot_trainings(run)
    save_encoder(run.path / "pretrained", network, pictures.classes, job.data.name)
    return run.path / "pretrained"


def _worker(config: dict[str, Any]) -> None:
    """What each worker runs."""
    job = parse_job(config["job"])
    assert isinstance(job, PretrainJob)
    use_threads(job.resources.train.cpus)
    train, val = find_pictures(job.data)
    torch.manual_seed(job.pretrain.seed)
    place = place_of(config)
    network = SliceClassifier(job.model, len(train.classes), job.slicing).to(place.device)
    reporter = Reporter(workers_folder(config), PHASE, place)
    fit(
        network,
        Classification(train, job.data, job.pretrain),
        job.pretrain,
        validate=lambda: accuracy(network, val, job.data, job.pretrain),
        on_epoch=reporter.on_epoch,
        on_step=reporter.on_step,
        state=place.checkpoints.last(),
    )
