"""Scores that other tools report: HD95 by the other definition, surface Dice and lesions found (docs/metrics.md).

They stand beside the scores of the contract and change none of them. Distances are MONAI's, lesions scipy's.
Masks are (H, W), or (D, H, W) for volumes; everything but 0 is foreground.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray

from slicemamba.evaluation.metrics import checked_masks, diagonal, foregrounds

LESION_OVERLAP = 0.5
"""Share of a lesion's pixels that the prediction must mark for the lesion to count as found."""


def hd95_directed_max(prediction: NDArray[Any], target: NDArray[Any], spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """The larger of the two directed 95th percentiles, as in MONAI and MetricsReloaded; arguments as of ``hd95``.

    ``hd95`` takes the percentile of the distances of both directions together, which is no larger, up to interpolation.
    """
    predicted, actual = checked_masks(prediction, target, spacing)
    if not predicted.any() or not actual.any():
        return 0.0 if predicted.any() == actual.any() else diagonal(predicted.shape, spacing)
    with _quiet():
        distance = compute_hausdorff_distance(
            _as_batch(predicted),
            _as_batch(actual),
            include_background=True,
            percentile=95,
            spacing=[*map(float, spacing)],
        )
    return float(distance)


def surface_dice(
    prediction: NDArray[Any], target: NDArray[Any], tolerance: float, spacing: Sequence[float] = (1.0, 1.0)
) -> float:
    """Share of both outlines that lies no further than ``tolerance`` from the other (NSD; Nikolov et al. 2018).

    Args:
        prediction, target, spacing: as of ``hd95``. tolerance: in the unit of the spacing.

    Returns:
        0…1; 1 where neither marks a pixel, 0 where one of them alone does.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, in the unit of the spacing; got {tolerance}")
    predicted, actual = checked_masks(prediction, target, spacing)
    if not predicted.any() or not actual.any():
        return float(predicted.any() == actual.any())
    with _quiet():
        score = compute_surface_dice(
            _as_batch(predicted),
            _as_batch(actual),
            [float(tolerance)],
            include_background=True,
            spacing=[*map(float, spacing)],
        )
    return float(score)


def lesion_counts(
    prediction: NDArray[Any], target: NDArray[Any], overlap: float = LESION_OVERLAP
) -> tuple[int, int, int]:
    """Lesions found, missed and made up. A lesion is a connected piece of a mask, diagonal neighbours included.

    Args:
        overlap: share of a true lesion that must be marked to count as found; a predicted one of which less than this
            share lies in true lesions is made up.

    Returns:
        True lesions found, true lesions missed, predicted lesions made up.
    """
    predicted, actual = checked_masks(prediction, target, (1.0,) * np.ndim(prediction))
    found = _shares(actual, predicted) >= overlap
    return int(found.sum()), int((~found).sum()), int((_shares(predicted, actual) < overlap).sum())


def _shares(lesions: NDArray[np.bool_], marked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each lesion of a mask, the share that another mask marks."""
    labels, count = scipy.ndimage.label(lesions, structure=np.ones((3,) * lesions.ndim))
    if not count:
        return np.empty(0)
    return np.asarray(scipy.ndimage.mean(marked, labels, range(1, count + 1)), dtype=np.float64)


def boundary_scores(
    predictions: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], num_classes: int, tolerance: float
) -> dict[str, float | int]:
    """All of these over a split, in pixels: means over images and foreground classes, and sums of lesions.

    Args:
        predictions, targets: labels (H, W) of each image. num_classes: as in DataConfig.
        tolerance: of the surface Dice, in pixels.
    """
    pairs = [
        pair
        for prediction, target in zip(predictions, targets, strict=True)
        for pair in foregrounds(prediction, target, num_classes)
    ]
    if not pairs:
        raise ValueError("at least one image is needed; got none")
    found, missed, made_up = np.sum([lesion_counts(*pair) for pair in pairs], axis=0).tolist()
    return {
        "hd95_directed_max": float(np.mean([hd95_directed_max(*pair) for pair in pairs])),
        "surface_dice": float(np.mean([surface_dice(*pair, tolerance) for pair in pairs])),
        "surface_dice_tolerance": tolerance,
        "lesions_found": found,
        "lesions_missed": missed,
        "lesions_made_up": made_up,
    }


def _as_batch(mask: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what MONAI says of its own older functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
