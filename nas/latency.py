"""Latency from a table: blocks are timed with choices of each size, and a network's latency is the sum of its blocks.

Slicings of one size do the same work, so they share one figure, and networks of equal cost get equal latencies.

A table costs a few passes through the network, and its values do not scatter from one candidate to the next. It leaves
out what blocks do to one another (caches, kernels that run at the same time), so it ranks slicings and is no promise;
for a slicing with the first choice in all blocks it gives what was measured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from nas.space import SearchSpace
from slicemamba.architecture import Architecture, Block, format_block
from slicemamba.models.supernet import Supernet

T = TypeVar("T")
Precision = Callable[[], AbstractContextManager[Any]]


class LatencyTable(BaseModel):
    """Times in milliseconds of a forward pass.

    Attributes:
        device, batch_size, image_size: what was timed: the device's name, images a pass, (height, width) in pixels.
        rest_ms: of all that is no block. blocks_ms: of each block by choice, in forward order.
        resolution_ms: difference of two networks that cannot be told from chance, from the spread of the timings; 0 in
            tables of older versions.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    batch_size: int
    image_size: tuple[int, int]
    rest_ms: float
    blocks_ms: tuple[Mapping[str, float], ...]
    resolution_ms: float = 0.0

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
    """Times every block with a choice of each size, in rounds of all, so that a slow moment falls on all alike.

    Args:
        supernet: in eval mode. images: (B, 3, H, W) on its device.
        repeats: rounds; the median of each time counts.
        precision: the context in which the network runs.
    """
    device = images.device
    config = supernet.config
    space = SearchSpace(supernet.choices, config.depths, config.has_widths)
    uniform = space.fixed()[0]
    choices = [[space.choices[gene] for gene in options] for options in space.options]
    # Blocks of networks of their own, as the chosen one will be: a smaller block of a supernet with shared weights
    # first takes its part of them, which costs more than it saves in small networks.
    sizes = dict.fromkeys(_size(choice) for choice in space.choices)
    alone = {size: supernet.extract(_with(size, choices, config.depths)).eval() for size in sizes}
    calls: dict[tuple[int, Block], Callable[[], object]] = {}
    with precision():
        features = supernet.embed(images)
        for place, first in enumerate(uniform.blocks()):
            for choice in choices[place]:
                if (place, _size(choice)) not in calls:
                    network = alone[_size(choice)]
                    calls[place, _size(choice)] = partial(network.advance, features, place, choice)
            features = supernet.advance(features, place, first)
        whole, *parts = _rounds([partial(supernet.extract(uniform).eval(), images), *calls.values()], device, repeats)
    medians = dict(zip(calls, map(statistics.median, parts), strict=True))
    blocks = [
        {format_block(choice): medians[place, _size(choice)] for choice in options}
        for place, options in enumerate(choices)
    ]
    return LatencyTable(
        device=device_name(device),
        batch_size=len(images),
        image_size=(images.shape[2], images.shape[3]),
        rest_ms=statistics.median(whole)
        - sum(times[format_block(first)] for times, first in zip(blocks, uniform.blocks(), strict=True)),
        blocks_ms=tuple(blocks),
        resolution_ms=_resolution_ms(whole),
    )


def _with(size: Block, choices: Sequence[Sequence[Block]], depths: tuple[int, ...]) -> Architecture:
    """An architecture with a choice of this size wherever there is one, else with the first."""
    blocks = [next((one for one in options if _size(one) == size), options[0]) for options in choices]
    return Architecture.from_blocks(blocks, depths)


def _size(choice: Block) -> Block:
    """The choice without its slicing."""
    return choice._replace(rows=1, columns=1) if choice.scans else choice


def _rounds(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[list[float]]:
    """Milliseconds of each call in each round, after one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, of_call in zip(calls, times, strict=True):
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            if turn:
                of_call.append(1000 * (time.perf_counter() - started))
    return times


def _resolution_ms(times: Sequence[float]) -> float:
    """Half the 95 % interval of the difference of two medians of as many timings, from the spread of these."""
    if len(times) < 2:
        return 0.0
    of_median = math.sqrt(math.pi / 2) * statistics.stdev(times) / math.sqrt(len(times))
    return 1.96 * math.sqrt(2) * of_median


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
