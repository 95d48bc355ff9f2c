"""What runs as a Ray job: ``python -m cluster.entrypoint --config job.yaml`` or, from the API, ``--run-dir <folder>``.

ray job submit --working-dir . -- python -m cluster.entrypoint --config configs/kvasir.yaml --run-dir /runs/kvasir

Without --run-dir the run gets a new folder in SLICEMAMBA_RUNS_DIR, where a service that serves that folder finds it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from cluster.config import load_job
from cluster.connect import submission_id
from cluster.driver import run_job
from cluster.driver_log import kept_log
from cluster.follow_up import parse_follow_up
from cluster.ids import new_id
from cluster.object_store import STORE_VARIABLE
from cluster.progress import progress_view, show_status
from cluster.run_folder import RunFolder
from cluster.run_follow_up import run_follow_up
from cluster.storage import bring
from slicemamba.documents import read_yaml
from slicemamba.errors import InputError, RunFailedError

RUNS_VARIABLE = "SLICEMAMBA_RUNS_DIR"


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m cluster.entrypoint", description="Run a job on Ray.")
    parser.add_argument("--config", type=Path, help="job as YAML; default: <run-dir>/config.json")
    parser.add_argument(
        "--run-dir",
        type=Path,
        help=f"folder of the run; default: a new one in {RUNS_VARIABLE}, else runs/<name of the config file>, in the "
        "home folder where this is a Ray job",
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override an option")
    parser.add_argument("--address", help="Ray address; default: RAY_ADDRESS, otherwise this machine")
    parser.add_argument(
        "--store", default=os.environ.get(STORE_VARIABLE), help="s3://bucket/prefix that keeps a copy of the folder"
    )
    options = parser.parse_args(arguments)
    if options.config is None and options.run_dir is None:
        parser.error("give --config, --run-dir, or both")
    signal.signal(signal.SIGTERM, _stop)
    run = RunFolder(options.run_dir or default_folder(options.config))
    job_id = submission_id()
    with kept_log(run.path, job_id) if job_id else nullcontext():
        return _run(options, run)


def _run(options: argparse.Namespace, run: RunFolder) -> int:
    try:
        print(f"run folder: {run.path}", flush=True)
        if options.config is None and not run.config_path.exists():
            bring(run, options.store)
        follow_up = parse_follow_up(read_yaml(run.config_path)) if options.config is None else None
        with progress_view(Console()) as view:
            show = partial(show_status, view)
            if follow_up is not None:
                run_follow_up(follow_up, run, address=options.address, on_status=show, store=options.store)
            else:
                job = load_job(options.config or run.config_path, options.set)
                run_job(job, run, address=options.address, on_status=show, store=options.store)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"done: {run.result_path}")
    return 0


def default_folder(config: Path) -> Path:
    """Where a run of this configuration goes when nothing is said of it.

    The working directory of a Ray job is deleted after it, so there the home folder takes its place.
    """
    runs = os.environ.get(RUNS_VARIABLE)
    if runs:
        return Path(runs) / new_id()
    return (Path() if submission_id() is None else Path.home()) / "runs" / config.stem


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
