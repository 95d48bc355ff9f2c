"""What a search would cost: device hours as the report counts them (hours of worker time), and memory of a worker.

Rests on the best that is known, and says on what: searches that ended here with the same network, image size and
workers; else such searches with other networks, scaled by counted operations; else an assumed range of throughput.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api import schemas
from cluster.config import RetrainJob, SearchJob
from cluster.run_view import Progress
from cluster.work import TRAIN_PASSES, Work, cost_of, training_memory, work_by_phase, work_of
from slicemamba.costs import NetworkCost
from slicemamba.errors import InputError
from slicemamba.recipes import TRAININGS

# Operations a second of one CPU thread and of one GPU in float32: wide, as small networks reach a fraction of what
# large ones do. A CPU thread with AVX-512 reached 37e9 and more at the published size (docs/benchmarks.md).
CPU_RANGE, GPU_RANGE = (3e9, 40e9), (1e12, 20e12)
START_SECONDS = (4.0, 30.0)
"""That the workers of a phase take to start: processes, imports, images. Seen on laptops and on busy machines."""
MAX_EARLIER = 5
_MEASURED_SPREAD = 1.3  # machines and images differ, even for the same network
_SCALED_SPREAD = 3.0


@dataclass(frozen=True)
class Rates:
    """Seconds of worker time for one image trained, for one evaluated, and for the start of a phase's workers."""

    train: float
    evaluate: float
    start: float = 0.0


@dataclass(frozen=True)
class Earlier:
    """A search that ended: what it was, and how fast it went."""

    search_id: str
    job: SearchJob
    rates: Rates


def num_evaluations(job: SearchJob) -> int:
    """Architectures evaluated, the random baseline's included."""
    return job.search.num_trials * (2 if job.search.random_baseline else 1)


def work_told(job: SearchJob | RetrainJob, progress: Mapping[str, Progress]) -> dict[str, Work] | None:
    """``work_by_phase`` of a run by the images that its driver has counted; None before it has."""
    checked = progress.get("check")
    if checked is None or not {"train", "val", "search", "test"} <= checked.metrics.keys():
        return None
    return work_by_phase(job, {split: int(checked.metrics[split]) for split in ("train", "val", "search", "test")})


def workers_told(progress: Mapping[str, Progress]) -> float:
    """Workers that evaluate candidates, as the driver found room for."""
    return max(1.0, progress["check"].metrics.get("workers", 1.0))


def seconds_per_pass(work: Mapping[str, Work], progress: Mapping[str, Progress]) -> float | None:
    """Of a forward pass of one image by the training workers together, from the first training that tells."""
    for name in TRAININGS:
        begun = progress.get(name)
        if name in work and begun is not None and begun.seconds_per_unit is not None:
            return begun.seconds_per_unit * begun.total / max(1, work[name].passes)
    return None


def measured_rates(job: SearchJob, progress: Mapping[str, Progress]) -> Rates | None:
    """How fast a search that has SUCCEEDED went; None where its record does not tell.

    What candidates were spared by racing and shared blocks is part of the rate.
    """
    work, searched = work_told(job, progress), progress.get("search")
    per_pass = None if work is None else seconds_per_pass(work, progress)
    if work is None or per_pass is None or searched is None or not searched.seconds:
        return None
    starts = [phase.start_seconds for phase in progress.values() if phase.start_seconds is not None]
    return Rates(
        start=sum(starts) / max(1, len(starts)),
        train=TRAIN_PASSES * per_pass * job.resources.train.num_workers,
        evaluate=searched.seconds * workers_told(progress) / work["search"].evaluated,
    )


def estimate(job: SearchJob, num_images: Mapping[str, int], earlier: Iterable[Earlier]) -> schemas.Estimate:
    """The estimate of a search.

    Args:
        job: the search. num_images: of each split. earlier: searches that ended here, newest first.

    Raises:
        InputError: the search is so large that its cost is no number any more.
    """
    work, cost = work_of(job, num_images), cost_of(job)
    try:
        starts = len(work_by_phase(job, num_images)) * job.resources.train.num_workers
        hours, low, high, basis = _hours(job, work, starts, cost, list(earlier))
        memory = training_memory(job) / 2**20
    except OverflowError:
        high = memory = math.inf
    if not math.isfinite(high) or not math.isfinite(memory):
        raise InputError("the search is too large for a cost estimate; lower the sizes under model, epochs or trials")
    return schemas.Estimate(
        num_evaluations=num_evaluations(job),
        device_hours=hours,
        device_hours_low=low,
        device_hours_high=high,
        memory_mb=memory,
        basis=basis,
    )


