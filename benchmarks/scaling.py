"""How well workers are kept busy: a search on a simulated cluster whose workers sleep instead of evaluating.

``python -m benchmarks.scaling`` prints a Markdown table. Eight Ray nodes on this machine offer four logical GPUs each
(``--nodes 1``: one node offers all of them); session, study on a journal file, progress and Tune are those of any
search, with the same reused actors. A candidate sleeps 2 s ± 30 %, drawn from its number. The same sleeps under plain
actors, without Tune, searcher or study, tell apart what this machine and Ray itself cost.

**Efficiency** is the share of the time that workers slept, from the moment when the last of them had begun its first
candidate until the first of them had ended its last: neither starting up nor running out. **Possible** is what greedy
hand-out without any delay gives in the same window: less than 1 where a searcher waits for the last of a generation.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.sleeper import Sleeper, duration
from cluster import ray_tune
from cluster.config import SearchJob
from cluster.connect import ENVIRONMENT
from cluster.driver import _SearchProgress
from cluster.local import free_ports
from cluster.run_folder import RunFolder
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial
from slicemamba.models.checkpoints import save_network
from slicemamba.models.supernet import Supernet

FIXED = 4  # slicings that come first
Span = tuple[int, float, float]  # worker, began, ended


@dataclass
class Result:
    """One run: see the module for ``efficiency`` and ``possible``.

    Attributes:
        worked: workers that evaluated anything. start: seconds until the last worker had begun.
        gap: median milliseconds between two candidates of a worker.
        driver: processor milliseconds of the driver's whole process a candidate; ours: those of them in our own code.
    """

    worked: int
    efficiency: float
    possible: float
    start: float
    gap: float
    driver: float = 0.0
    ours: float = 0.0


def efficiency(spans: Sequence[Span]) -> float:
    """Share of the workers' time that was spent busy, where all had begun and none had ended its last."""
    by_worker: defaultdict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_worker[span[0]].append(span)
    begin = max(min(began for _, began, _ in own) for own in by_worker.values())
    end = min(max(ended for _, _, ended in own) for own in by_worker.values())
    busy = sum(max(0.0, min(ended, end) - max(began, begin)) for _, began, ended in spans)
    return busy / (len(by_worker) * (end - begin))


def gap(spans: Sequence[Span]) -> float:
    """Median milliseconds from the end of a worker's candidate to the beginning of its next."""
    last: dict[int, float] = {}
    gaps = []
    for worker, began, ended in sorted(spans, key=lambda span: span[1]):
        if worker in last:
            gaps.append(began - last[worker])
        last[worker] = ended
    return statistics.median(gaps) * 1e3


def ideal(count: int, workers: int, seconds: float, generation: int | None) -> list[Span]:
    """Candidates handed out without any delay; with ``generation``, none before all of the last one have ended."""
    free = [(0.0, worker) for worker in range(workers)]
    spans: list[Span] = []
    barrier = 0.0
    for number in range(count):
        if generation is not None and (number == FIXED or (number > FIXED and (number - FIXED) % generation == 0)):
            barrier = max(ended for _, _, ended in spans)
        at, worker = heapq.heappop(free)
        began = max(at, barrier)
        spans.append((worker, began, began + duration(number, seconds)))
        heapq.heappush(free, (spans[-1][2], worker))
    return spans


@contextmanager
def cluster(nodes: int, gpus: int) -> Iterator[None]:
    """Connects to a cluster of its own, on this machine, that ends with it; ``gpus`` logical ones a node."""
    os.environ.update(ENVIRONMENT, RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    room = {"num_cpus": gpus, "num_gpus": gpus, "object_store_memory": 100 * 2**20}
    [port] = free_ports(1)
    made = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False, "dashboard_port": port})
    try:
        for _ in range(nodes - 1):
            made.add_node(**room)
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()
    finally:
        made.shutdown()


def plain(count: int, workers: int, seconds: float) -> Result:
    """The same sleeps under actors that are given the next as soon as one is done."""

    @ray.remote(num_cpus=1, num_gpus=1)
    class Plain:
        def sleep(self, number: int) -> Span:
            began = time.time()
            time.sleep(duration(number, seconds))
            return os.getpid(), began, time.time()

    actors = [Plain.remote() for _ in range(workers)]
    numbers, spans = deque(range(count)), []
    started, used = time.time(), time.process_time()
    pending = {actor.sleep.remote(numbers.popleft()): actor for actor in actors}
    while pending:
        [done], _ = ray.wait(list(pending), num_returns=1)
        actor = pending.pop(done)
        spans.append(ray.get(done))
        if numbers:
            pending[actor.sleep.remote(numbers.popleft())] = actor
    used = time.process_time() - used
    for actor in actors:
        ray.kill(actor)
    return _result(spans, started, ideal(count, workers, seconds, None), used)


