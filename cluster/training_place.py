"""Where a worker of a training runs, in a group of Ray Train or alone, and where its checkpoints go."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.config import parse_job
from cluster.run_folder import CHECKPOINTS, RECORD
from cluster.workers import device_for
from slicemamba.files import writing
from slicemamba.training.trainer import EpochReport, State


class Checkpoints:
    """States of a training: of the last validated epoch, and of the best one, the last of equal ones.

    They are the same whether one worker trains or several, so that either can go on where the other has stopped. The
    record, ``checkpoints.json``, is written after the states that it names, and others are removed after it: whoever
    copies the folder by the record, as ``cluster.storage`` does, has states that belong together.

    Args:
        folder: on a disk that driver and workers share. score: by which epochs are compared.
    """

    def __init__(self, folder: Path, score: str) -> None:
        self._folder = folder
        self._score = score

    def last(self) -> State | None:
        """The state to go on from; None at the beginning."""
        return self._state("last")

    def best(self) -> State | None:
        return self._state("best")

    def keep(self, report: EpochReport, state: State) -> None:
        """Keeps the state after an epoch in place of the one before, and as the best where it is; by one worker."""
        self._folder.mkdir(parents=True, exist_ok=True)
        known, name = self._record(), f"epoch-{report.epoch:05d}.pt"
        score = float(report.flat()[self._score])
        if known is None or known["score"] is None or score >= known["score"]:
            record = {"last": name, "best": name, "score": None if math.isnan(score) else score}
        else:
            record = {**known, "last": name}
        with writing(self._folder / name) as draft:
            torch.save(state, draft)
        with writing(self._folder / RECORD) as draft:
            draft.write_text(json.dumps(record))
        for path in self._folder.glob("epoch-*.pt"):
            if path.name not in record.values():
                path.unlink()

    def _record(self) -> dict[str, Any] | None:
        path = self._folder / RECORD
        return json.loads(path.read_text()) if path.exists() else None

    def _state(self, which: str) -> State | None:
        record = self._record()
        if record is None:
            return None
        state: State = torch.load(self._folder / record[which], weights_only=True, map_location="cpu")
        return state


@dataclass(frozen=True)
class Place:
    """What a worker needs of where it runs.

    Attributes:
        is_first: of the workers of its training. device: to train on. checkpoints: of the training.
        in_group: of Ray Train, which is told of each epoch.
    """

    is_first: bool
    device: torch.device
    checkpoints: Checkpoints
    in_group: bool

    def keep(self, report: EpochReport, state: Callable[[], State]) -> None:
        """Keeps the checkpoint of a validated epoch; called by all workers."""
        if self.is_first:
            self.checkpoints.keep(report, state())
        if self.in_group:
            import ray.train

            ray.train.report(report.flat())


def place_of(config: dict[str, Any]) -> Place:
    """The place of a worker, from what ``run_workers`` has told it."""
    workers = parse_job(config["job"]).resources.train
    if workers.num_workers == 1:
        return Place(True, device_for(workers), checkpoints_of(config), in_group=False)
    import ray.train.torch

    logging.getLogger().setLevel(logging.WARNING)  # else Ray Train prints a line for each report
    is_first = ray.train.get_context().get_world_rank() == 0
    return Place(is_first, ray.train.torch.get_device(), checkpoints_of(config), in_group=True)


def checkpoints_of(config: dict[str, Any]) -> Checkpoints:
    """Those of a training, for its driver and its workers."""
    return Checkpoints(Path(config["run"]) / ".ray" / config["phase"] / CHECKPOINTS, config["score"])