def _hours(
    job: SearchJob, work: Work, starts: int, cost: NetworkCost, earlier: list[Earlier]
) -> tuple[float, float, float, str]:
    """(expected, low, high, what they rest on); ``starts`` of workers."""
    near = [one for one in earlier if workers_of(one.job) == workers_of(job)]
    same = [one for one in near if _alike(one.job) == _alike(job)][:MAX_EARLIER]
    if same:
        found = [_total(work, starts, one.rates, 1.0) for one in same]
        basis = f"measured: {_named(same)} had the same network, image size and workers on this service"
        return _spread(found, _MEASURED_SPREAD, basis)
    if near:
        near = near[:MAX_EARLIER]
        found = [_total(work, starts, one.rates, cost.flops / cost_of(one.job).flops) for one in near]
        basis = (
            f"scaled: {_named(near)} had the same workers on this service; seconds are scaled by the operations of the "
            f"networks ({cost.flops / 1e9:.3g} G per image here)"
        )
        return _spread(found, _SCALED_SPREAD, basis)
    return _assumed(job, work, starts, cost)


def _alike(job: SearchJob) -> tuple[Any, ...]:
    """What must agree for seconds of one search to hold for another."""
    return job.model, job.data.image_size, job.data.num_classes, job.supernet.precision, job.search.precision


def workers_of(job: SearchJob) -> tuple[Any, ...]:
    """What must agree for seconds of one search to tell anything of another."""
    train, search = job.resources.train, job.resources.search
    return train.cpus, train.gpus, search.cpus, search.gpus


def _named(found: Sequence[Earlier]) -> str:
    more = f" and {len(found) - 1} before it" if len(found) > 1 else ""
    return f"search {found[0].search_id}{more}"


def _total(work: Work, starts: int, rates: Rates, factor: float) -> float:
    passes = factor * (work.trained * rates.train + work.evaluated * rates.evaluate)
    return (passes + starts * rates.start) / 3600


def _spread(found: Sequence[float], factor: float, basis: str) -> tuple[float, float, float, str]:
    """The newest search's figure, and a range around all of them."""
    return found[0], min(found) / factor, max(found) * factor, basis


def _assumed(job: SearchJob, work: Work, starts: int, cost: NetworkCost) -> tuple[float, float, float, str]:
    """A worker with a GPU is taken to be as fast as its share of one, else as its threads."""
    train, search = job.resources.train, job.resources.search

    def seconds(place: int) -> float:
        total = 0.0
        for passes, cpus, gpus in (
            (TRAIN_PASSES * work.trained, train.cpus, train.gpus),
            (work.evaluated, search.cpus, search.gpus),
        ):
            speed = gpus * GPU_RANGE[place] if gpus else cpus * CPU_RANGE[place]
            total += passes * cost.flops / speed
        return total

    slow = (seconds(0) + starts * START_SECONDS[1]) / 3600
    fast = (seconds(1) + starts * START_SECONDS[0]) / 3600
    ranges = []
    if train.gpus or search.gpus:
        ranges.append(f"{GPU_RANGE[0] / 1e12:g}–{GPU_RANGE[1] / 1e12:g} TFLOP/s per GPU")
    if not (train.gpus and search.gpus):
        ranges.append(f"{CPU_RANGE[0] / 1e9:g}–{CPU_RANGE[1] / 1e9:g} GFLOP/s per CPU thread")
    basis = (
        f"assumed: {cost.flops / 1e9:.3g} GFLOP per image, counted, at {' and '.join(ranges)}; no search with these "
        "workers has ended on this service yet"
    )
    return (slow * fast) ** 0.5, fast, slow, basis
