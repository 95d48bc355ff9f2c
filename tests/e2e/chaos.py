"""Kills whatever runs a search, at random moments: the service, the driver, evaluating and training workers.

Only processes that were started here are found: the service's own, and the descendants of one Ray head.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
from disturbed_job import JOB

from api.client import ApiUnreachableError, Client
from api.schemas import Search
from api.states import SearchState
from cluster.local import RayHead, free_ports, ray_head, started, tail
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from nas.study import Trial, find_trials, open_storage

Target = Literal["api", "driver", "evaluating worker", "training worker"]
TARGETS: tuple[Target, ...] = ("api", "driver", "evaluating worker", "training worker")
_TITLES: dict[Target, str] = {"evaluating worker": "ray::SlicingTrial", "training worker": "ray::training"}
_MARK = "SLICEMAMBA_CHAOS"
_START_SECONDS = 600.0
# The mean time between two kills of a target: about as long as it takes to come back to work.
_REST_SECONDS: dict[Target, float] = {
    "api": 15.0,
    "driver": 60.0,
    "evaluating worker": 6.0,
    "training worker": 20.0,
}
_INTO_SEARCH_SECONDS = 15.0  # from a driver's first trial to the next kill of each target, at the latest
_MAX_TRAINING_KILLS = 3
"""In the life of one driver: a training whose worker died more often is given up."""


@dataclass
class Kill:
    """A SIGKILL: what it hit, in which phase of the run (None: no driver at work), and how many trials had ended."""

    target: Target
    phase: str | None
    ended: int


@dataclass
class Place:
    """A Ray head and the service in a folder of their own."""

    folder: Path
    head: RayHead
    root: int
    stack: ExitStack
    port: int = field(default_factory=lambda: free_ports(1)[0])
    service: subprocess.Popen[bytes] | None = None
    num_services: int = 0

    def __post_init__(self) -> None:
        self.client = Client(f"http://127.0.0.1:{self.port}")

    def start_service(self) -> None:
        """Starts the service as a process, on the same port and folder as the one before."""
        self.num_services += 1
        command = [sys.executable, "-m", "api.cli", "serve", "--port", str(self.port)]
        command += ["--ray-address", self.head.dashboard, "--runs-dir", str(self.folder / "runs")]
        environment = self.head.environment | {
            "SLICEMAMBA_CACHE": str(self.folder / "cache"),
            "SLICEMAMBA_MAX_RUNNING": "8",
        }
        log = self.folder / f"api-{self.num_services}.log"
        self.service = self.stack.enter_context(started(command, environment=environment, log=log))

    def service_answers(self) -> bool:
        with suppress(ApiUnreachableError):
            self.client.version()
            return True
        return False

    def wait_for_service(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.service_answers():
            assert time.monotonic() < deadline, tail(self.folder / f"api-{self.num_services}.log")
            time.sleep(0.3)

    def find(self, target: Target, run: RunFolder) -> psutil.Process | None:
        """The process to kill, None where there is none at this moment."""
        if target == "api":
            assert self.service is not None
            return psutil.Process(self.service.pid) if self.service.poll() is None else None
        for process in psutil.Process(self.root).children(recursive=True):
            with suppress(psutil.Error):
                command = process.cmdline()
                if target == "driver":
                    if "cluster.entrypoint" in command and str(run.path) in command:
                        return process
                elif command and command[0].startswith(_TITLES[target]):
                    return process
        return None


@contextmanager
def chaos_place(folder: Path) -> Iterator[Place]:
    mark = uuid.uuid4().hex
    os.environ[_MARK] = mark
    try:
        with ray_head(num_cpus=4, log=folder / "ray.log") as head, ExitStack() as stack:
            place = Place(folder, head, _root(mark), stack)
            place.start_service()
            place.wait_for_service()
            yield place
            place.client.close()
    finally:
        del os.environ[_MARK]


def _root(mark: str) -> int:
    """The first process of the Ray head, of which all others descend."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "ray.scripts.scripts" in process.cmdline() and process.environ().get(_MARK) == mark:
                return process.pid
    raise AssertionError("the Ray head is not to be found")


def undisturbed(place: Place) -> RunFolder:
    """A search that nobody disturbs."""
    search = place.client.submit(JOB | {"name": "undisturbed"})
    ended = place.client.wait(search.id)
    assert ended.state is SearchState.SUCCEEDED, place.client.logs(search.id)
    return RunFolder(place.folder / "runs" / search.id)


