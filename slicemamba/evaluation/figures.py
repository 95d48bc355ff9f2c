"""Predictions beside masks, as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from slicemamba.data.base import SegmentationData
from slicemamba.evaluation.evaluate import Evaluation

Pixels = npt.NDArray[np.uint8]

TRUTH_COLOUR, PREDICTION_COLOUR = (0, 158, 115), (230, 97, 0)  # told apart by colour-blind readers too
_GAP, _MIN_SIDE = 4, 256


def save_predictions(folder: Path, data: SegmentationData, scored: Evaluation, limit: int = 16) -> list[Path]:
    """Writes one picture an image, worst first: outlines on the image | mask | prediction; and ``predictions.png``.

    Files are named ``<rank>_<name>_dice<score>.png``. Outlines: green the truth, orange the prediction.

    Args:
        folder: made where absent.
        data, scored: a split and what ``evaluate`` returned for it.
        limit: pictures written; the worst and the best halves of them when the split holds more.

    Returns:
        The written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dice = _dice(scored.counts)
    ranked = np.argsort(dice, kind="stable")
    if len(ranked) > limit:
        best = limit // 2  # of an odd number, one more of the worst
        ranked = np.concatenate([ranked[: limit - best], ranked[len(ranked) - best :]])
    files, rows = [], []
    for rank, i in enumerate(ranked):
        row = comparison(np.asarray(data.images[i]), np.asarray(data.masks[i]), scored.labels[i])
        file = folder / f"{rank:02d}_{data.names[i]}_dice{dice[i]:.3f}.png"
        Image.fromarray(row).save(file)
        files.append(file)
        rows.append(row)
    overview = folder / "predictions.png"
    Image.fromarray(_grid(rows, columns=2)).save(overview)
    return [*files, overview]


def _dice(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N, K, 4) counts → (N,) Dice over the foreground; 1 where neither truth nor prediction marks anything."""
    tp, fp, fn, _ = (counts if counts.shape[1] == 1 else counts[:, 1:]).sum(axis=1).T
    whole = 2 * tp + fp + fn
    return np.where(whole > 0, 2 * tp / np.maximum(whole, 1), 1.0)


def comparison(image: Pixels, truth: Pixels, prediction: Pixels) -> Pixels:
    """image (H, W, 3), truth and prediction (H, W) labels → outlines on the image | truth | prediction, side by side.

    Small images are enlarged by a whole factor to a side of at least 256 pixels.
    """
    factor = max(1, -(-_MIN_SIDE // min(truth.shape)))
    image, truth, prediction = (_enlarge(a, factor) for a in (image, truth, prediction))
    drawn = image.copy()
    drawn[_outline(truth)] = TRUTH_COLOUR
    drawn[_outline(prediction)] = PREDICTION_COLOUR
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    top = max(1, int(truth.max()), int(prediction.max()))
    masks = [
        np.repeat((labels.astype(np.uint16) * 255 // top).astype(np.uint8)[..., None], 3, 2)
        for labels in (truth, prediction)
    ]
    return np.concatenate([drawn, gap, masks[0], gap, masks[1]], axis=1)


def _enlarge(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(labels: Pixels) -> npt.NDArray[np.bool_]:
    """Inner border of every label's region, two pixels wide."""
    border = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels[labels > 0]):
        region = labels == label
        border |= region & ~ndimage.binary_erosion(region, iterations=2)
    return border


def _grid(rows: list[Pixels], columns: int) -> Pixels:
    height, width, _ = rows[0].shape
    lines = -(-len(rows) // columns)
    canvas = np.full((lines * (height + 8) - 8, columns * (width + 24) - 24, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        y, x = (i // columns) * (height + 8), (i % columns) * (width + 24)
        canvas[y : y + height, x : x + width] = row
    return canvas