def search(
    name: str,
    count: int,
    workers: int,
    seconds: float,
    folder: Path,
    watch: Callable[[Trial], None] = lambda trial: None,
) -> Result:
    """A search of so many candidates, on the way that any search takes; ``watch`` is told of each that ended."""
    job = SearchJob.model_validate(
        {
            "model": {"embed_dim": 8},
            "resources": {"search": {"num_workers": workers, "gpus": 1}},
            "search": {"searcher": name, "num_trials": count},
        }
    )
    torch.manual_seed(0)
    save_network(folder / "supernet", Supernet(job.model, 1, job.space.choices))
    run, space, config = RunFolder(folder / "run"), job.search_space, job.search
    study = Study(run.study_location, "search", space, config.objectives, name)
    session = SearchSession(study, make_searcher(config, space), origin=name, num_trials=count, enqueue=space.fixed())
    ours: Counter[str] = Counter()
    session.ask = _timed(ours, "ask", session.ask)  # type: ignore[method-assign]
    session.tell = _timed(ours, "tell", session.tell)  # type: ignore[method-assign]
    progress = _timed(ours, "progress", _SearchProgress(run, "search", study, config))

    def on_trial(trial: Trial) -> None:
        progress(trial)
        watch(trial)

    worker = type("Sleeper", (Sleeper,), {"seconds": seconds})
    started, used = time.time(), time.process_time()
    ray_tune.search(
        job, session, folder / "supernet", run, folder / "cache", name="search", on_trial=on_trial, worker=worker
    )
    used = time.process_time() - used
    spans = [(t.work["worker"], t.metrics["began"], t.metrics["ended"]) for t in study.trials()]
    generation = config.population_size if name == "evolution" else None
    result = _result(spans, started, ideal(count, workers, seconds, generation), used)
    result.ours = sum(ours.values()) / count * 1e3
    return result


def grow(count: int, workers: int, folder: Path) -> None:
    """Prints what a candidate costs the driver, and its memory, by tenths of a search whose workers do not sleep."""
    print("| candidates | driver CPU ms | wall ms | MiB resident |\n| ---: | ---: | ---: | ---: |")
    stretch = max(1, count // 10)
    last = time.process_time(), time.perf_counter()

    def watch(trial: Trial) -> None:
        nonlocal last
        assert trial.ended_as is not None
        done = trial.ended_as + 1
        if done % stretch == 0:
            now = time.process_time(), time.perf_counter()
            used, wall = ((after - before) / stretch * 1e3 for before, after in zip(last, now, strict=True))
            memory = psutil.Process().memory_info().rss / 2**20
            print(f"| {done} | {used:.1f} | {wall:.1f} | {memory:.0f} |", flush=True)
            last = now

    search("nsga2", count, workers, 0.0, folder, watch)


def _timed(ours: Counter[str], part: str, action: Callable[..., Any]) -> Callable[..., Any]:
    def run(*values: Any, **options: Any) -> Any:
        started = time.thread_time()
        try:
            return action(*values, **options)
        finally:
            ours[part] += time.thread_time() - started  # type: ignore[assignment]

    return run


def _result(spans: list[Span], started: float, possible: list[Span], used: float) -> Result:
    first: dict[int, float] = {}
    for worker, began, _ in spans:
        first[worker] = min(began, first.get(worker, began))
    return Result(
        len(first),
        efficiency(spans),
        efficiency(possible),
        max(first.values()) - started,
        gap(spans),
        used / len(spans) * 1e3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="what a candidate sleeps on average")
    parser.add_argument("--each", type=int, default=10, help="candidates a worker")
    parser.add_argument("--quick", action="store_true", help="one node, up to 4 workers, half a second, 6 candidates")
    parser.add_argument("--grow", type=int, metavar="CANDIDATES", help="instead: 4 workers without sleep, by tenths")
    options = parser.parse_args()
    if options.grow:
        with cluster(1, 4), tempfile.TemporaryDirectory() as folder:
            grow(options.grow, 4, Path(folder))
        return
    if options.quick:
        options.nodes, options.workers, options.seconds, options.each = 1, [1, 4], 0.5, 6
    load = os.getloadavg()[0]
    gpus = -(-max(options.workers) // options.nodes)
    with cluster(options.nodes, gpus):
        print(
            f"{options.nodes} nodes × {gpus} logical GPUs on {os.cpu_count()} cores, load {load:.1f} before; "
            f"{options.seconds:g} s ± 30 % a candidate, {options.each} candidates a worker\n"
        )
        print("| way | workers | worked | efficiency | possible | gap ms | driver CPU ms | ours ms | start s | load |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for workers in options.workers:
            count = max(options.each * workers, 2 * options.each)
            for way in ("plain Ray", "nsga2", "evolution"):
                result = one(way, count, workers, options.seconds)
                print(
                    f"| {way} | {workers} | {result.worked} | {result.efficiency:.3f} | {result.possible:.3f} "
                    f"| {result.gap:.0f} | {result.driver:.1f} | {result.ours:.1f} | {result.start:.1f} "
                    f"| {os.getloadavg()[0]:.1f} |",
                    flush=True,
                )
        print(f"\nThe driver at the end: {psutil.Process().memory_info().rss / 2**20:.0f} MiB resident.")


def one(way: str, count: int, workers: int, seconds: float) -> Result:
    """One line of the table."""
    if way == "plain Ray":
        return plain(count, workers, seconds)
    with tempfile.TemporaryDirectory() as folder:
        return search(way, count, workers, seconds, Path(folder))


if __name__ == "__main__":
    main()
