"""Segmentation metrics, contract version 1 (docs/metrics.md): counts on the device, scores from counts, HD95.

Shapes: B images of H×W pixels, K classes counted. Binary tasks (``num_classes`` 1) count the foreground alone, K = 1;
label tasks count every class with the background first, K = ``num_classes``. Scores are over foreground classes.

Empty masks: where neither prediction nor target marks a pixel, the two agree: Dice, IoU 1 and HD95 0. Where one of
them alone is empty, Dice and IoU are 0 and HD95 is the image's diagonal. The same rule holds for pooled scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicemamba.data.reading import IGNORED

METRICS_VERSION = 2
"""Raised when the same prediction would score otherwise; kept beside every stored score."""
_AT_ONCE = 16  # images


def to_labels(prediction: Tensor, num_classes: int) -> Tensor:
    """Class of each pixel.

    Args:
        prediction: logits, floating point, (B, 1, H, W) when ``num_classes`` is 1 and (B, num_classes, H, W)
            otherwise; or labels, integer or bool, (B, H, W), which are returned as they are.
        num_classes: as in DataConfig.

    Returns:
        (B, H, W): bool for binary logits (sigmoid above 0.5, that is logit > 0), else the largest logit's class.
        Where all logits are NaN, the class is background.

    Raises:
        ValueError: another shape.
    """
    if not prediction.is_floating_point():
        if prediction.ndim != 3:
            raise ValueError(f"labels must have shape (B, H, W); got {tuple(prediction.shape)}")
        return prediction
    if prediction.ndim != 4 or prediction.shape[1] != num_classes:
        raise ValueError(f"logits must have shape (B, {num_classes}, H, W); got {tuple(prediction.shape)}")
    return prediction[:, 0] > 0 if num_classes == 1 else prediction.argmax(dim=1)


def confusion(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixel counts of each image and class, on the tensors' device.

    Pixels whose target is ``IGNORED`` are not counted.

    Counts of several batches are joined by ``torch.cat``; so the counts of a split are (N, K, 4).

    Args:
        prediction: logits or labels, as in ``to_labels``.
        target: (B, H, W) labels, integer or bool; 0 is background.
        num_classes: as in DataConfig; with 1, every label but 0 is foreground.

    Returns:
        (B, K, 4) int64: true positives, false positives, false negatives, true negatives.

    Raises:
        ValueError: shapes that do not fit together.
    """
    labels = to_labels(prediction, num_classes)
    if labels.shape != target.shape:
        raise ValueError(
            f"prediction and target must cover the same pixels; got {tuple(labels.shape)}, {tuple(target.shape)}"
        )
    known = target != IGNORED
    if num_classes == 1:
        return _count(labels != 0, target != 0, known).unsqueeze(1)
    return torch.stack([_count(labels == label, target == label, known) for label in range(num_classes)], dim=1)


def constant_counts(guess: Tensor, masks: NDArray[np.uint8], num_classes: int) -> Tensor:
    """(N, K, 4) of predicting the same for every image.

    Some images at a time, as counting takes many times the memory of their masks, which may be mapped from a file.

    Args:
        guess: (H, W) labels. masks: (N, H, W). num_classes: as in DataConfig.
    """
    counts = []
    for start in range(0, len(masks), _AT_ONCE):
        some = torch.from_numpy(np.array(masks[start : start + _AT_ONCE]))
        counts.append(confusion(guess.expand_as(some), some, num_classes))
    return torch.cat(counts)


def _count(predicted: Tensor, actual: Tensor, known: Tensor) -> Tensor:
    """(B, H, W) bool, three times → (B, 4)."""
    both, either = (predicted & actual), (predicted | actual)
    counts = [both & known, predicted & ~actual & known, actual & ~predicted & known, known & ~either]
    return torch.stack([count.sum(dim=(1, 2)) for count in counts], dim=1)


def summarize(counts: Tensor) -> dict[str, float]:
    """Scores in 0…1 of a whole split.

    Args:
        counts: (N, K, 4) of all images of the split, from ``confusion``.

    Returns:
        Pooled over all pixels of the split: ``miou`` and ``dice`` (mean over foreground classes), ``worst_class_dice``
        (of the foreground class that scores least), ``accuracy`` (share of pixels with the right class),
        ``specificity`` and ``sensitivity`` (mean over foreground classes; 1 where there is nothing to get wrong).
        Mean over images: ``dice_per_image``, ``miou_per_image``.

    Raises:
        ValueError: no image, or another shape.
    """
    exact = check_counts(counts).detach().cpu().to(torch.float64)
    scores = pooled_scores(exact.sum(dim=0)) | image_scores(exact)
    return {name: value.mean().item() for name, value in scores.items()}


def check_counts(counts: Tensor) -> Tensor:
    """The counts as they are; ValueError unless they are (N, K, 4) of at least one image and class."""
    if counts.ndim != 3 or counts.shape[2] != 4 or 0 in counts.shape:
        raise ValueError(f"counts must have shape (N, K, 4) with N and K at least 1; got {tuple(counts.shape)}")
    return counts


