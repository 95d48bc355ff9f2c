"""Scores of each image, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slicemamba.evaluation.evaluate import Evaluation
from slicemamba.evaluation.metrics import image_scores, pooled_scores
from slicemamba.files import write_text

Row = dict[str, str | float]


def image_rows(names: Sequence[str], scored: Evaluation) -> list[Row]:
    """One row an image: its name and scores, and in label tasks ``foreground_dice`` and the Dice of each class.

    Scores of an image are pooled over its pixels, so ``dice`` and ``miou`` are the image's part of ``dice_per_image``
    and ``miou_per_image``; ``hd95`` is there when it was measured.
    """
    counts = torch.from_numpy(np.asarray(scored.counts, dtype=np.float64))
    columns = {name: values.numpy() for name, values in pooled_scores(counts).items()}
    if scored.hd95 is not None:
        columns["hd95"] = scored.hd95
    if counts.shape[1] > 1:
        columns["dice_foreground"] = foreground_dice(scored.counts)
        for label in range(1, counts.shape[1]):
            columns[f"dice_class{label}"] = image_scores(counts[:, label : label + 1])["dice_per_image"].numpy()
    rows: list[Row] = []
    for i, name in enumerate(names):
        rows.append({"name": name} | {column: float(values[i]) for column, values in columns.items()})
    return rows


def class_scores(counts: NDArray[np.int64], class_names: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Scores of each foreground class, pooled over all images, by its name.

    Args:
        counts: (N, K, 4) of a split. class_names: background first; classes are numbered when None.

    Returns:
        For each class ``dice``, ``iou``, ``sensitivity`` and ``images``, in how many images the truth has it.
    """
    foreground = counts if counts.shape[1] == 1 else counts[:, 1:]
    names = class_names or [f"class {label}" for label in range(foreground.shape[1] + 1)]
    scores = {}
    for name, of_class in zip(names[1:], foreground.transpose(1, 0, 2), strict=True):
        tp, fp, fn, _ = map(float, of_class.sum(axis=0))
        scores[name] = {
            "dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
            "iou": tp / (tp + fp + fn) if tp + fp + fn else 1.0,
            "sensitivity": tp / (tp + fn) if tp + fn else 1.0,
            "images": int((of_class[:, 0] + of_class[:, 2] > 0).sum()),
        }
    return scores


def foreground_dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, K, 4) counts → (N,) Dice over the pixels of all foreground classes together, by which images are ranked.

    In label tasks the mean over classes would rank an image high for the classes that it lacks. 1 where neither truth
    nor prediction marks anything.
    """
    tp, fp, fn, _ = (counts if counts.shape[1] == 1 else counts[:, 1:]).sum(axis=1).T
    whole = 2 * tp + fp + fn
    return np.where(whole > 0, 2 * tp / np.maximum(whole, 1), 1.0)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows that all have the first one's columns; numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
