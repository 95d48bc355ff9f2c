"""The demonstration: a Ray head, the service, a search over REST from start to result; then all is stopped again."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

from rich.console import Console
from rich.markup import escape

from api.client.connection import ApiError, ApiUnreachableError
from api.client.follow import watch
from api.client.http import Client
from api.states import SearchState
from cluster.local import StartedHead, num_cores, ray_head, started, tail
from cluster.summary import print_summary
from slicemamba.commands import command_line
from slicemamba.config import DATA_NAME, DataConfig
from slicemamba.data.checks import check_dataset
from slicemamba.errors import InputError
from slicemamba.files import write_text

_START_SECONDS = 60.0

# Small enough for a few minutes on two cores: a U-Net whose blocks may scan, convolve or be left out. One set of
# weights for all choices learns several times faster than one each, so that so short a training is worth searching in.
JOB: dict[str, Any] = {
    "name": "demo",
    "recipe": "scratch",
    "model": {"skeleton": "conv", "embed_dim": 16},
    "space": {
        "choices": ["2x2", "4x4", "2x2e1", "c3", "c3e1", "-", "full", "half"],
        "weight_sharing": "shared",
    },
    "supernet": {"epochs": 30, "validate_every": 10, "num_val_architectures": 2},
    "search": {"searcher": "nsga2", "objectives": ["dice", "flops"], "num_trials": 60, "random_baseline": True},
    "retrain": {"epochs": 30},
}
SYNTHETIC: dict[str, Any] = {
    "name": "synthetic",
    "image_size": [64, 64],
    "intensity": "zscore",
    "synthetic": {"num_train": 64, "num_val": 16, "num_search": 16, "num_test": 24},
}


def run_demo(out: Path, folder: Path | None, console: Console) -> int:
    """Runs the demonstration; the results are left in ``out``.

    Args:
        out: made anew; one from an earlier demonstration is replaced once this one has succeeded.
        folder: a data set in the ISIC layout; the synthetic set when None.
        console: for progress and tables.

    Returns:
        Exit code: 0 when the search succeeded, else 1.

    Raises:
        InputError: a fault of the data, or ``out`` holds something else; before anything is started.
    """
    data = (
        SYNTHETIC if folder is None else {"name": folder.resolve().name, "image_size": [64, 64], "intensity": "zscore"}
    )
    root = None if folder is None else folder.resolve().parent
    _check(data, folder)
    place = _place_for(out.resolve())
    succeeded = _run(place, data, root, console)
    if not succeeded:
        return 1
    if place != out.resolve():
        shutil.rmtree(out)  # now that the new one is whole
        place.rename(out)
    console.print(
        f"Report: {escape(str(out))}/report.html\n"
        f"Next, with your own images: {command_line('data', 'check', 'FOLDER')} (laid out as in docs/data.md)",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _run(out: Path, data: dict[str, Any], root: Path | None, console: Console) -> bool:
    """Whether the search succeeded, whose results are then in ``out``."""
    cores = num_cores()
    job = JOB | {"data": data, "resources": {"train": {"cpus": min(cores, 8)}}}
    console.print(f"Starting Ray on {cores} cores ...")
    with ray_head(num_cpus=cores, log=out / "logs" / "ray.log") as head:
        command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--runs-dir", str(out / "runs")]
        command += ["--ray-address", head.dashboard] + (["--data", str(root)] if root else [])
        log = out / "logs" / "api.log"
        with started(command, environment=head.environment, log=log) as service:
            try:
                url = _wait_for_url(service, log)
                console.print(f"Watch it in the browser: {url}/ (API: {url}/docs)")
                succeeded = _search(url, job, out, console, head)
            except KeyboardInterrupt:
                console.print("Stopping Ray and the service ...")
                raise
    if succeeded:
        shutil.rmtree(out / "runs")  # the same files once more
    return succeeded


def _check(data: dict[str, Any], folder: Path | None) -> None:
    if folder is None:
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds train, val and test (docs/data.md)")
    if not DATA_NAME.fullmatch(data["name"]):
        raise InputError(
            "the folder's name becomes the data set's name, so it must consist of plain letters, digits, dots, "
            f"hyphens and underscores; rename the folder; got {data['name']!r}"
        )
    check_dataset(DataConfig(name=data["name"], root=folder))


def _place_for(out: Path) -> Path:
    """An empty folder to run in: ``out``, or one beside it while an earlier demonstration is there, which is kept until
    the new one has succeeded.

    Raises:
        InputError: a folder holds something else than a demonstration, which its ``logs`` folder tells.
    """
    for place in (out, out.with_name(f"{out.name}.new")):
        if not place.exists() or not any(place.iterdir()):
            break
        if not (place / "logs" / "ray.log").is_file():
            raise InputError(
                f"{place} holds files that do not belong to a demonstration; choose another folder with --out"
            )
    else:
        shutil.rmtree(place)  # of a demonstration that failed or was stopped
    place.mkdir(parents=True, exist_ok=True)
    return place


def _wait_for_url(service: Popen[bytes], log: Path) -> str:
    """The address that the service has taken, from its first line."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and service.poll() is None:
        found = re.search(r"serving on (http://\S+)", tail(log, 100))
        if found:
            return found[1]
        time.sleep(0.1)
    raise InputError(f"the service did not start; the end of {log}:\n{tail(log)}")


def _search(url: str, job: dict[str, Any], out: Path, console: Console, head: StartedHead) -> bool:
    with Client(url) as client:
        search = client.submit(job)
        ended = False
        try:
            search = watch(client, search.id, console, check=head.check)
            ended = True
        finally:
            if not ended:
                with contextlib.suppress(ApiError, ApiUnreachableError):
                    client.cancel(search.id)
        write_text(out / "logs" / "driver.log", client.logs(search.id, tail=100_000))
        if search.state is not SearchState.SUCCEEDED:
            console.print(f"[red]{search.state.value}[/]: {escape(str(search.error))}\nLogs: {escape(str(out))}/logs")
            return False
        client.download(search.id, out)
        print_summary(console, client.result(search.id))
    return True
