"""What a search would do and take, before it is begun: data checked, work planned, one step tried."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from cluster.capacity import live_nodes, needs_of, wait_for_room, waits_for
from cluster.config import SearchJob
from cluster.connect import NO_RAY, ray_cluster
from cluster.driver import with_paths
from cluster.initial import build_network, check_init
from cluster.progress import TITLES
from cluster.ray_train import path_sampler
from cluster.work import Work, samples_of, work_by_phase
from cluster.workers import device_for, use_threads
from nas.advice import advice
from slicemamba.data.base import load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.checks import check_dataset
from slicemamba.errors import RunFailedError
from slicemamba.training.trainer import TrainingDivergedError, fit

_TRIES = 5
_SPREAD = 2.0  # of a pass: candidates differ, and the machine does other things, too
_START_SECONDS = (1.0, 30.0)  # of the workers of a phase: in one process, and by Ray on a busy machine


@dataclass(frozen=True)
class Trial:
    """One step of the supernet's training.

    Attributes:
        seconds_per_pass: of one image forward. memory: of this process then, in bytes.
    """

    seconds_per_pass: float
    memory: int


def dry_run(job: SearchJob, address: str | None, console: Console) -> None:
    """Prints it.

    Args:
        address: of the Ray that would be used, or NO_RAY; None: one of this machine.

    Raises:
        InputError: a fault of the data or of the job. RunFailedError: the step failed.
    """
    found = with_paths(job)
    assert isinstance(found, SearchJob)
    job = found
    check_init(job)
    report = check_dataset(job.data, cache_dir=default_cache_dir())
    missing = _missing(job, address)
    try:
        tried = try_step(job)
    except (TrainingDivergedError, RuntimeError) as error:
        raise RunFailedError(f"a training step failed: {error}") from error
    samples = samples_of(job.data, report.num_images, report.median_size)
    console.print(_plan(work_by_phase(job, samples), tried))
    console.print(f"memory: {tried.memory / 2**30:.1f} GiB for a training worker, measured in that step")
    for sentence in [*advice(job.search, job.data.num_classes), *missing]:
        console.print(f"[yellow]note:[/] {sentence}")
    console.print("It can run. Nothing was started.")


def _missing(job: SearchJob, address: str | None) -> list[str]:
    """What the cluster has no room for now. Raises InputError where it is this machine, which never has more."""
    needs = needs_of(job.resources, trains=True, searches=True)
    if address in (None, NO_RAY, "local"):
        wait_for_room(needs, 0, True, lambda _: None)
        return []
    with ray_cluster(address):
        sentence = waits_for(needs, live_nodes())
    return [] if sentence is None else [sentence]


def try_step(job: SearchJob) -> Trial:
    """Trains the supernet for one batch, several times: the first includes what is done once, and others what else the
    machine does; the shortest counts.
    """
    use_threads(job.resources.train.cpus)
    settings = job.supernet.model_copy(update={"epochs": 1, "warmup_epochs": 0, "early_stop_epochs": None})
    batch = load_split(job.data, "train", default_cache_dir()).take(slice(settings.batch_size))
    if batch.window is not None and batch.sizes is not None:  # one window of each image
        batch = replace(batch, sizes=np.minimum(batch.sizes, batch.window))
    network = build_network(job, None).to(device_for(job.resources.train))
    sampler = path_sampler(job)

    def step() -> None:
        fit(network, batch, settings, validate=lambda: {"dice": 0.0}, on_epoch=lambda *_: None, draw=sampler)

    seconds = min(_seconds(step) for _ in range(_TRIES))
    passes = Work(job.supernet.paths_per_step * batch.num_samples, 0).passes
    return Trial(seconds / passes, psutil.Process().memory_info().rss)


def _seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _plan(work: dict[str, Work], tried: Trial) -> Table:
    """A row a phase, with a range of minutes of one worker."""
    table = Table("phase", "images trained", "images evaluated", "worker time", title="Plan", show_footer=True)
    low = high = 0.0
    for name, phase in work.items():
        seconds = phase.passes * tried.seconds_per_pass
        shortest, longest = seconds / _SPREAD + _START_SECONDS[0], seconds * _SPREAD + _START_SECONDS[1]
        table.add_row(TITLES[name], f"{phase.trained:,}", f"{phase.evaluated:,}", _range(shortest, longest))
        low, high = low + shortest, high + longest
    table.columns[0].footer, table.columns[3].footer = "all", _range(low, high)
    return table


def _range(low: float, high: float) -> str:
    """Of seconds."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if high >= 2 * size:
            return f"{_short(low / size)} … {_short(high / size)} {unit}"
    return f"{_short(low)} … {_short(high)} s"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
