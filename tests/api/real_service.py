"""The service as processes of its own, on a job server that outlives them.

They are forked from a process that has imported Ray and FastAPI, as importing them takes seconds a start.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
from dying_service import run

from benchmarks.job_server import JobServer
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus

PATIENCE_SECONDS = 300.0

_CONTEXT = get_context("forkserver")
# What is ours is imported anew by each, from where these tests are.
_CONTEXT.set_forkserver_preload(["alembic", "fastapi_offline", "ray.job_submission", "sqlalchemy.orm", "uvicorn"])
_NUMBERS = count()


class RealService:
    """One process of the service. ``url`` is known once it is ready."""

    def __init__(self, jobs: JobServer, runs_dir: Path, database_url: str | None = None) -> None:
        self.url = ""
        self._output = runs_dir.parent / f"service-{next(_NUMBERS)}.log"
        settings = {
            "SLICEMAMBA_PORT": "0",
            "SLICEMAMBA_RUNS_DIR": str(runs_dir),
            "SLICEMAMBA_RAY_ADDRESS": jobs.address,
            "SLICEMAMBA_RECONCILE_SECONDS": "0.2",
            "SLICEMAMBA_DATABASE_URL": database_url or "",
            "SLICEMAMBA_MAX_RUNNING": "1000",
        }
        self._orders, theirs = _CONTEXT.Pipe()
        self.process: ForkServerProcess = _CONTEXT.Process(target=run, args=(settings, self._output, theirs))

    def launch(self) -> None:
        """Starts the process; several may be launched before one is waited for."""
        self.process.start()

    def wait_ready(self) -> None:
        def ready() -> bool:
            text = self._output.read_text(encoding="utf-8") if self._output.exists() else ""
            assert self.process.exitcode is None, text
            lines = [line for line in text.splitlines() if line.startswith("serving on ")]
            self.url = lines[0].split()[2] if lines else ""
            return bool(lines)

        wait_for(ready, "the service to start")

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def tell(self, order: str) -> None:
        """An order as ``dying_service.Fuse`` takes them."""
        self._orders.send(order)
        assert self._orders.recv() == "set"

    def strike(self) -> None:
        """As ``kill -9`` does, from any thread."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """The same, and waits until it is gone."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()

    def died(self) -> bool:
        """Waits for the process to die."""
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode == -9


@contextmanager
def running(*services: RealService) -> Iterator[None]:
    """Starts the services at once, and kills what is left of them at the end."""
    try:
        for service in services:
            service.launch()
        for service in services:
            service.wait_ready()
        yield
    finally:
        for service in services:
            service.kill()


def drive(folder: Path) -> None:
    """What a driver writes first."""
    RunFolder(folder).write_status(RunStatus(state="RUNNING", phase="supernet", updated_at=datetime.now(timezone.utc)))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.1)


def searches(url: str) -> list[dict[str, object]]:
    """All searches, newest first."""
    answer = httpx.get(f"{url}/v1/searches", params={"page_size": 1000}, timeout=PATIENCE_SECONDS)
    answer.raise_for_status()
    found: list[dict[str, object]] = answer.json()["searches"]
    return found
