"""What a job has to do before anybody has seen it run: images through networks, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config import RetrainJob, SearchJob
from cluster.rounds import finals_epochs, round_sizes
from slicemamba.config import TrainConfig

# A training step passes forward once and backward at the cost of two forward passes.
TRAIN_PASSES = 3


@dataclass(frozen=True)
class Work:
    """Passes of one image: forward and backward in training, forward in evaluation."""

    trained: int
    evaluated: int

    @property
    def passes(self) -> int:
        """In forward passes."""
        return TRAIN_PASSES * self.trained + self.evaluated


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
