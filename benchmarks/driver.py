"""What a candidate costs the driver of a search, by part, and how that grows with the number of trials.

``python -m benchmarks.driver`` prints a Markdown table. The whole of a driver but Ray runs: searcher, session, study on
a journal file in TMPDIR, events and progress; scores are made up. Times of the parts are of the processor, as those of
the clock tell more of what else the machine does; the journal waits for the disk on top of them (three ``fsync``).
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.sleeper import score
from cluster.config import SearchJob
from cluster.driver import _SearchProgress
from cluster.run_folder import RunFolder
from nas.racing import Leaders
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial
from slicemamba.architecture import Architecture

PARTS = ("ask", "tell", "leaders", "study", "progress")
UNDER_WAY = 32
# Optuna's own samplers look at all their trials for each proposal, so they are followed less far.
FAR, NEAR = (100, 1000, 10_000), (100, 1000, 2000)
SEARCHERS = {
    "evolution": FAR,
    "nsga2": FAR,
    "local": FAR,
    "regularized_evolution": FAR,
    "random": FAR,
    "optuna_nsga2": NEAR,
    "tpe": NEAR,
}


@dataclass
class Stretch:
    """The last tenth of the trials up to ``trials``: processor and wall milliseconds of each; memory at its end."""

    trials: int
    parts: dict[str, float]
    wall: float
    resident_mb: float
    journal_bytes: int


class Clock:
    """Adds up the processor's time of each part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def timed(self, part: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return action(*values, **options)
            finally:
                self.seconds[part] += time.process_time() - started  # type: ignore[assignment]

        return run


def open_search(
    folder: Path, name: str, num_trials: int, clock: Clock
) -> tuple[SearchSession, Callable[[Trial], None]]:
    """A session and its progress, as the driver opens them, with a clock on each part."""
    job = SearchJob.model_validate({"search": {"searcher": name, "num_trials": num_trials, "racing": {}}})
    run, space, config = RunFolder(folder), job.search_space, job.search
    study = Study(run.study_location, "search", space, config.objectives, name)
    searcher, leaders = make_searcher(config, space), Leaders(config)
    for target, part, methods in (
        (searcher, "ask", ["ask"]),
        (searcher, "tell", ["tell"]),
        (leaders, "leaders", ["add", "references", "peers"]),
        (study, "study", ["start", "complete"]),
    ):
        for method in methods:
            setattr(target, method, clock.timed(part, getattr(target, method)))
    session = SearchSession(study, searcher, origin=name, num_trials=num_trials, enqueue=space.fixed(), leaders=leaders)
    return session, clock.timed("progress", _SearchProgress(run, "search", study, config))


def measure(name: str, lengths: tuple[int, ...]) -> tuple[list[Stretch], float]:
    """The stretches of one search, and the processor's seconds to open it again at its end."""
    clock = Clock()
    stretches = []
    with tempfile.TemporaryDirectory() as folder:
        session, progress = open_search(Path(folder), name, lengths[-1], clock)
        under_way: deque[Trial] = deque()
        for length in lengths:
            _advance(session, progress, under_way, length - length // 10)
            clock.seconds.clear()
            started = time.perf_counter()
            _advance(session, progress, under_way, length)
            count = length // 10
            stretches.append(
                Stretch(
                    length,
                    {part: clock.seconds[part] / count * 1e3 for part in PARTS},
                    (time.perf_counter() - started) / count * 1e3,
                    psutil.Process().memory_info().rss / 2**20,
                    (Path(folder) / "search.journal").stat().st_size // length,
                )
            )
        del session, progress
        started = time.process_time()
        open_search(Path(folder), name, lengths[-1], Clock())
        return stretches, time.process_time() - started


def _advance(session: SearchSession, progress: Callable[[Trial], None], under_way: deque[Trial], until: int) -> None:
    while session.num_ended < until:
        while len(under_way) < UNDER_WAY and (trial := session.ask()) is not None:
            under_way.append(trial)
        trial = under_way.popleft()
        progress(session.tell(trial.number, score(Architecture.parse(trial.architecture)), 2.0, {"images": 1}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the trials")
    options = parser.parse_args()
    print(f"Processor milliseconds a candidate, {UNDER_WAY} under way at a time, racing on; wall beside them\n")
    columns = ("searcher", "trials", *PARTS, "sum", "wall", "MiB resident", "journal, bytes a trial", "reopened, s")
    print(f"| {' | '.join(columns)} |")
    print(f"| --- | ---: |{' ---: |' * (len(PARTS) + 5)}")
    context = multiprocessing.get_context("spawn")  # a process each, as resident memory is of a process
    for name in options.searchers:
        lengths = tuple(length // 10 if options.quick else length for length in SEARCHERS[name])
        with context.Pool(1) as pool:
            stretches, reopened = pool.apply(measure, (name, lengths))
        for stretch in stretches:
            cells = [f"{stretch.parts[part]:.2f}" for part in PARTS]
            cells += [f"{sum(stretch.parts.values()):.2f}", f"{stretch.wall:.1f}", f"{stretch.resident_mb:.0f}"]
            cells += [str(stretch.journal_bytes), f"{reopened:.1f}" if stretch is stretches[-1] else ""]
            print(f"| {name} | {stretch.trials} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
