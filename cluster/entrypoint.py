"""What runs as a Ray job: ``python -m cluster.entrypoint --config job.yaml`` or, from the API, ``--run-dir <folder>``.

ray job submit --working-dir . -- python -m cluster.entrypoint --config configs/kvasir.yaml --run-dir /runs/kvasir
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from cluster.config import load_job
from cluster.driver import run_job
from cluster.follow_up import parse_follow_up
from cluster.follow_up_run import run_follow_up
from cluster.progress import progress_view, show_status
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError, RunFailedError


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m cluster.entrypoint", description="Run a job on Ray.")
    parser.add_argument("--config", type=Path, help="job as YAML; default: <run-dir>/config.json")
    parser.add_argument("--run-dir", type=Path, help="folder of the run; default: runs/<name of the config file>")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override an option")
    parser.add_argument("--address", help="Ray address; default: RAY_ADDRESS, else this machine")
    options = parser.parse_args(arguments)
    if options.config is None and options.run_dir is None:
        parser.error("give --config, --run-dir, or both")
    signal.signal(signal.SIGTERM, _stop)
    folder = options.run_dir or Path("runs") / options.config.stem
    try:
        run = RunFolder(folder)
        follow_up = parse_follow_up(run.read_json("config.json") or {}) if options.config is None else None
        with progress_view(Console()) as view:
            if follow_up is not None:
                run_follow_up(follow_up, run, address=options.address, on_status=partial(show_status, view))
            else:
                job = load_job(options.config or run.config_path, options.set)
                run_job(job, run, address=options.address, on_status=partial(show_status, view))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"done: {run.result_path}")
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
