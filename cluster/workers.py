"""Work on the cluster's workers beside Ray Train's and Tune's, and how many threads any worker computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch

from cluster.config import SearchWorkers, TrainWorkers

T = TypeVar("T")


def use_threads(cpus: float) -> None:
    """To be called first in a worker: as many threads as it was given CPUs, so that workers do not take each other's.

    Ray puts the number into OMP_NUM_THREADS, but only where that is not set already, and too late where torch has been
    loaded before. A fraction of a CPU counts as one.
    """
    torch.set_num_threads(max(1, int(cpus)))


def run_on_worker(function: Callable[..., T], workers: TrainWorkers | SearchWorkers, name: str, *arguments: Any) -> T:
    """Calls a function on one worker with these resources, shown in Ray's dashboard by ``name``, and waits."""
    task = ray.remote(_call).options(num_cpus=workers.cpus, num_gpus=workers.gpus, name=name)
    result: T = ray.get(task.remote(function, workers.cpus, *arguments))
    return result


def _call(function: Callable[..., T], cpus: float, *arguments: Any) -> T:
    use_threads(cpus)
    return function(*arguments)
