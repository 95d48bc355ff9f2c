"""Checkpoints of a training: which are kept, and what a copy of their folder holds at any moment."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from cluster.run_folder import RECORD
from cluster.training_place import Checkpoints
from slicemamba.training.trainer import EpochReport


def report(epoch: int, score: float) -> EpochReport:
    return EpochReport(epoch, 9, epoch, 0.5, 1e-3, 1.0, validation={"dice": score})


def epochs(checkpoints: Checkpoints) -> tuple[int, int]:
    last, best = checkpoints.last(), checkpoints.best()
    assert last is not None
    assert best is not None
    return last["epoch"], best["epoch"]


def test_last_and_best_epoch_are_kept_also_by_another_worker(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert Checkpoints(folder, "val_dice").last() is None
    scores = [math.nan, 0.2, 0.7, 0.5, 0.7, math.nan, 0.6]
    kept = [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)]  # the last of equal ones
    for epoch, (score, expected) in enumerate(zip(scores, kept, strict=True), 1):
        Checkpoints(folder, "val_dice").keep(report(epoch, score), {"epoch": epoch})
        assert epochs(Checkpoints(folder, "val_dice")) == expected
        assert len(list(folder.glob("*.pt"))) == len(set(expected))


def test_record_never_names_a_state_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, "val_dice")
    checkpoints.keep(report(1, 0.5), {"epoch": 1})
    whole = (tmp_path / RECORD).read_text()

    def die(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(OSError, match="full"):
        checkpoints.keep(report(2, 0.6), {"epoch": 2})
    assert (tmp_path / RECORD).read_text() == whole
    assert epochs(checkpoints) == (1, 1)
    assert json.loads(whole) == {"last": "epoch-00001.pt", "best": "epoch-00001.pt", "score": 0.5}
