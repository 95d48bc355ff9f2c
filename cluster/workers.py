"""Work on the cluster's workers beside Ray Train's and Tune's, and how many threads any worker computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from cluster.config import SearchWorkers, TrainWorkers
from cluster.connect import connected
from slicemamba.errors import InputError, RunFailedError

T = TypeVar("T")


def use_threads(cpus: float) -> None:
    """To be called first in a worker: as many threads as it was given CPUs, so that workers do not take each other's.

    Ray puts the number into OMP_NUM_THREADS, but only where that is not set already, and too late where torch has been
    loaded before. A fraction of a CPU counts as one.
    """
    torch.set_num_threads(max(1, int(cpus)))


def show_as(text: str) -> None:
    """Names a Ray worker's process until its task ends, for the list of processes in Ray's dashboard and in ``top``.

    The dashboard's name of an actor is fixed when it is made; this one follows what a reused actor does.
    """
    if not connected():
        return
    try:
        from ray._raylet import setproctitle  # type: ignore[attr-defined]
    except ImportError:  # Ray does not promise it, and nothing depends on it
        return
    setproctitle(f"ray::{text}")


def device_for(workers: TrainWorkers | SearchWorkers) -> torch.device:
    """Where a worker with these resources computes: on a GPU if it was given one, and not on one that others use."""
    return torch.device("cuda" if workers.gpus and torch.cuda.is_available() else "cpu")


def run_on_worker(
    function: Callable[..., T],
    workers: TrainWorkers | SearchWorkers,
    name: str,
    *arguments: Any,
    retries: int | None = None,
) -> T:
    """Calls a function on one worker with these resources, shown in Ray's dashboard by ``name``, and waits.

    Without a Ray it is called here.

    Args:
        retries: how often it is called again where it raises or its worker dies; None: Ray's own number, for deaths.

    Raises:
        InputError, RunFailedError: raised by the function.
    """
    if not connected():
        return _call(function, workers.cpus, *arguments)
    import ray
    from ray.exceptions import RayTaskError

    tries = {} if retries is None else {"max_retries": retries, "retry_exceptions": True}
    task = ray.remote(_call).options(num_cpus=workers.cpus, num_gpus=workers.gpus, name=name, **tries)
    try:
        result: T = ray.get(task.remote(function, workers.cpus, *arguments))
    except RayTaskError as error:
        if isinstance(error.cause, (InputError, RunFailedError)):  # told to users, who need no traceback of the worker
            raise error.cause from None
        raise
    return result


def _call(function: Callable[..., T], cpus: float, *arguments: Any) -> T:
    use_threads(cpus)
    return function(*arguments)
