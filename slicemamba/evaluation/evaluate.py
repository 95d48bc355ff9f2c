"""Evaluation of a whole split: deterministic, without augmentation, no image left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import input_of, inputs_of
from slicemamba.data.windows import slide
from slicemamba.evaluation.metrics import confusion, constant_counts, image_hd95, mean_hd95, summarize, to_labels
from slicemamba.evaluation.statistics import Interval, bootstrap_metrics

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network did on a split.

    Attributes:
        metrics: see docs/metrics.md; NaN throughout when a logit was not finite.
        counts: (N, K, 4) pixel counts of each image.
        labels: (N, H, W) uint8 predicted classes.
        hd95: (N,) of each image, where it was measured.
        patients: as in SegmentationData.
    """

    metrics: dict[str, float]
    counts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8]
    hd95: npt.NDArray[np.float64] | None = None
    patients: tuple[str, ...] | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all logits were finite; if not, the scores are NaN."""
        return not np.isnan(self.metrics["dice"])

    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals of the scores over patients or images; none where the scores are NaN."""
        return bootstrap_metrics(self.counts, hd95=self.hd95, groups=self.patients) if self.is_finite else {}


def batches(data: SegmentationData, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(images (B, 3, H, W), masks (B, H, W)) of the whole split in its order; the last batch may be smaller."""
    for start in range(0, len(data), batch_size):
        part = slice(start, start + batch_size)
        yield (
            inputs_of(data, part).to(device),
            torch.from_numpy(np.array(data.masks[part])).to(device),
        )


@torch.inference_mode()
def evaluate(
    forward: Forward,
    data: SegmentationData,
    *,
    batch_size: int,
    device: torch.device,
    with_hd95: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs ``forward`` over a split and scores it.

    Args:
        forward: (B, 3, H, W) → logits (B, num_classes, H, W); a network in eval mode.
        data: the split.
        batch_size: images a forward pass; changes no score.
        device: where ``forward`` runs and pixels are counted.
        with_hd95: measure HD95 too, which runs on the CPU, an image at a time.
        on_progress: called as (images done, images in all).
    """
    counts, finite, done = [], True, 0
    labels = np.empty(data.masks.shape, dtype=np.uint8)
    predict = _by_batch if data.window is None else _by_window
    for logits, masks in predict(forward, data, batch_size, device):
        finite = finite and bool(torch.isfinite(logits).all())
        predicted = to_labels(logits, data.num_classes)
        counts.append(confusion(predicted, masks, data.num_classes))
        labels[done : done + len(predicted)] = predicted.to(torch.uint8).cpu().numpy()
        done += len(predicted)
        if on_progress is not None:
            on_progress(done, len(data))
    all_counts = torch.cat(counts)
    metrics = summarize(all_counts)
    distances = image_hd95(data.own(labels), data.own(data.masks), data.num_classes) if with_hd95 else None
    if distances is not None:
        metrics["hd95"] = float(distances.mean())
    if not finite:
        metrics = dict.fromkeys(metrics, float("nan"))
    return Evaluation(metrics, all_counts.cpu().numpy(), labels, distances, data.patients)


def _by_batch(
    forward: Forward, data: SegmentationData, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for images, masks in batches(data, batch_size, device):
        yield forward(images), masks


def _by_window(
    forward: Forward, data: SegmentationData, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (1, K, H, W) and mask (1, H, W) of each image, in arrays as large as the largest; around it all is 0."""
    assert data.window is not None
    for index in range(len(data)):
        image = input_of(data, index).to(device)
        own = slide(lambda windows: as_scores(forward(windows)), image, data.window, batch_size)
        yield in_place(data, index, own)[None], torch.from_numpy(np.array(data.masks[index : index + 1])).to(device)


def in_place(data: SegmentationData, index: int, own: Tensor) -> Tensor:
    """Scores (K, h, w) of an image → (K, H, W) in an array as large as the split's; 0 around it."""
    whole = own.new_zeros(len(own), *data.masks.shape[1:])
    whole[(slice(None), *data.inside(index))] = own
    return whole


def as_scores(logits: Tensor) -> Tensor:
    """Logits (B, K, …) as what neighbouring windows are averaged by: probabilities, less one half where K is 1, so that
    labels are told from them as from logits."""
    return logits.float().sigmoid() - 0.5 if logits.shape[1] == 1 else logits.float().softmax(dim=1)


def trivial_baselines(data: SegmentationData) -> dict[str, dict[str, float]]:
    """Scores of predicting background everywhere and foreground (class 1) everywhere: what any result must beat."""
    scores = {}
    for name, label in (("all background", 0), ("all foreground", 1)):
        guess = torch.full(data.masks.shape[1:], label, dtype=torch.uint8)
        scores[name] = summarize(constant_counts(guess, data.masks, data.num_classes))
        predicted = np.broadcast_to(guess.numpy(), data.masks.shape)
        scores[name]["hd95"] = mean_hd95(data.own(predicted), data.own(data.masks), data.num_classes)
    return scores
