"""The course of a run's trainings, as its events tell it."""

from __future__ import annotations

from typing import Any

from cluster.progress import TITLES
from cluster.run_folder import RunFolder

TRAININGS = {"pretrain": "val_top1", "supernet": "val_dice", "retrain": "val_dice"}
"""What the epochs of each phase that trains are compared by."""


def epoch_rows(run: RunFolder, phase: str) -> list[dict[str, Any]]:
    """Reports of a training's epochs; of an epoch run twice, because the run was killed, the later one.

    Those of a training that was set aside, as an extended search found another winner, are not among them.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for _, event in run.events():
        if event["event"] == "set_aside" and event["phase"] == phase:
            epochs.clear()
        elif event["event"] == "epoch" and event["phase"] == phase:
            epochs[event["epoch"]] = event
    return [{key: value for key, value in epochs[n].items() if key not in ("event", "phase")} for n in sorted(epochs)]


def training_history(run: RunFolder, phase: str) -> dict[str, Any]:
    """For ``result.json``: all epochs, the best validated one, and whether the training was stopped early."""
    rows, score = epoch_rows(run, phase), TRAININGS[phase]
    validated = [row for row in reversed(rows) if row.get(score) is not None]  # of equal ones the last is kept
    best = max(validated, key=lambda row: row[score], default=None)
    return {"best_epoch": best, "stopped_early": any(row.get("stopped_early") for row in rows), "epochs": rows}


def plot_trainings(run: RunFolder) -> None:
    """Draws ``training.png`` of the trainings that the run has had so far."""
    from slicemamba.training.logs import plot_training

    found = {phase: rows for phase in TRAININGS if (rows := epoch_rows(run, phase))}
    curves = [(TITLES[phase], TRAININGS[phase], rows) for phase, rows in found.items()]
    plot_training(run.path / "training.png", curves)
