"""Validation by all processes of a training together: each evaluates its share of the images."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist

from slicemamba.data.base import SegmentationData
from slicemamba.evaluation.evaluate import Forward, evaluate
from slicemamba.evaluation.metrics import pooled_scores
from slicemamba.training.trainer import place


def shared_scores(
    forward: Forward, data: SegmentationData, *, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Scores pooled over a split, the same on every process and for any number of them: pixels are counted.

    Args:
        forward, data, batch_size, device: as of ``evaluate``. Every process calls this with the same split.

    Returns:
        ``dice`` and ``miou``, NaN where a logit was not finite.
    """
    rank, world = place()
    found = torch.zeros(data.num_classes * 4 + 1, dtype=torch.int64, device=device)  # the last: not finite
    own = _share(data, rank, world)
    if len(own):
        evaluated = evaluate(forward, own, batch_size=batch_size, device=device, with_hd95=False)
        counts = torch.from_numpy(evaluated.counts.sum(axis=0)).flatten()
        found = torch.cat([counts, torch.tensor([not evaluated.is_finite])]).to(device)
    if world > 1:
        dist.all_reduce(found)
    scores = pooled_scores(found[:-1].reshape(-1, 4).cpu().to(torch.float64))
    return {name: float("nan") if found[-1] else scores[name].item() for name in ("dice", "miou")}


def _share(data: SegmentationData, rank: int, world: int) -> SegmentationData:
    """Every ``world``-th image from the ``rank``-th on."""
    if world == 1:
        return data
    own = slice(rank, None, world)
    patients = None if data.patients is None else data.patients[own]
    return replace(data, images=data.images[own], masks=data.masks[own], names=data.names[own], patients=patients)
