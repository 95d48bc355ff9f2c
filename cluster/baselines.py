"""Networks to set beside a search's winner, trained for as many seconds and scored on the same images: those that
everyone knows, and the winner itself with its scans left out.

<run>/baselines/<network>/   a run of its own (see run_folder.py): config.json, retrained/, scores/, scores.json
<run>/baselines.json         seconds of a training step of the winner and of each baseline, measured once
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster import results
from cluster.config import RetrainJob, SearchJob, refuse_mixing, retraining
from cluster.history import training_history
from cluster.initial import build_network, init_source
from cluster.ray_train import retrain
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunStatus
from cluster.scan_use import UNSCANNED, baselines_of, without_scans
from cluster.status import StatusWriter
from cluster.workers import device_for, run_on_worker
from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import load_split
from slicemamba.training.trainer import steps_per_epoch

STEPS = "baselines.json"
_ROUNDS, _MIN_ROUNDS, _SECONDS = 12, 3, 30.0


def train(job: SearchJob, run: RunFolder, winner: Architecture, cache_dir: Path) -> None:
    """Trains and scores each baseline that has not been; the phase of the run that is called ``baselines``."""
    assert job.retrain is not None
    run.emit("phase", phase="baselines")
    seconds = _step_seconds(job, run, winner)
    jobs = {
        name: retraining(job, _as_long(job.retrain, seconds, name), **of)
        for name, of in _networks(job, run, winner).items()
    }
    num_samples = load_split(job.data, "train", cache_dir).num_samples
    a_epoch = steps_per_epoch(num_samples, job.retrain.batch_size, job.resources.train.num_workers)
    total = sum(one.retrain.epochs for one in jobs.values()) * a_epoch
    before = 0
    for name, one in jobs.items():
        seen: list[Progress] = []

        def tell(status: RunStatus, before: int = before, seen: list[Progress] = seen) -> None:
            step = status.progress.get("retrain")
            if step is None or [step] == seen:  # a status is written twice a second
                return
            seen[:] = [step]
            done = before + step.done
            run.emit("progress", phase="baselines", done=done, total=total, unit="steps", metrics=step.metrics)

        place = results.place_of_baseline(run, name)
        place.attempt = run.attempt  # the run's driver is that of its baselines
        _train_one(one, place, cache_dir, tell)
        before += one.retrain.epochs * a_epoch


def _train_one(job: RetrainJob, place: RunFolder, cache_dir: Path, tell: Any) -> None:
    before = place.read_json("config.json")
    if before is not None:  # whose weights to start from lie in the run's folder, which may have been moved
        before["init"] = job.model_dump(mode="json")["init"]
    refuse_mixing(before, job, place.path)
    place.write_json("config.json", job.model_dump(mode="json"))
    if place.read_json("scores.json") is not None:  # written last
        return
    network = place.path / "retrained"
    with StatusWriter(place, tell):
        if not (network / "config.json").exists():
            place.emit("phase", phase="retrain")
            retrain(job, job.slicing, place, cache_dir)
        scored = results.scores_of(network, job, place, cache_dir, job.retrain.batch_size, results.SPLITS)
    scored.pop("trivial")
    history = training_history(place, "retrain")
    trained = {"epochs": job.retrain.epochs, "best_epoch": history["best_epoch"]}
    place.write_json("scores.json", trained | results.costs_of(network, job, history) | scored)


def _networks(job: SearchJob, run: RunFolder, winner: Architecture) -> dict[str, dict[str, Any]]:
    """What tells each baseline's training from the winner's; without scans it starts as the winner does."""
    unscanned = {"architecture": str(without_scans(job, winner)), "init": init_source(job, run)}
    names = baselines_of(job, winner)
    return {name: unscanned if name == UNSCANNED else {"network": name} for name in names}


def _as_long(settings: TrainConfig, seconds: Mapping[str, float], name: str) -> TrainConfig:
    """The winner's settings with as many epochs as take as long; the learning rate's course keeps its form."""
    share = seconds["winner"] / seconds[name]
    times = {"epochs": settings.epochs, "t_max": settings.t_max}
    changed = {field: max(1, round(value * share)) for field, value in times.items() if value is not None}
    changed["warmup_epochs"] = min(settings.warmup_epochs, changed["epochs"] - 1)
    return settings.model_copy(update=changed)


def _step_seconds(job: SearchJob, run: RunFolder, winner: Architecture) -> dict[str, float]:
    """Seconds of a training step of the winner and of each baseline, from the run's folder where they are known."""
    found = run.read_json(STEPS)
    if found is not None and found["architecture"] != str(winner):  # an extended search has another winner
        shutil.rmtree(run.path / "baselines", ignore_errors=True)
        found = None
    if found is None:
        networks = _networks(job, run, winner)
        seconds = run_on_worker(_measure_steps, job.resources.train, "time baselines", job, str(winner), networks)
        found = {"architecture": str(winner), "seconds": seconds}
        run.write_json(STEPS, found)
    return dict(found["seconds"])


def _measure_steps(job: SearchJob, winner: str, others: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """On a worker: the shortest of some steps of each network, taken in turns, so that all meet the same machine."""
    assert job.retrain is not None
    device = device_for(job.resources.train)
    networks = {"winner": build_network(job, Architecture.parse(winner))}
    for name, of in others.items():
        one = retraining(job, job.retrain, **of)
        networks[name] = build_network(one, one.slicing)
    size = job.retrain.batch_size // (job.resources.train.num_workers * job.retrain.accumulate_steps)
    images = torch.randn(size, job.model.in_channels, *job.data.image_size, device=device)
    best = dict.fromkeys(networks, float("inf"))
    for network in networks.values():
        network.to(device).train()
    begun = time.monotonic()
    for round_number in range(_ROUNDS):
        if round_number >= _MIN_ROUNDS and time.monotonic() - begun > _SECONDS:
            break
        for name, network in networks.items():
            best[name] = min(best[name], _seconds_of_step(network, images))
    return best


def _seconds_of_step(network: torch.nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    network(images).square().mean().backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    network.zero_grad()
    return time.perf_counter() - started
