"""Validation by all processes of a training together: each evaluates its share of the images."""

from __future__ import annotations

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
    own = data if world == 1 else data.take(slice(rank, None, world))  # every ``world``-th from the ``rank``-th on
    if len(own):
        evaluated = evaluate(forward, own, batch_size=batch_size, device=device, with_hd95=False)
        counts = torch.from_numpy(evaluated.counts.sum(axis=0)).flatten()
        found = torch.cat([counts, torch.tensor([not evaluated.is_finite])]).to(device)
    if world > 1:
        dist.all_reduce(found)
    scores = pooled_scores(found[:-1].reshape(-1, 4).cpu().to(torch.float64))
    return {name: float("nan") if found[-1] else scores[name].item() for name in ("dice", "miou")}
