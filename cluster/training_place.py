"""Where a worker of a training runs, and where its checkpoints go: in a group of Ray Train, or alone."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from cluster.config import parse_job
from cluster.workers import device_for
from slicemamba.files import writing
from slicemamba.training.trainer import EpochReport, State

STATE = "state.pt"


class Place(Protocol):
    """What a worker needs of it.

    Attributes:
        is_first: of the workers of its training. device: to train on.
    """

    is_first: bool
    device: torch.device

    def resume(self) -> State | None:
        """The state to go on from; None at the beginning."""

    def keep(self, report: EpochReport, state: Callable[[], State]) -> None:
        """Keeps the checkpoint of a validated epoch; called by all workers."""


class InGroup:
    """A worker of Ray Train, which compares the checkpoints by itself."""

    def __init__(self) -> None:
        import ray.train.torch

        logging.getLogger().setLevel(logging.WARNING)  # else Ray Train prints a line for each report
        self.is_first = ray.train.get_context().get_world_rank() == 0
        self.device = ray.train.torch.get_device()

    def resume(self) -> State | None:
        import ray.train

        return load_checkpoint(ray.train.get_checkpoint())

    def keep(self, report: EpochReport, state: Callable[[], State]) -> None:
        import ray.train

        if not self.is_first:
            ray.train.report(report.flat())
            return
        with tempfile.TemporaryDirectory() as draft:
            torch.save(state(), Path(draft) / STATE)
            ray.train.report(report.flat(), checkpoint=ray.train.Checkpoint.from_directory(draft))


class Alone:
    """The only worker, by itself: on a worker of the cluster or, without a Ray, in the driver's own process.

    Args:
        folder: of its checkpoints: the last one, and the best. score: by which epochs are compared.
        device: to train on.
    """

    def __init__(self, folder: Path, score: str, device: torch.device) -> None:
        self.is_first = True
        self.device = device
        self._score = score
        self._last, self._best = folder / "last.pt", folder / "best.pt"
        before = self._read(self._best)
        self._best_score: float = -math.inf if before is None else before["score"]

    def resume(self) -> State | None:
        return self._read(self._last)

    def keep(self, report: EpochReport, state: Callable[[], State]) -> None:
        now, score = state(), float(report.flat()[self._score])
        if score >= self._best_score or not self._best.exists():
            self._best_score = -math.inf if math.isnan(score) else score
            self._write(self._best, {"score": self._best_score, "state": now})
        self._write(self._last, now)

    def best(self) -> State | None:
        """The state of the epoch with the best score, the last of equal ones, as Ray Train keeps it."""
        found = self._read(self._best)
        return None if found is None else found["state"]

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return found

    def _write(self, path: Path, values: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as draft:
            torch.save(values, draft)


def place_of(config: dict[str, Any]) -> Place:
    """The place of a worker, from what ``run_workers`` has told it."""
    return InGroup() if parse_job(config["job"]).resources.train.num_workers > 1 else alone(config)


def alone(config: dict[str, Any]) -> Alone:
    """The place of the only worker."""
    folder = Path(config["run"]) / ".ray" / config["phase"] / "alone"
    return Alone(folder, config["score"], device_for(parse_job(config["job"]).resources.train))


def load_checkpoint(checkpoint: Any) -> State | None:
    """The state in a checkpoint of Ray Train; None where there is none yet."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: State = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    return state
