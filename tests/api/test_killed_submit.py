"""``kill -9`` of the service while it takes a search in and hands it to Ray, and several processes side by side.

The job server is another process's matter, as Ray is: it keeps its jobs over the death of the service. After each kill
the client does what ``api.client`` does, it repeats the submission with its key, and then the record and the job must
be there, once each.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres import create_database
from real_service import PATIENCE_SECONDS, RealService, drive, running, searches, wait_for
from service_helpers import BODY

from benchmarks.job_server import JobServer

# The first commit takes the search in, the second makes it STARTING, the third notes what Ray says, the fourth makes it
# RUNNING.
COMMITS = [f"{place} {number}" for number in (1, 2, 3, 4) for place in ("before", "after")]
REQUESTS = ["job refused", "job kept"]  # the service dies while it waits for Ray's answer
RANDOM = [f"random {seed}" for seed in range(10)]
WINDOW_SECONDS = 1.0  # of the random moments; a submission takes about half of it on a quiet machine


def submit(url: str, key: str) -> str:
    """The search's id. Raises httpx.TransportError where the service dies under the request."""
    body = {**BODY, "name": key}
    answer = httpx.post(f"{url}/v1/searches", json=body, headers={"Idempotency-Key": key}, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 202, answer.text
    search_id: str = answer.json()["id"]
    return search_id


def check_each_once(url: str, jobs: JobServer, keys: list[str]) -> None:
    """One record and one job a key, the job under way, and the history that of an undisturbed search."""
    found = searches(url)
    assert Counter(item["name"] for item in found) == Counter(keys)
    assert {item["id"] for item in found} == set(jobs.states), "a job without a record, or a record without a job"
    for item in found:
        history = _seen(url, str(item["id"]))["history"]
        assert [change["new_state"] for change in history] == ["QUEUED", "STARTING", "RUNNING"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_points_of_a_submission(database_url: str, tmp_path: Path) -> None:
    victim: list[RealService] = []
    point = ""

    def on_submit(job_id: str, kept: bool) -> None:
        if point == ("job kept" if kept else "job refused"):
            victim[-1].strike()
            if not kept:
                raise ConnectionAbortedError("the service died before Ray took the job")

    jobs = JobServer(on_submit)
    outcomes: Counter[str] = Counter()
    with jobs.running():
        survivor = RealService(jobs, tmp_path / "runs", database_url)
        survivor.start()
        keys: list[str] = []
        try:
            for point in [*COMMITS, *REQUESTS, *RANDOM]:
                victim.append(survivor)
                keys.append(point)
                told = _submit_and_die(survivor, point, jobs)
                outcomes["answered before it died" if told else "died before it answered"] += 1
                point = ""  # the next process is left alone until it is its turn
                survivor = RealService(jobs, tmp_path / "runs", database_url)
                survivor.start()
                found = submit(survivor.url, keys[-1])
                assert told in (None, found), "the repeated submission gave another search"
                _until_running(survivor.url, jobs, found)
                check_each_once(survivor.url, jobs, keys)
                print(f"killed at {keys[-1]}: {'answered before' if told else 'not answered'}; whole again", flush=True)
        finally:
            survivor.kill()
    print(f"\n{len(keys)} kills: {dict(outcomes)}; submissions at the job server: {sorted(jobs.requests.values())}")
    assert len(keys) == 20
    assert len(outcomes) == 2, "the kills should come before and after the answer"


def _submit_and_die(service: RealService, point: str, jobs: JobServer) -> str | None:
    """The search's id where the service lived long enough to tell."""
    if point in COMMITS:
        service.tell(point)
    timer = None
    if point in RANDOM:
        timer = threading.Timer(random.Random(point).uniform(0, WINDOW_SECONDS), service.strike)
        timer.start()
    try:
        told = submit(service.url, point)
    except httpx.TransportError:
        told = None
    if told is not None and point in ("before 4", "after 4"):
        wait_for(lambda: _seen(service.url, told)["job_status"] == "RUNNING", "Ray's word to be noted")
        drive(jobs.folders[told])
    if timer is not None:
        timer.join()
    assert service.died()
    return told


def _until_running(url: str, jobs: JobServer, search_id: str) -> None:
    wait_for(lambda: search_id in jobs.folders, "the job")
    drive(jobs.folders[search_id])
    wait_for(lambda: _seen(url, search_id)["state"] == "RUNNING", "the search to run")


def _seen(url: str, search_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = httpx.get(f"{url}/v1/searches/{search_id}", timeout=PATIENCE_SECONDS).json()
    return seen


def test_many_submissions_over_the_network_make_one_search_a_key(database_url: str, tmp_path: Path) -> None:
    jobs = JobServer()
    with jobs.running():
        service = RealService(jobs, tmp_path / "runs", database_url)
        with running(service), ThreadPoolExecutor(50) as pool:
            made = list(pool.map(lambda i: (i % 10, submit(service.url, f"key {i % 10}")), range(50)))
            assert len(set(made)) == len({search_id for _, search_id in made}) == 10
            assert len(searches(service.url)) == 10
            wait_for(lambda: len(jobs.states) == 10, "ten jobs")
            wait_for(lambda: {item["state"] for item in searches(service.url)} == {"STARTING"}, "all to start")
    assert set(jobs.states) == {search_id for _, search_id in made}


def test_processes_side_by_side_and_one_is_killed(postgres: str, tmp_path: Path) -> None:
    """Clients of the killed process go to the other one, which finishes what the first began."""
    database_url = create_database(postgres, "side_by_side")
    jobs = JobServer()
    with jobs.running():
        first, second = (RealService(jobs, tmp_path / "runs", database_url) for _ in range(2))
        with running(first, second), ThreadPoolExecutor(20) as pool:
            answered = count()

            def submit_somewhere(i: int) -> str:
                key = f"key {i % 20}"
                try:
                    found = submit((first, second)[i % 2].url, key)
                except httpx.TransportError:
                    return submit(second.url, key)
                if next(answered) == 8:
                    first.kill()
                return found

            made = list(pool.map(submit_somewhere, range(60)))
            assert len(set(made)) == 20
            wait_for(lambda: len(jobs.states) == 20, "twenty jobs")
            for folder in list(jobs.folders.values()):
                drive(folder)
            wait_for(lambda: {item["state"] for item in searches(second.url)} == {"RUNNING"}, "all to run")
            check_each_once(second.url, jobs, [f"key {i}" for i in range(20)])