class Disturbed:
    """A search that is disturbed until it ends; what stopped for good is asked to go on, as its user would.

    Args:
        place: where it runs. rng: draws the moments.
        budget: kills of each target that are still to be done; counted down.
        pace: factor to the times between kills; more on a slow machine.
    """

    def __init__(self, place: Place, rng: random.Random, budget: Counter[Target], pace: float) -> None:
        self._place = place
        self._rng = rng
        self._budget = budget
        self._pace = pace
        self._due = {target: self._draw(target) for target in TARGETS}
        self._searching = False
        self._ended_before = 0
        # Half of the kills of what lives all along are kept for the search.
        self._kept = Counter({target: budget[target] // 2 for target in ("api", "driver")})
        self.kills: list[Kill] = []
        self.num_resumed = 0
        self._driver: int | None = None
        self._training_kills = 0
        self._ended_at_kill = -1
        place.wait_for_service()
        self.search = place.client.submit(JOB | {"name": "disturbed"})
        self.run = RunFolder(place.folder / "runs" / self.search.id)

    def to_the_end(self) -> Search:
        """Returns the search as it ended; AssertionError where it did not get on for a long time."""
        moved_at, seen = time.monotonic(), (-1, 0)
        while True:
            time.sleep(0.2)
            self._follow_search()
            for target in TARGETS:
                if self._budget[target] and time.monotonic() >= self._due[target]:
                    self._kill(target)
            if self._place.service is None or self._place.service.poll() is not None:
                self._place.start_service()
            search = None
            with suppress(ApiUnreachableError):  # it was killed, or is slow on a busy machine
                search = self._place.client.get(self.search.id)
                if search.state is SearchState.SUCCEEDED:
                    return search
                if search.state.ended:
                    assert "the driver died" in (search.error or ""), search
                    self._place.client.resume(self.search.id)
                    self.num_resumed += 1
            now = (self.num_ended(), len(self.kills))
            if now != seen:
                moved_at, seen = time.monotonic(), now
            assert time.monotonic() - moved_at < _START_SECONDS, search

    def trials(self) -> list[Trial]:
        return find_trials(open_storage(self.run.study_location), "search")

    def num_ended(self) -> int:
        return sum(trial.ended for trial in self.trials())

    def _draw(self, target: Target) -> float:
        """A random moment to come."""
        return time.monotonic() + self._rng.uniform(0, 2 * self._pace * _REST_SECONDS[target])

    def _follow_search(self) -> None:
        """When a driver's first trial ends, moments in its search are drawn: what was kept for it is due already."""
        status = self._status()
        if status is None or status.phase != "search":
            self._searching, self._ended_before = False, self.num_ended()
        elif not self._searching and self.num_ended() > self._ended_before:
            self._searching, now = True, time.monotonic()
            self._due = {target: now + self._rng.uniform(0, self._pace * _INTO_SEARCH_SECONDS) for target in TARGETS}

    def _status(self) -> RunStatus | None:
        """Of a driver that runs; None where there is none."""
        status = self.run.read_status()
        return status if status and status.pid and psutil.pid_exists(status.pid) else None

    def _kill(self, target: Target) -> None:
        process = self._place.find(target, self.run)
        status = self._status()
        if process is None or not self._may_kill(target, status):
            return
        with suppress(psutil.NoSuchProcess):
            process.kill()
            self._due[target] = self._draw(target)
            self._budget[target] -= 1
            self._training_kills += target == "training worker"
            self.kills.append(Kill(target, status.phase if status else None, self.num_ended()))
            if target == "evaluating worker":
                self._ended_at_kill = self.kills[-1].ended
            print(f"{time.strftime('%H:%M:%S')} {len(self.kills)}: {self.kills[-1]}", flush=True)

    def _may_kill(self, target: Target, status: RunStatus | None) -> bool:
        """Leaves a candidate and a training the tries that they have: a search in which all of them die has failed."""
        if target == "evaluating worker":
            return self.num_ended() > self._ended_at_kill
        if target == "training worker":
            driver = status.pid if status else None
            if driver != self._driver:
                self._driver, self._training_kills = driver, 0
            return self._training_kills < _MAX_TRAINING_KILLS
        return self._budget[target] > self._kept[target] or self._searching
