"""Scores of each image, as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slicemamba.evaluation.evaluate import Evaluation
from slicemamba.evaluation.metrics import image_scores, pooled_scores

Row = dict[str, str | float]


def image_rows(names: Sequence[str], scored: Evaluation) -> list[Row]:
    """One row an image: its name, its scores as docs/metrics.md has them, and in label tasks the Dice of each class.

    Scores of an image are pooled over its pixels, so ``dice`` and ``miou`` are the image's part of ``dice_per_image``
    and ``miou_per_image``; ``hd95`` is there when it was measured.
    """
    counts = torch.from_numpy(np.asarray(scored.counts, dtype=np.float64))
    columns = {name: values.numpy() for name, values in pooled_scores(counts).items()}
    if scored.hd95 is not None:
        columns["hd95"] = scored.hd95
    if counts.shape[1] > 1:
        for label in range(1, counts.shape[1]):
            columns[f"dice_class{label}"] = image_scores(counts[:, label : label + 1])["dice_per_image"].numpy()
    rows: list[Row] = []
    for i, name in enumerate(names):
        rows.append({"name": name} | {column: float(values[i]) for column, values in columns.items()})
    return rows


def image_dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, K, 4) counts → (N,) mean Dice over the foreground classes, by which images are ranked."""
    dice: NDArray[np.float64] = image_scores(torch.from_numpy(np.asarray(counts, np.float64)))["dice_per_image"].numpy()
    return dice


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows that all have the first one's columns; numbers in full."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