def pooled_scores(pooled: Tensor) -> dict[str, Tensor]:
    """Scores of counts summed over images.

    Args:
        pooled: (…, K, 4) float64; leading axes are independent sums, as of many resamples.

    Returns:
        (…) of each of ``miou``, ``dice``, ``worst_class_dice``, ``accuracy``, ``specificity`` and ``sensitivity``.
    """
    tp, fp, fn, tn = _foreground(pooled).unbind(dim=-1)
    dice, iou = _overlap(tp, fp, fn)
    return {
        "miou": iou.mean(dim=-1),
        "dice": dice.mean(dim=-1),
        "worst_class_dice": dice.min(dim=-1).values,
        "accuracy": _accuracy(pooled),
        "specificity": _ratio(tn, tn + fp).mean(dim=-1),
        "sensitivity": _ratio(tp, tp + fn).mean(dim=-1),
    }


def image_scores(counts: Tensor) -> dict[str, Tensor]:
    """``dice_per_image`` and ``miou_per_image`` before the mean: (N,) each, of counts (N, K, 4) in float64."""
    dice, iou = _overlap(*_foreground(counts).unbind(dim=-1)[:3])
    return {"dice_per_image": dice.mean(dim=-1), "miou_per_image": iou.mean(dim=-1)}


def _foreground(counts: Tensor) -> Tensor:
    """(…, K, 4) → the same without the background, which label tasks count first."""
    return counts if counts.shape[-2] == 1 else counts[..., 1:, :]


def _accuracy(pooled: Tensor) -> Tensor:
    """(…, K, 4) → share of pixels with the right class; all classes counted, each pixel has one true positive."""
    tp, _, _, tn = pooled.unbind(dim=-1)
    right = tp + tn if pooled.shape[-2] == 1 else tp
    return right.sum(dim=-1) / pooled[..., 0, :].sum(dim=-1)


def _overlap(tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
    """Dice and IoU."""
    return _ratio(2 * tp, 2 * tp + fp + fn), _ratio(tp, tp + fp + fn)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 1 where whole is 0: nothing was there to get wrong."""
    return torch.where(whole > 0, part / whole.clamp(min=1), torch.ones_like(whole))


def hd95(prediction: NDArray[Any], target: NDArray[Any], spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """95th percentile of the distances between two outlines, both ways, by medpy; the empty-mask rule applies.

    Args:
        prediction, target: (H, W), or (D, H, W) for volumes; everything but 0 is foreground.
        spacing: size of a pixel along each axis, for example in mm; the result has the same unit.
    """
    predicted, actual = checked_masks(prediction, target, spacing)
    if not predicted.any() or not actual.any():
        return 0.0 if predicted.any() == actual.any() else diagonal(predicted.shape, spacing)
    box = _bounding_box(predicted | actual)
    from medpy.metric.binary import hd95 as of_medpy  # brings scipy.stats along, which takes a second to load

    return float(of_medpy(predicted[box], actual[box], voxelspacing=tuple(spacing)))


def checked_masks(
    prediction: NDArray[Any], target: NDArray[Any], spacing: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both as bool. Raises ValueError unless they have one shape, and the spacing as many axes."""
    predicted, actual = np.asarray(prediction) != 0, np.asarray(target) != 0
    if predicted.shape != actual.shape or len(spacing) != predicted.ndim:
        raise ValueError(
            f"prediction, target and spacing must fit together; got {predicted.shape}, {actual.shape}, {spacing}"
        )
    return predicted, actual


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Of an image or volume, in the unit of the spacing: the distance to an outline that is not there."""
    return float(np.linalg.norm(np.multiply(shape, spacing)))


def _bounding_box(marked: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Outlines lie inside it and medpy takes what is outside for background, so the distances stay the same."""
    corners = np.nonzero(marked)
    return tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in corners)


def mean_hd95(
    predictions: Sequence[NDArray[Any]],
    targets: Sequence[NDArray[Any]],
    num_classes: int,
    spacing: Sequence[float] = (1.0, 1.0),
) -> float:
    """Mean of ``hd95`` over images and foreground classes; arguments as in ``image_hd95``."""
    return float(image_hd95(predictions, targets, num_classes, spacing).mean())


def image_hd95(
    predictions: Sequence[NDArray[Any]],
    targets: Sequence[NDArray[Any]],
    num_classes: int,
    spacing: Sequence[float] = (1.0, 1.0),
) -> NDArray[np.float64]:
    """Mean of ``hd95`` over the foreground classes of each image, (N,).

    Args:
        predictions, targets: labels (H, W) of each image; with ``num_classes`` 1 everything but 0 is foreground.
        num_classes: as in DataConfig.
        spacing: as in ``hd95``; (1, 1) gives pixels of the evaluated size.
    """
    if len(predictions) == 0 or len(predictions) != len(targets):
        raise ValueError(f"as many predictions as targets, at least one; got {len(predictions)} and {len(targets)}")
    distances = [
        [hd95(predicted, actual, spacing) for predicted, actual in foregrounds(prediction, target, num_classes)]
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    means: NDArray[np.float64] = np.array(distances, dtype=np.float64).mean(axis=1)
    return means


def foregrounds(
    prediction: NDArray[Any], target: NDArray[Any], num_classes: int
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """The masks of each foreground class: of the prediction and of the target, both background where it is ignored."""
    known = target != IGNORED
    if num_classes == 1:
        return [((prediction != 0) & known, (target != 0) & known)]
    return [((prediction == label) & known, target == label) for label in range(1, num_classes)]
