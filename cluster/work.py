"""What a job has to do before anybody has seen it run: images through networks, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import RetrainJob, SearchJob
from cluster.rounds import finals_epochs, round_sizes
from slicemamba.config import DataConfig, TrainConfig
from slicemamba.costs import NetworkCost, network_cost
from slicemamba.data.fit import count_windows

# A training step passes forward once and backward at the cost of two forward passes.
TRAIN_PASSES = 3
PROCESS_BYTES = 750 * 2**20
"""Of a worker with torch and Ray before it has done anything; seen on a CPU."""


@dataclass(frozen=True)
class Work:
    """Passes of one image: forward and backward in training, forward in evaluation."""

    trained: int
    evaluated: int

    @property
    def passes(self) -> int:
        """In forward passes."""
        return TRAIN_PASSES * self.trained + self.evaluated


def samples_of(data: DataConfig, num_images: Mapping[str, int], median_size: tuple[int, int] | None) -> dict[str, int]:
    """Images of each split, or with ``fit: patch`` the windows that images of the median size have room for.

    Args:
        num_images: of each split. median_size: (height, width), where it is known; else images are counted.
    """
    windows = count_windows(median_size, data.image_size) if data.fit == "patch" and median_size else 1
    return {split: count * windows for split, count in num_images.items()}


def work_by_phase(job: SearchJob | RetrainJob, num_images: Mapping[str, int]) -> dict[str, Work]:
    """What each phase has to do, validation included; early stops and what is reused between candidates are not known.

    Args:
        job: the search, or the retraining of a trial. num_images: of each split.
    """
    found: dict[str, Work] = {}
    if isinstance(job, SearchJob):
        paths = len(job.space.choices) + job.supernet.num_val_architectures
        one = _training(job.supernet, paths, num_images)
        found["supernet"] = Work(job.supernet.paths_per_step * one.trained, one.evaluated)
        if job.search.num_surveyed:
            found["survey"] = Work(0, job.search.num_surveyed * (1 + len(job.search.flips)) * num_images["search"])
        candidates = Work(0, job.search.num_trials * (1 + len(job.search.flips)) * num_images["search"])
        found |= dict.fromkeys(["search", "random"] if job.search.random_baseline else ["search"], candidates)
        if job.finals_settings is not None:
            finals = job.finals_settings
            scored_images = sum(round_sizes(finals.max_candidates, finals.rounds)) * num_images["search"]
            found["finals"] = Work(finals_epochs(job, finals) * num_images["train"], scored_images)
    if job.retrain is not None:
        scored = [*("search", "test"), *(["val"] if job.data.folds is not None else [])]
        found["retrain"] = _training(job.retrain, 1, num_images)
        if isinstance(job, SearchJob) and job.baselines:  # each takes as long as the winner
            trainings = len(job.baselines)
            found["baselines"] = Work(trainings * found["retrain"].trained, trainings * found["retrain"].evaluated)
        found["evaluate"] = Work(0, sum(num_images[split] for split in scored))
    return found


def _training(settings: TrainConfig, paths: int, num_images: Mapping[str, int]) -> Work:
    return Work(settings.epochs * num_images["train"], _validations(settings) * paths * num_images["val"])


def work_of(job: SearchJob, num_images: Mapping[str, int]) -> Work:
    """The same of all phases together."""
    phases = work_by_phase(job, num_images).values()
    return Work(sum(phase.trained for phase in phases), sum(phase.evaluated for phase in phases))


def _validations(settings: TrainConfig) -> int:
    return -(-settings.epochs // settings.validate_every)


def cost_of(job: SearchJob) -> NetworkCost:
    """Of one network of the search whose blocks have the model's own sizes."""
    return network_cost(job.model, job.data.num_classes, job.data.image_size)


def training_memory(job: SearchJob) -> int:
    """Bytes that a worker needs to train, the larger of supernet and retraining: weights, gradients, two moments of
    AdamW, the average where one is kept, and what its share of a batch keeps for the backward pass, and the libraries.
    The images are not counted."""
    cost = cost_of(job)
    copies = 1 if job.space.weight_sharing == "shared" else len(job.space.choices)
    needs = [_training_bytes(job, job.supernet, cost.params + (copies - 1) * cost.block_params, cost)]
    if job.retrain is not None:
        needs.append(_training_bytes(job, job.retrain, cost.params, cost))
    return max(needs)


def _training_bytes(job: SearchJob, settings: TrainConfig, params: int, cost: NetworkCost) -> int:
    share = -(-settings.batch_size // (job.resources.train.num_workers * settings.accumulate_steps))
    return PROCESS_BYTES + (4 + (settings.ema_decay is not None)) * 4 * params + share * cost.saved_bytes
