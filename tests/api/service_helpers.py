"""A cluster that lives in memory, and what drivers write, written by hand."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.testclient import TestClient

from api.server.app import create_app
from api.server.dependencies import AppContext
from api.server.settings import Settings
from cluster.capacity import Node
from cluster.jobs import ClusterUnavailableError, JobRefusedError, JobState
from cluster.local import free_ports
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunState, RunStatus
from nas.space import SearchSpace
from nas.study import Study
from slicemamba.errors import InputError

BODY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "synthetic", "image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "search": {"objectives": ["dice", "hd95"], "num_trials": 8},
}
BODY["data"]["synthetic"] = {"num_train": 4, "num_val": 2, "num_search": 2, "num_test": 2}


@dataclass
class FakeJobs:
    """The functions of ``cluster.jobs``. Tests set ``states`` and ``down``, and read what was asked of it."""

    states: dict[str, JobState] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    down: bool = False
    refuse: str | None = None
    state_after_stop: JobState = JobState.STOPPED

    def _answer(self, address: str) -> None:
        if self.down:
            raise ClusterUnavailableError(f"no Ray job server answers at {address}")

    def check_cluster(self, address: str) -> None:
        if self.down:
            raise InputError(f"no Ray job server answers at {address}")

    def submit_run(self, address: str, submission_id: str, run_dir: Path) -> None:
        self._answer(address)
        if self.refuse:
            raise JobRefusedError(self.refuse)
        assert (run_dir / "config.json").exists()
        self.submitted.append(submission_id)
        self.states.setdefault(submission_id, JobState.PENDING)

    def job_state(self, address: str, submission_id: str) -> JobState | None:
        self._answer(address)
        return self.states.get(submission_id)

    def stop_run(self, address: str, submission_id: str) -> None:
        self._answer(address)
        self.stopped.append(submission_id)
        if submission_id in self.states:
            self.states[submission_id] = self.state_after_stop

    def job_logs(self, address: str, submission_id: str) -> str | None:
        self._answer(address)
        return self.logs.get(submission_id)

    def cluster_nodes(self, address: str) -> list[Node]:
        return [] if self.down else self.nodes


@cache
def _event_loop() -> BlockingPortal:
    """One for all requests, as in a server: ``TestClient`` would make one for each, and those would not wait for each
    other as they should.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(start_blocking_portal())


class Bench:
    """An app with a fake cluster. Its reconciler has no thread here: tests call ``round``, so nothing waits."""

    def __init__(self, runs_dir: Path, jobs: FakeJobs | None = None, **settings: Any) -> None:
        quick: dict[str, Any] = {"reconcile_seconds": 0.1, "writes_per_minute": 1e9, "max_running": 1000}
        self.settings = Settings(runs_dir=runs_dir, **{**quick, **settings})
        self.jobs = jobs or FakeJobs()
        self.app = create_app(self.settings, self.jobs)
        self.http = TestClient(self.app, "http://127.0.0.1", raise_server_exceptions=False)
        self.http.portal = _event_loop()
        self.context: AppContext = self.app.state.context

    def restart(self) -> Bench:
        """Another process on the same database, folder and cluster."""
        return Bench(self.settings.runs_dir, self.jobs, **self.settings.model_dump(exclude={"runs_dir"}))

    def round(self) -> None:
        self.context.reconciler.run_once()

    def submit(self, body: dict[str, Any] | None = None, **headers: str) -> str:
        response = self.http.post("/v1/searches", json=body or BODY, headers=headers)
        assert response.status_code == 202, response.text
        search_id: str = response.json()["id"]
        return search_id

    def get(self, search_id: str) -> dict[str, Any]:
        values: dict[str, Any] = self.http.get(f"/v1/searches/{search_id}").json()
        return values

    def state(self, search_id: str) -> str:
        state: str = self.get(search_id)["state"]
        return state

    def folder(self, search_id: str) -> RunFolder:
        return self.context.service.run_folder(search_id)

    def drive(self, search_id: str, state: RunState = "RUNNING", *, age_seconds: float = 0, **fields: Any) -> None:
        """Writes the driver's status, as it was ``age_seconds`` ago; a driver that has ended ends its job."""
        moment = datetime.now(timezone.utc) - timedelta(seconds=age_seconds)
        progress = {"supernet": Progress(done=1, total=4, unit="epochs", metrics={"loss": 0.5})}
        row = self.context.service.find(search_id)
        attempt = 1 if row is None else row.attempt
        values = {"phase": "supernet", "progress": progress, "attempt": attempt, **fields}
        self.folder(search_id).write_status(RunStatus(state=state, updated_at=moment, **values))
        if state != "RUNNING":
            self.jobs.states[search_id] = JobState.SUCCEEDED if state == "SUCCEEDED" else JobState.FAILED

    def running(self) -> str:
        """A search that has got as far as RUNNING."""
        search_id = self.submit()
        self.round()
        self.jobs.states[search_id] = JobState.RUNNING
        self.drive(search_id)
        self.round()
        assert self.state(search_id) == "RUNNING"
        return search_id

    def succeeded(self) -> str:
        """A search that has ended well."""
        search_id = self.running()
        self.folder(search_id).write_json("result.json", {"best": 0.9})
        self.drive(search_id, "SUCCEEDED")
        self.round()
        assert self.state(search_id) == "SUCCEEDED"
        return search_id


@contextmanager
def serving(bench: Bench) -> Iterator[str]:
    """``served``, where nothing goes on by itself and streams look for news often."""
    for many in (bench.context.event_feeds, bench.context.log_feeds):
        many.period_seconds = 0.02
    with served(bench, "off") as url:
        yield url


@contextmanager
def served(bench: Bench, lifespan: Literal["on", "off"] = "on") -> Iterator[str]:
    """The app on a port of its own, over real connections; yields its URL. Its reconciler works by itself unless
    ``lifespan`` is off.
    """
    server = uvicorn.Server(uvicorn.Config(bench.app, port=free_ports(1)[0], log_level="warning", lifespan=lifespan))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        Event().wait(0.02)
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        bench.context.closing.set()
        server.should_exit = True
        thread.join()


def write_study(folder: RunFolder, rows: list[dict[str, float] | None], name: str = "search") -> Study:
    """A study with a completed trial for each row, and a failed one for None."""
    space = SearchSpace(((2, 2), (4, 4)), (1, 1, 1, 1))
    study = Study(folder.study_location, folder.study_name(name), space, ("dice", "hd95"), "evolution")
    for i, metrics in enumerate(rows):
        genes = [i >> bit & 1 for bit in range(4)]
        number = study.start(space.decode(genes), origin="evolution", asked_after=i).number
        if metrics is None:
            study.fail(number, "out of memory", ended_as=i)
        else:
            study.complete(number, metrics, ended_as=i, seconds=0.5)
    return study
