"""Latency from a table: each block and choice is timed once, and a slicing's latency is the sum of its blocks.

A table costs a few passes through the network, and its values do not scatter from one candidate to the next. It leaves
out what blocks do to one another (caches, kernels that run at the same time), so it ranks slicings and is no promise;
for a slicing with the first choice in all blocks it gives what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from nas.space import SearchSpace
from slicemamba.architecture import Architecture, format_block
from slicemamba.models.supernet import Supernet

T = TypeVar("T")
Precision = Callable[[], AbstractContextManager[Any]]


class LatencyTable(BaseModel):
    """Times in milliseconds of a forward pass.

    Attributes:
        device, batch_size, image_size: what was timed: the device's name, images a pass, (height, width) in pixels.
        rest_ms: of all that is no block. blocks_ms: of each block by choice, in forward order.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    batch_size: int
    image_size: tuple[int, int]
    rest_ms: float
    blocks_ms: tuple[Mapping[str, float], ...]

    def latency_ms(self, architecture: Architecture) -> float:
        """Of one forward pass with this slicing. Raises KeyError for a choice that is not in the table."""
        blocks = zip(self.blocks_ms, architecture.blocks(), strict=True)
        return self.rest_ms + sum(times[format_block(block)] for times, block in blocks)


def shortest_ms(run: Callable[[], T], device: torch.device, repeats: int) -> tuple[float, T]:
    """Shortest wall time of several calls after one to warm up, and what the last returned.

    The shortest, because whatever else the machine does can only add to it.
    """
    times = []
    result = run()
    _wait(device)
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        _wait(device)
        times.append(1000 * (time.perf_counter() - started))
    return min(times), result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def measure_latencies(supernet: Supernet, images: Tensor, repeats: int, precision: Precision) -> LatencyTable:
    """Times every block with every choice.

    Args:
        supernet: in eval mode. images: (B, 3, H, W) on its device.
        repeats: timed calls of each; the shortest counts.
        precision: the context in which the network runs.
    """
    device = images.device
    config = supernet.config
    space = SearchSpace(supernet.choices, config.depths, config.has_widths)
    uniform = space.fixed()[0]
    blocks: list[dict[str, float]] = []
    with precision():
        total, _ = shortest_ms(lambda: supernet(images, uniform), device, repeats)
        features = supernet.embed(images)
        for place, first in enumerate(uniform.blocks()):
            blocks.append(
                {
                    format_block(choice): shortest_ms(
                        lambda place=place, choice=choice, given=features: supernet.advance(given, place, choice),  # type: ignore[misc]
                        device,
                        repeats,
                    )[0]
                    for choice in (space.choices[gene] for gene in space.options[place])
                }
            )
            features = supernet.advance(features, place, first)
    return LatencyTable(
        device=device_name(device),
        batch_size=len(images),
        image_size=(images.shape[2], images.shape[3]),
        rest_ms=total - sum(times[format_block(first)] for times, first in zip(blocks, uniform.blocks(), strict=True)),
        blocks_ms=tuple(blocks),
    )


def device_name(device: torch.device) -> str:
    """The graphics card's name, or the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


@torch.inference_mode()
def peak_memory_mb(run: Callable[[], object], device: torch.device) -> float:
    """MiB that a call allocates on a CUDA device at its peak, beyond what was there before (weights and input)."""
    run()  # what a first pass allocates for good is none of the pass's own
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
