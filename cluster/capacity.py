"""Room for workers on the cluster: how many fit its nodes, what a job asks for in vain, and waiting for more nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.config import ResourcesConfig, SearchWorkers, TrainWorkers
from cluster.connect import connected
from cluster.local import num_cores
from slicemamba.errors import InputError, name_some

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Node:
    """What a node of the cluster offers in all, whether it is taken or not."""

    address: str
    cpus: float
    gpus: float

    def num_fitting(self, workers: TrainWorkers | SearchWorkers) -> int:
        """How many of these workers fit. A share of a GPU is a share of one GPU, so of 0.4 two fit each."""
        fitting = _times(workers.cpus, self.cpus)
        if not workers.gpus:
            return fitting
        by_gpus = _times(workers.gpus, self.gpus) if workers.gpus >= 1 else int(self.gpus) * _times(workers.gpus, 1)
        return min(fitting, by_gpus)

    def __str__(self) -> str:
        return f"{self.address} with {self.cpus:g} CPUs and {self.gpus:g} GPUs"


def _times(part: float, whole: float) -> int:
    return int(whole / part + 1e-6)  # 0.3 / 0.1 is a little less than 3


def live_nodes() -> list[Node]:
    """Of the connected cluster; without one, this machine."""
    if not connected():
        import torch

        return [Node("this machine", num_cores(), torch.cuda.device_count())]
    import ray

    found = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
        for node in found
        if node["Alive"]
    ]


def num_fitting(workers: TrainWorkers | SearchWorkers, nodes: Sequence[Node]) -> int:
    """How many of these workers the nodes can hold at the same time."""
    return sum(node.num_fitting(workers) for node in nodes)


@dataclass(frozen=True)
class Need:
    """Workers that a job cannot do without: ``count`` of those that ``field`` of its configuration describes."""

    field: str
    count: int
    workers: TrainWorkers | SearchWorkers

    def shortage(self, nodes: Sequence[Node]) -> str | None:
        """A sentence on what is missing; None where they fit."""
        room = num_fitting(self.workers, nodes)
        if room >= self.count:
            return None
        each = f"{self.workers.cpus:g} CPUs and {self.workers.gpus:g} GPUs"
        wanted = f"a worker with {each}" if self.count == 1 else f"{self.count} workers at once with {each} each"
        there = name_some([str(node) for node in nodes])
        return f"{self.field} needs {wanted}; there is room for {room}, on {there}"


def waits_for(needs: Sequence[Need], nodes: Sequence[Node]) -> str | None:
    """A sentence for whoever is about to submit: what these nodes have no room for; None where they have."""
    missing = [sentence for need in needs if (sentence := need.shortage(nodes)) is not None]
    if not missing:
        return None
    if any(need.workers.gpus for need in needs) and not any(node.gpus for node in nodes):
        return "no node of the cluster has a GPU; the search would wait for one, and fail after resources.wait_seconds"
    return f"the search would wait for the cluster to grow: {'; '.join(missing)}"


def needs_of(resources: ResourcesConfig, *, trains: bool, searches: bool) -> list[Need]:
    """All training workers, as they begin together, and one that evaluates."""
    needs = [Need("resources.train", resources.train.num_workers, resources.train)] if trains else []
    return needs + ([Need("resources.search", 1, resources.search)] if searches else [])


def wait_for_room(needs: Sequence[Need], wait_seconds: float, own: bool, tell: Callable[[str], None]) -> None:
    """Returns when the nodes can hold each of the needs; what others have taken of it may have to be waited for yet.

    Args:
        needs: of the job. wait_seconds: how long a cluster is given to grow.
        own: a Ray of this machine alone, which never grows.
        tell: called with a sentence before it waits.

    Raises:
        InputError: it will not, or does not in time; with what is missing.
    """

    def missing() -> list[str]:
        nodes = live_nodes()
        return [sentence for need in needs if (sentence := need.shortage(nodes)) is not None]

    sentences = missing()
    if sentences and own:
        raise InputError(
            "this machine has too few CPUs or GPUs for the job; request fewer (for instance with "
            "--set resources.train.gpus=0), or give the address of a cluster",
            pointer="/resources",
            details=sentences,
        )
    if not sentences:
        return
    tell(f"the cluster is too small; waiting up to {wait_seconds:g} s for it to grow: {'; '.join(sentences)}")
    deadline = time.monotonic() + wait_seconds
    with _asked_for(needs):
        while sentences and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            sentences = missing()
    if not sentences:
        tell("the cluster has grown enough; going on")
    else:
        raise InputError(
            f"the cluster is too small for the job and has not grown in {wait_seconds:g} s; lower resources or add "
            "nodes, and run again (resources.wait_seconds sets how long to wait)",
            pointer="/resources",
            details=sentences,
        )


@contextmanager
def _asked_for(needs: Sequence[Need]) -> Iterator[None]:
    """Asks Ray for the workers' resources meanwhile, which is what makes an autoscaler start nodes."""
    from ray.util.placement_group import placement_group, remove_placement_group

    asked = []
    for need in needs:
        workers = need.workers
        bundle = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
        strategy = workers.placement if isinstance(workers, TrainWorkers) else "PACK"
        asked.append(placement_group([bundle] * need.count, strategy=strategy))
    try:
        yield
    finally:
        for group in asked:
            remove_placement_group(group)
