"""A service in which something hangs or takes long goes on answering all else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import anyio
import httpx
import pytest
from service_helpers import BODY, Bench

from api import service, specs
from slicemamba.data.checks import check_dataset

MANY = 60  # more than the threads that requests have


def during(bench: Bench, path: str, released: Event, ask: str) -> int:
    """Status of ``ask`` while MANY requests of ``path`` wait for the event."""

    async def run() -> int:
        transport = httpx.ASGITransport(bench.app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as http,
            anyio.create_task_group() as group,
        ):
            for _ in range(MANY):
                group.start_soon(http.get, path)
            await anyio.sleep(0.5)
            try:
                with anyio.fail_after(60):
                    return (await http.get(ask)).status_code
            finally:
                released.set()

    return anyio.run(run)


def test_ray_that_hangs_keeps_nobody_waiting_but_readers_of_logs(bench: Bench) -> None:
    search_id, released = bench.running(), Event()

    def hang(*_: Any) -> str:
        released.wait(120)
        return "line\n"

    bench.jobs.job_logs = hang  # type: ignore[method-assign]
    assert during(bench, f"/v1/searches/{search_id}/logs", released, f"/v1/searches/{search_id}") == 200


def test_process_is_alive_while_its_database_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Event()
    monkeypatch.setattr(bench.parts.service, "page", lambda *_: (released.wait(120), ([], False))[1])
    assert during(bench, "/v1/searches", released, "/healthz") == 200


def test_only_some_data_sets_are_checked_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released = Barrier(2), Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.wait(60)
        released.wait(60)
        return check_dataset(*arguments, **options)

    monkeypatch.setattr(service, "MAX_DATA_CHECKS", 1)
    monkeypatch.setattr(specs, "check_dataset", slow)
    busy = bench.restart()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(busy.http.post, "/v1/searches/validate", json=BODY)
        begun.wait(60)
        refused = busy.http.post("/v1/searches", json=BODY)
        released.set()
        assert first.result().status_code == 200
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    monkeypatch.undo()
    assert busy.http.post("/v1/searches", json=BODY).status_code == 202
