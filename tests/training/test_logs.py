"""TensorBoard's own reader and the drawn picture tell what was reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slicemamba.training.logs import TensorBoardLog, plot_training
from slicemamba.training.trainer import EpochReport


def report(epoch: int, loss: float, **validation: float) -> EpochReport:
    return EpochReport(epoch, 9, 10 * epoch, loss, 1e-3 / epoch, 0.5, validation=validation)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_epoch_is_a_step_of_each_scalar(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.add(report(1, 1.5))
    log.add(report(2, 1.25, dice=0.5, miou=0.375))
    assert scalars(tmp_path, "loss") == [(1, 1.5), (2, 1.25)]
    assert scalars(tmp_path, "val_dice") == [(2, 0.5)]
    assert scalars(tmp_path, "val_miou") == [(2, 0.375)]
    assert [step for step, _ in scalars(tmp_path, "learning_rate")] == [1, 2]


def test_epochs_run_again_after_a_stop_replace_the_earlier_ones(tmp_path: Path) -> None:
    first = TensorBoardLog(tmp_path)
    for epoch in range(1, 6):
        first.add(report(epoch, 1.0))
    resumed = TensorBoardLog(tmp_path)
    for epoch in range(4, 7):
        resumed.add(report(epoch, 2.0))
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


@pytest.mark.parametrize("phases", [1, 2])
def test_picture_has_a_row_for_each_training(tmp_path: Path, phases: int) -> None:
    rows = [report(epoch, 2 / epoch, dice=epoch / 10).flat() for epoch in range(1, 5)]
    plot_training(tmp_path / "training.png", [(f"Training {i}", "val_dice", rows) for i in range(phases)])
    picture = np.asarray(Image.open(tmp_path / "training.png").convert("RGB"))
    assert picture.shape[:2] == (510 * phases, 1500)
    for row in np.split(picture, phases):
        for half in np.split(row, 2, axis=1):
            assert (half != 255).any(axis=2).mean() > 0.01, "both curves are drawn"


def test_training_validated_once_at_its_end_is_drawn(tmp_path: Path) -> None:
    rows = [report(1, 1.0).flat(), report(2, 0.5, dice=float("nan")).flat()]
    plot_training(tmp_path / "training.png", [("Retrain", "val_dice", rows)])
    assert (tmp_path / "training.png").stat().st_size > 1000
