"""How long a training takes that has nothing to do: as one task of Ray, and as a group of Ray Train with one worker.

python -m benchmarks.training_start [--rounds 3]

Both in turn, each on a new Ray of this process's own, so the first training of each way starts its processes and the
second may find some. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from typing import Any

from cluster.config import TrainWorkers
from cluster.connect import ray_cluster
from cluster.workers import run_on_worker

SETTLE_SECONDS = 10.0
"""Until a new Ray's own processes have started."""


def nothing(_: dict[str, Any]) -> None:
    """What either worker does: it imports what a training needs."""
    import cluster.ray_train  # noqa: F401


def as_task(_: str) -> None:
    run_on_worker(nothing, TrainWorkers(), "nothing", {})


def as_group(folder: str) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        nothing,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="nothing", storage_path=folder),
    ).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(parser.parse_args().rounds):
        for way in (as_task, as_group):
            with ray_cluster("local"), tempfile.TemporaryDirectory() as folder:
                time.sleep(SETTLE_SECONDS)
                for turn in ("first", "second"):
                    began = time.perf_counter()
                    way(folder)
                    took[way.__name__, turn].append(time.perf_counter() - began)
    print("| way | first, s | second, s |\n| --- | ---: | ---: |")
    for way in (as_task, as_group):
        told = [statistics.median(took[way.__name__, turn]) for turn in ("first", "second")]
        print(f"| {way.__name__} | {told[0]:.1f} | {told[1]:.1f} |")


if __name__ == "__main__":
    main()
