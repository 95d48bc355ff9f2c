"""Measures a slicing with the supernet's weights: deterministic but for latency, over the whole search split.

Images are made ready once and stay on the device, pixels are counted there, and a slicing starts at the first block in
which it differs from an earlier one (``nas.prefix_cache``). None of this changes a bit of the result.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.config import Flip, SearchConfig
from nas.latency import LatencyTable, measure_latencies, peak_memory_mb, shortest_ms
from nas.prefix_cache import PrefixCache
from nas.racing import Race
from slicemamba.architecture import Architecture
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import input_of, inputs_of
from slicemamba.data.windows import cut, join, places
from slicemamba.errors import InputError
from slicemamba.evaluation.evaluate import as_scores, in_place
from slicemamba.evaluation.metrics import confusion, image_hd95, summarize, to_labels
from slicemamba.models.complexity import cost
from slicemamba.models.supernet import Supernet
from slicemamba.training.validation import shared_scores

_FLIPPED_AXES: dict[Flip, tuple[int, ...]] = {"horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}
_MB = 1 << 20


@dataclass(frozen=True, eq=False)
class CandidateEvaluation:
    """What a slicing scored.

    Attributes:
        metrics: as of ``Evaluator.__call__``; empty when the candidate was given up.
        counts: (n, K, 4) pixel counts of each image seen: true positives, false positives, false negatives, true
            negatives; summed over flips. All images of the split in its order, unless the candidate was given up.
        names: of these images. hd95: (n,) of each, in pixels, where it is measured and the candidate was not given up.
        pruned: given up by racing.
        work: ``images`` scored, and blocks run (``blocks_computed``) and taken from earlier candidates
            (``blocks_reused``), each counted once an image.
    """

    metrics: dict[str, float]
    counts: npt.NDArray[np.uint32]
    names: tuple[str, ...]
    pruned: bool
    hd95: npt.NDArray[np.float64] | None = None
    work: dict[str, int] = field(default_factory=dict)


class SplitBatches:
    """A split as batches on the device: ready input tensors, kept when all of them fit the budget.

    Args:
        data: the split. indices: of the images of each batch. flips: appended to each batch in these mirrored forms.
        max_bytes: of all batches together.
    """

    def __init__(
        self,
        data: SegmentationData,
        indices: list[npt.NDArray[np.int64]],
        flips: Sequence[Flip],
        device: torch.device,
        max_bytes: int,
    ) -> None:
        self._data = data
        self._flips = flips
        self._device = device
        self.indices = indices
        images, masks = self._make(0)
        num_bytes = images.nbytes + masks.nbytes
        fits = num_bytes / len(self.indices[0]) * sum(map(len, indices)) <= max_bytes
        self._ready = [self._make(batch) for batch in range(len(self.indices))] if fits else None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        """Images (F·B, C, H, W) and masks (F·B, H, W), each flip's one after the other.

        Where the network sees windows, they are in place of the images, those of an image one after the other.
        """
        return self._make(batch) if self._ready is None else self._ready[batch]

    def _make(self, batch: int) -> tuple[Tensor, Tensor]:
        chosen = self.indices[batch]
        windowed = self._data.window is not None
        images = (_windows_of(self._data, chosen) if windowed else inputs_of(self._data, chosen)).to(self._device)
        masks = torch.from_numpy(np.array(self._data.masks[chosen])).to(self._device)
        axes = [_FLIPPED_AXES[flip] for flip in self._flips]
        return (
            torch.cat([images, *(images.flip(each) for each in axes)]),
            torch.cat([masks, *(masks.flip(each) for each in axes)]),
        )


class Evaluator:
    """Evaluates architectures one after the other.

    Args:
        supernet: trained, on its device; set to eval mode. Its weights must not change afterwards.
        data: the search split.
        config: batch size, flips, precision, racing, what is kept, and objectives (HD95, latency and peak memory are
            measured only when asked for).
        latencies: the table for ``latency: table``; measured when first needed if None.

    Raises:
        InputError: peak memory is asked for, and the device is none that keeps count of it.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: SegmentationData,
        config: SearchConfig,
        latencies: LatencyTable | None = None,
    ) -> None:
        self.supernet = supernet.eval()
        self.data = data
        self.config = config
        self.device = next(supernet.parameters()).device
        # A race must see the images in an order that has nothing to do with what they show.
        order = np.random.default_rng(config.seed).permutation(len(data)) if config.racing else np.arange(len(data))
        self._order = order
        # How far it has come after each batch as configured: where races look, whatever the memory suffices for.
        self._ends = [min(start + config.batch_size, len(data)) for start in range(0, len(data), config.batch_size)]
        self._make_batches(max(1, config.batch_size * len(data) // data.num_samples))
        if "peak_memory_mb" in config.measured and self.device.type != "cuda":
            raise InputError(f"peak_memory_mb is measured on CUDA devices only; the search runs on {self.device.type}")
        self._latencies = latencies

    def _make_batches(self, batch_size: int) -> None:
        """Batches of the size as configured, each in parts of at most ``batch_size``, and empty caches."""
        config, starts = self.config, [0, *self._ends]
        self._batch_size = batch_size
        indices = [
            self._order[first : min(first + batch_size, end)]
            for start, end in pairwise(starts)
            for first in range(start, end, batch_size)
        ]
        budget = config.activation_cache_mb * _MB
        self._caches = [PrefixCache(budget * len(chosen) // len(self._order)) for chosen in indices]
        self._batches = SplitBatches(self.data, indices, config.flips, self.device, config.image_cache_mb * _MB)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """All objectives' values, and the other scores of docs/metrics.md; NaN where a logit was not finite."""
        return self.score(architecture).metrics

    @torch.inference_mode()
    def score(
        self,
        architecture: Architecture,
        references: Sequence[npt.NDArray[np.uint32]] = (),
        peers: Sequence[npt.NDArray[np.uint32]] = (),
    ) -> CandidateEvaluation:
        """Scores a slicing, with its counts of each image.

        Args:
            references, peers: counts (N, K, 4) of slicings scored in full, images in the split's order. With
                ``config.racing`` the candidate is given up once it has fallen behind one of the references; the peers
                tell how much each image can still change (``nas.racing``).

        Raises:
            RuntimeError, MemoryError: among others where the memory does not suffice for one image at a time.
        """
        while True:
            try:
                return self._score(architecture, references, peers)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._batch_size == 1:
                    raise
            # Outside of the handler, as the error holds on to the tensors of the failed pass.
            self._caches = []
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._make_batches(self._batch_size // 2)

    def _score(
        self,
        architecture: Architecture,
        references: Sequence[npt.NDArray[np.uint32]],
        peers: Sequence[npt.NDArray[np.uint32]],
    ) -> CandidateEvaluation:
        race, total = self._race(references, peers), len(self.data)
        counts: list[Tensor] = []
        labels: list[Tensor] = []
        finite: list[Tensor] = []
        seen = reused = 0
        for batch, chosen in enumerate(self._batches.indices):
            logits, masks, known = self._forward(batch, architecture)
            predicted = to_labels(logits, self.data.num_classes)
            counts.append(_by_flip(confusion(predicted, masks, self.data.num_classes), len(chosen)).sum(dim=0))
            finite.append(torch.isfinite(logits).all())
            if "hd95" in self.config.measured:
                labels.append(_by_flip(predicted.to(torch.uint8), len(chosen)).cpu())
            seen, reused = seen + len(chosen), reused + known * len(chosen)
            if race is not None and seen < total and seen in self._ends and race.lost(torch.cat(counts).cpu().numpy()):
                break
        order = np.argsort(self._order[:seen])  # from the order in which they were seen back to the split's
        ordered = torch.cat(counts).cpu()[order]
        distances = self._hd95(torch.cat(labels, dim=1)[:, order]) if labels and seen == total else None
        metrics = {} if seen < total else self._metrics(architecture, ordered, distances, all(finite))
        return CandidateEvaluation(
            metrics=metrics,
            hd95=distances,
            counts=ordered.numpy().astype(np.uint32),
            names=tuple(self.data.names[i] for i in self._order[:seen][order]),
            pruned=seen < total,
            work={
                "images": seen,
                "blocks_computed": architecture.num_blocks * seen - reused,
                "blocks_reused": reused,
            },
        )

    def _metrics(
        self, architecture: Architecture, counts: Tensor, hd95: npt.NDArray[np.float64] | None, finite: bool
    ) -> dict[str, float]:
        metrics = summarize(counts)
        if hd95 is not None:
            metrics["hd95"] = float(hd95.mean())
        if not finite:
            metrics = dict.fromkeys(metrics, float("nan"))
        metrics |= cost(self.supernet.config, self.supernet.num_classes, architecture, self.data.input_size)
        if "latency_ms" in self.config.measured:
            metrics["latency_ms"] = self.latency_ms(architecture)
        if "peak_memory_mb" in self.config.measured:
            metrics["peak_memory_mb"] = peak_memory_mb(lambda: self._timed_pass(architecture), self.device)
        return metrics

    def _forward(self, batch: int, architecture: Architecture) -> tuple[Tensor, Tensor, int]:
        """Logits, the same to the last bit as ``supernet.run`` gives, masks, and how many blocks were known.

        Of windows, scores of the whole images as ``evaluate.as_scores`` makes them of logits.
        """
        images, masks = self._batches[batch]
        blocks, cache, supernet = tuple(architecture.blocks()), self._caches[batch], self.supernet
        with self._precision():
            known, features = cache.longest(blocks)
            path = []
            if features is None:
                features = supernet.embed(images)
                path.append(features)
            for block in range(known, len(blocks)):
                features = supernet.advance(features, block, blocks[block])
                path.append(features)
            logits = supernet.logits(features, images.shape[2:])
        cache.keep(blocks, path[:-1])
        whole = logits.float() if self.data.window is None else self._join(self._batches.indices[batch], logits)
        return whole, masks, known

    def _join(self, chosen: npt.NDArray[np.int64], logits: Tensor) -> Tensor:
        """Scores (B, K, H, W) of images from the logits of all their windows."""
        assert self.data.window is not None
        rest, images = as_scores(logits), []
        for index in chosen.tolist():
            size = self.data.size(index)
            found = places(size, self.data.window)
            images.append(in_place(self.data, index, join(rest[: len(found)], found, size)))
            rest = rest[len(found) :]
        return torch.stack(images)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _race(
        self, references: Sequence[npt.NDArray[np.uint32]], peers: Sequence[npt.NDArray[np.uint32]]
    ) -> Race | None:
        """The race against the references, seen in the race's order."""
        racing = self.config.racing
        if racing is None or not references:
            return None
        objectives = self.config.objectives[:1] if self.config.searcher == "evolution" else self.config.objectives
        return Race(
            racing,
            objectives,
            [counts[self._order] for counts in references],
            [counts[self._order] for counts in peers],
            num_looks=sum(end >= racing.min_images for end in self._ends[:-1]),
        )

    def _hd95(self, labels: Tensor) -> npt.NDArray[np.float64]:
        """Of each image (N,), the mean over flips of labels (F, N, H, W)."""
        truths = torch.from_numpy(np.array(self.data.masks))
        axes: list[tuple[int, ...]] = [(), *(_FLIPPED_AXES[flip] for flip in self.config.flips)]
        values = [
            image_hd95(
                self.data.own(predicted.numpy()), self.data.own(truths.flip(axis).numpy()), self.data.num_classes
            )
            for predicted, axis in zip(labels, axes, strict=True)
        ]
        means: npt.NDArray[np.float64] = np.mean(values, axis=0)
        return means

    def latency_ms(self, architecture: Architecture) -> float:
        """Of a forward pass of ``latency_batch_size`` images on this worker, measured or from the table."""
        if self.config.latency == "table":
            self._latencies = self._latencies or self.measure_latencies()
            return self._latencies.latency_ms(architecture)
        return shortest_ms(lambda: self._timed_pass(architecture), self.device, self.config.latency_repeats)[0]

    def measure_latencies(self) -> LatencyTable:
        """The table that a search with ``latency: table`` takes its latencies from."""
        return measure_latencies(self.supernet, self._timed_images, self.config.latency_repeats, self._precision)

    @torch.inference_mode()
    def _timed_pass(self, architecture: Architecture) -> Tensor:
        with self._precision():
            logits: Tensor = self.supernet(self._timed_images, architecture)
        return logits

    @cached_property
    def _timed_images(self) -> Tensor:
        """As many images as are timed at once; a smaller split is repeated."""
        chosen = np.resize(np.arange(len(self.data)), self.config.latency_batch_size)
        if self.data.window is None:
            return inputs_of(self.data, chosen).to(self.device)
        return torch.cat([_windows_of(self.data, chosen[i : i + 1])[:1] for i in range(len(chosen))]).to(self.device)


def _windows_of(data: SegmentationData, chosen: npt.NDArray[np.int64]) -> Tensor:
    """All windows (T, C, H, W) of some images, one image after the other."""
    assert data.window is not None
    images = chosen.tolist()
    return torch.cat([cut(input_of(data, i), places(data.size(i), data.window), data.window) for i in images])


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the machine's memory did not suffice; torch has an error of its own for GPUs alone."""
    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or ("alloc" in said and "memory" in said)


def _by_flip(batch: Tensor, num_images: int) -> Tensor:
    """(F·B, …) → (F, B, …)."""
    return batch.reshape(-1, num_images, *batch.shape[1:])


def mean_scores(
    supernet: Supernet, architectures: Sequence[Architecture], data: SegmentationData, batch_size: int
) -> dict[str, float]:
    """Mean of the pooled scores over a fixed set of architectures: what a supernet is validated by.

    Called by every process of a training; each evaluates its share of the images.
    """
    device = next(supernet.parameters()).device
    scores = [
        shared_scores(lambda images, a=a: supernet(images, a), data, batch_size=batch_size, device=device)  # type: ignore[misc]
        for a in architectures
    ]
    return {name: statistics.fmean(score[name] for score in scores) for name in ("dice", "miou")}
