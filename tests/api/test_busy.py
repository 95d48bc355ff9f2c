"""A service in which something hangs or takes long goes on answering all else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event, Lock
from time import sleep
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from service_helpers import BODY, Bench

from api.server import specs
from api.server.app import DATA_CHECKERS
from slicemamba.config import DataConfig
from slicemamba.data.checks import Listing, check_listing

MANY = 60  # more than the threads that requests have


def client_of(bench: Bench) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(bench.app), base_url="http://127.0.0.1", timeout=None)


def during(bench: Bench, path: str, released: Event, ask: str) -> int:
    """Status of ``ask`` while MANY requests of ``path`` wait for the event."""

    async def run() -> int:
        async with client_of(bench) as http, anyio.create_task_group() as group:
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
    monkeypatch.setattr(bench.context.service, "page", lambda *_: (released.wait(120), ([], False))[1])
    assert during(bench, "/v1/searches", released, "/healthz") == 200


def test_data_set_that_takes_long_to_check_keeps_only_submissions_waiting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, checked, alone = Event(), Event(), Lock()

    def slow(*arguments: Any, **options: Any) -> Any:
        assert alone.acquire(blocking=False), "one data set is checked twice at the same time"
        try:
            checked.set()
            assert released.wait(60)
            return check_listing(*arguments, **options)
        finally:
            alone.release()

    monkeypatch.setattr(specs, "check_listing", slow)

    async def run() -> tuple[httpx.Response, list[httpx.Response]]:
        made: list[httpx.Response] = []
        async with client_of(bench) as http, anyio.create_task_group() as group:

            async def submit(number: int) -> None:
                made.append(await http.post("/v1/searches", json=BODY | {"name": f"{number}"}))

            for number in range(MANY):
                group.start_soon(submit, number)
            try:
                with anyio.fail_after(60):
                    await anyio.to_thread.run_sync(checked.wait)
                    while bench.context.data_checkers.statistics().tasks_waiting < MANY - DATA_CHECKERS:
                        await anyio.sleep(0.01)
                    assert bench.context.data_checkers.borrowed_tokens == DATA_CHECKERS
                    listed = await http.get("/v1/searches")
            finally:
                released.set()
        return listed, made

    listed, made = anyio.run(run)
    assert listed.json()["searches"] == []
    assert [answer.status_code for answer in made] == [202] * MANY


def test_those_who_wait_for_a_look_at_a_data_set_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    released, times, looks = Event(), count(), list[int]()
    now = -1

    def clock() -> int:  # asked by each request once, and by each look once more
        nonlocal now
        now = next(times)
        return now

    def look(data: DataConfig, *_: Any) -> tuple[DataConfig, Listing]:
        looks.append(len(looks))
        assert released.wait(60)
        return data, Listing({"train": len(looks)}, None)

    monkeypatch.setattr(specs, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(specs, "check_data", look)
    shared = specs.DataLooks(None, Path())
    large, other = (DataConfig(name=name, image_size=(32, 32)) for name in ("large", "other"))
    with ThreadPoolExecutor(DATA_CHECKERS) as threads:
        asked = [threads.submit(shared.check, large) for _ in range(DATA_CHECKERS)]
        while now < DATA_CHECKERS:  # all have asked, and the first look has begun
            sleep(0.001)
        released.set()
        found = [future.result()[1].num_images["train"] for future in asked]
    assert sorted(found) == [1, *[2] * (DATA_CHECKERS - 1)]
    assert shared.check(other)[0] is other
    assert shared.check(other)[1].num_images == {"train": 4}, "who asks later does not get what was seen before"
