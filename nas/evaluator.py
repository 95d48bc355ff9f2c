"""Measures a slicing with the supernet's weights: deterministic but for latency, over the whole search split."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from nas.config import SearchConfig
from slicemamba.architecture import Architecture
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import to_input
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.supernet import Supernet


class Evaluator:
    """Evaluates architectures one after the other.

    Args:
        supernet: trained, on its device; set to eval mode.
        data: the search split.
        config: batch size, latency repeats and objectives (HD95 and latency are measured only when asked for).
    """

    def __init__(self, supernet: Supernet, data: SegmentationData, config: SearchConfig) -> None:
        self.supernet = supernet.eval()
        self.data = data
        self.config = config
        self.device = next(supernet.parameters()).device
        any_slicing = Architecture.uniform(supernet.choices[0], supernet.config.depths)
        subnet = supernet.extract(any_slicing)
        height, width = data.images.shape[1:3]
        # The same for every slicing, so counted once.
        self._cost = {
            "params": float(num_parameters(subnet)),
            "flops": float(count_flops(subnet, (height, width))),
        }

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """All objectives' values, and the other scores of docs/metrics.md; NaN where a logit was not finite."""
        scored = evaluate(
            lambda images: self.supernet(images, architecture),
            self.data,
            batch_size=self.config.batch_size,
            device=self.device,
            with_hd95="hd95" in self.config.objectives,
        )
        metrics = scored.metrics | self._cost
        if "latency_ms" in self.config.objectives:
            metrics["latency_ms"] = self.latency_ms(architecture)
        return metrics

    @torch.inference_mode()
    def latency_ms(self, architecture: Architecture) -> float:
        """Shortest wall time of a forward pass of one image on this worker, in milliseconds, after one to warm up.

        The shortest, because whatever else the machine does can only add to it.
        """
        image = to_input(self.data.images[:1], self.data.intensity).to(self.device)
        times = []
        for _ in range(self.config.latency_repeats + 1):
            started = time.perf_counter()
            self.supernet(image, architecture)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(1000 * (time.perf_counter() - started))
        return min(times[1:])


def mean_scores(
    supernet: Supernet, architectures: Sequence[Architecture], data: SegmentationData, batch_size: int
) -> dict[str, float]:
    """Mean of the pooled scores over a fixed set of architectures: what a supernet is validated by."""
    device = next(supernet.parameters()).device
    scores = [
        evaluate(lambda images, a=a: supernet(images, a), data, batch_size=batch_size, device=device, with_hd95=False)  # type: ignore[misc]
        for a in architectures
    ]
    return {name: statistics.fmean(score.metrics[name] for score in scores) for name in ("dice", "miou")}
