"""How long a first result takes on this machine, and with what: ``python -m benchmarks.first_result``.

Runs ``slicemamba search laptop`` on 80 synthetic images for 8 epochs, in one process and on a Ray that is started for
it, in turns, and prints from the runs' events when each phase began and when its first unit of work was done.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cluster.connect import NO_RAY
from cluster.local import num_cores, ray_head
from cluster.run_folder import RunFolder

OPTIONS = {
    "data.synthetic": "{num_train: 56, num_val: 8, num_search: 8, num_test: 8}",
    "supernet.epochs": "8",
    "search.num_trials": "20",
    "search.random_baseline": "false",
    "retrain.epochs": "8",
    "model.embed_dim": "8",
    "baselines": "[]",
}
WAYS = ("one process", "Ray")
Line = tuple[float, float, float | None]
"""Seconds at which a phase began, that it took, and that passed before its first unit was done."""


def run(way: str, place: Path) -> dict[str, Line]:
    """The timeline of one search, by phase; that of Ray begins with the start of its head."""
    started = time.time()
    with ray_head(num_cpus=num_cores(), log=place / "ray.log") if way == "Ray" else nullcontext() as head:
        command = [sys.executable, "-m", "api.cli", "search", "laptop", "--out", str(place / "run")]
        command += ["--address", NO_RAY if head is None else head.gcs]
        command += [part for name, value in OPTIONS.items() for part in ("--set", f"{name}={value}")]
        environment = (dict(os.environ) if head is None else head.environment) | {
            "SLICEMAMBA_CACHE": str(place / "cache")
        }
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return timeline(RunFolder(place / "run"), started, time.time())


def timeline(folder: RunFolder, started: float, ended: float) -> dict[str, Line]:
    """From the events of a run.

    Args:
        started, ended: of the command, in seconds since 1970.
    """
    marks, first = {"start of the command": started}, dict[str, float]()
    for _, event in folder.events():
        moment, phase = datetime.fromisoformat(event["time"]).timestamp(), event.get("phase")
        if event["event"] == "phase":
            marks[phase] = moment
        elif event["event"] == "progress" and event["done"] and phase in marks and phase not in first:
            first[phase] = moment - marks[phase]
        elif event["event"] == "ended":
            marks["end of the command"] = moment
    places = [*marks.items(), ("", ended)]
    return {name: (at - started, after - at, first.get(name)) for (name, at), (_, after) in pairwise(places)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    for number in range(parser.parse_args().rounds):
        totals = dict[str, float]()
        for name in WAYS:
            with tempfile.TemporaryDirectory() as place:
                lines = run(name, Path(place))
            print(f"\n{name}, round {number + 1}\n{'phase':<22}{'begins':>8}{'takes':>8}{'first unit':>12}")
            for phase, (begins, takes, first) in lines.items():
                print(f"{phase:<22}{begins:>8.1f}{takes:>8.1f}{'' if first is None else f'{first:.1f}':>12}")
            totals[name] = sum(takes for _, takes, _ in lines.values())
            print(f"{'total':<22}{totals[name]:>16.1f}", flush=True)
        print(f"\nRay takes {totals['Ray'] / totals['one process']:.1f} times as long")


if __name__ == "__main__":
    main()
