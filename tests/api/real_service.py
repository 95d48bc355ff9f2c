"""The service as processes of its own, on a job server that outlives them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import httpx

from benchmarks.job_server import JobServer
from cluster.run_folder import RunFolder, RunStatus

PATIENCE_SECONDS = 120.0
SERVE = (sys.executable, "-m", "api.cli", "serve")
ROOT = Path(__file__).parents[2]


class RealService:
    """One process of the service. ``url`` is known once ``start`` has returned."""

    def __init__(
        self, jobs: JobServer, runs_dir: Path, database_url: str | None = None, command: Sequence[str] = SERVE
    ) -> None:
        self.url = ""
        self._command = list(command)
        self._log = runs_dir.parent / "service.log"
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SLICEMAMBA_PORT": "0",
            "SLICEMAMBA_RUNS_DIR": str(runs_dir),
            "SLICEMAMBA_RAY_ADDRESS": jobs.address,
            "SLICEMAMBA_RECONCILE_SECONDS": "0.2",
            "RAY_AUTH_MODE": "disabled",
        }
        if database_url is not None:
            self._environment["SLICEMAMBA_DATABASE_URL"] = database_url
        self.process: subprocess.Popen[str] | None = None

    def launch(self) -> None:
        """Starts the process; several may be launched before one is waited for."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def wait_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving on "), self._log.read_text()[-2000:]
        self.url = line.split()[2]

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def tell(self, line: str) -> None:
        """A line for the process, which answers with one."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "set\n"

    def kill(self) -> None:
        """As ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()

    def died(self) -> bool:
        """Waits for the process to die by itself."""
        assert self.process is not None
        self.process.wait(PATIENCE_SECONDS)
        return self.process.returncode == -9


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
    answer = httpx.get(f"{url}/v1/searches", params={"page_size": 1000}, timeout=30)
    answer.raise_for_status()
    found: list[dict[str, object]] = answer.json()["searches"]
    return found
