"""How fast the service answers: with much stored (``volume``), and with many clients while a search runs (``load``).

``python -m benchmarks.service volume`` makes a database of 1,000 searches with 100,000 trials in total, and one more
search with 100,000 trials of its own, and asks for each kind of page again and again, in this process. The times are
those of whole requests, without the network. "first" is the request that opens the study, as after a restart.

``python -m benchmarks.service load`` starts a real ``slicemamba serve`` on this machine with 20 searches, beside
simulated drivers that report as drivers do, of which one ends a trial every half second, and lets 100 clients, all in
one process of their own, look at that one as the dashboard does: every 3 s each asks for the list, a search, its
trials, front and hypervolume, one after the other, with a random start. ``--pause 0`` takes the pause away, to find the
most the service can do. ``--posting 8`` lets eight more submit searches on a set of 100,000 images meanwhile, one
after the other without a pause, which lists its files each time.

``python -m benchmarks.service rounds`` counts what rounds of the reconciler cost in this process, with 20 searches
whose drivers report, beside 1,000 folders of ended ones: processor time of a round, the longest stretch of it without a
pause (requests wait for the interpreter meanwhile), statements, and requests to Ray.

``python -m benchmarks.service opening`` starts a service with one search of 100,000 trials and a small one, lets 60
clients ask for the front of the large one at once, for the first time, and meanwhile asks for the small one.

``python -m benchmarks.service follow`` lets 100 clients follow the events of one search and 100 its log, with a driver
that ends four trials a second, and tells what that costs the service and how late events arrive.

All print Markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy.event import listen

from api.server.app import create_app
from api.server.database import Sessions, open_database
from api.server.models import Label, Search, StateChange, utc_now
from api.server.reconciler import Reconciler
from api.server.service import SearchService, new_id
from api.server.settings import Settings
from api.states import SearchState
from benchmarks.job_server import JobServer
from cluster import jobs as ray_jobs
from cluster.config import parse_job
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunStatus
from nas.record import RecordReader, note, record_path
from nas.space import SearchSpace
from nas.study import Study
from nas.trial import Trial, TrialState

JOB = {
    "name": "benchmark",
    "data": {"name": "synthetic", "image_size": [32, 32]},
    "search": {"objectives": ["dice", "hd95", "latency_ms"], "num_trials": 100},
}
OBJECTIVES = ("dice", "hd95", "latency_ms")
SPACE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 9, 2, 2, 2, 2, 1))
TEAMS = 10
LARGE = "large"  # name of the set that is posted
MOST_LINKS = 50_000  # to one file; ext4 has room for 65,000


def write_trials(journal: Path, num_trials: int, rng: np.random.Generator) -> None:
    """A study whose record has completed trials, with values that get better slowly, as those of a search do.

    The study itself stays empty, as writing each trial through Optuna would take an hour.
    """
    Study(journal, "search", SPACE, OBJECTIVES, "nsga2")
    with record_path(journal, "search").open("w", encoding="utf-8") as file:
        for number in range(num_trials):
            cost = float(rng.uniform(0.5, 1.0))
            quality = float(rng.normal(0.8, 0.03)) * cost**0.2 + 0.02 * number / num_trials
            values = (quality, 20 * (1 - quality) + float(rng.uniform(0, 1)), 60 * cost)
            trial = _begun(number)
            ended = trial.model_copy(update=_ended(number, values) | {"seconds": 2 * cost})
            file.writelines(f"{one.model_dump_json()}\n" for one in (trial, ended))


def _begun(number: int) -> Trial:
    architecture = str(SPACE.decode([0] * SPACE.num_blocks))
    fields = {"number": number, "architecture": architecture, "origin": "nsga2", "asked_after": number}
    return Trial(state=TrialState.RUNNING, started_at=utc_now(), **fields)


def _ended(number: int, values: Sequence[float]) -> dict[str, Any]:
    metrics = dict(zip(OBJECTIVES, values, strict=True))
    return {"state": TrialState.COMPLETED, "metrics": metrics, "ended_as": number, "ended_at": utc_now()}


def store_searches(sessions: Sessions, runs: Path, count: int, trials_each: int, rng: np.random.Generator) -> list[str]:
    """Searches that have ended, with labels, changes of state and a study each; their ids, oldest first."""
    spec = parse_job(JOB, source="the benchmark").model_dump(mode="json")
    states = [SearchState.SUCCEEDED, SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED]
    ids = sorted(new_id() for _ in range(count))
    with sessions.begin() as session:
        for i, search_id in enumerate(ids):
            now = utc_now()
            state = states[i % len(states)].value
            labels = [Label(key="team", value=f"team {i % TEAMS}"), Label(key="number", value=str(i))]
            progress = {"search": Progress(done=trials_each, total=trials_each, unit="trials").model_dump()}
            session.add(
                Search(
                    id=search_id, name=f"search {i}", spec=spec, state=state, phase="evaluate", progress=progress,
                    attempt=1, request_hash="", created_at=now, started_at=now, ended_at=now, changed_at=now,
                    updated_at=now, label_rows=labels,
                )
            )  # fmt: skip
            session.flush()
            session.add_all(
                StateChange(search_id=search_id, time=now, new_state=new) for new in ("QUEUED", "STARTING", state)
            )
    for search_id in ids:
        write_trials(RunFolder(runs / search_id).path / "search.journal", trials_each, rng)
    return ids


def quantiles(seconds: Sequence[float]) -> str:
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return f"{p50:.1f} | {p99:.1f} | {1000 * max(seconds):.1f}"


def volume(folder: Path, num_searches: int, num_trials: int, repeats: int) -> None:
    settings = Settings(runs_dir=folder / "runs", max_running=10**6)
    sessions = open_database(settings.database)
    rng = np.random.default_rng(0)
    ids = store_searches(sessions, settings.runs_path, num_searches, num_trials // num_searches, rng)
    (large,) = store_searches(sessions, settings.runs_path, 1, num_trials, rng)
    http = TestClient(create_app(settings, _NoJobs()), "http://127.0.0.1")  # type: ignore[arg-type]
    print(
        f"{num_searches} searches with {num_trials} trials in total, and one with {num_trials}; {repeats} times each.\n"
    )
    print("| request | answer kB | first ms | CPU p50 ms | p50 ms | p99 ms | longest ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    token = http.get("/v1/searches", params={"page_size": num_searches // 2}).json()["next_page_token"]
    one = f"/v1/searches/{large}"
    rows: list[tuple[str, Callable[[], str]]] = [
        ("list, 50 a page", lambda: "/v1/searches"),
        ("list, from the middle", lambda: f"/v1/searches?page_token={token}"),
        ("list, by state", lambda: "/v1/searches?state=FAILED&state=CANCELLED"),
        ("list, by label", lambda: f"/v1/searches?label=team=team {rng.integers(TEAMS)}"),
        ("list, by label that one has", lambda: f"/v1/searches?label=number={rng.integers(num_searches)}"),
        ("a search", lambda: f"/v1/searches/{ids[rng.integers(num_searches)]}"),
        ("small study: trials", lambda: f"/v1/searches/{ids[rng.integers(32)]}/trials"),
        ("small study: front", lambda: f"/v1/searches/{ids[rng.integers(32)]}/pareto"),
        ("small study opened: front", lambda: f"/v1/searches/{ids[rng.integers(num_searches)]}/pareto"),
        ("large study: 100 trials", lambda: f"{one}/trials?page_token=NTAwMDA"),
        ("large study: by state", lambda: f"{one}/trials?state=COMPLETED"),
        ("large study: by Dice", lambda: f"{one}/trials?sort=-dice"),
        ("large study: one trial", lambda: f"{one}/trials/{rng.integers(num_trials)}"),
        ("large study: front", lambda: f"{one}/pareto"),
        ("large study: front of two", lambda: f"{one}/pareto?objectives=dice,hd95"),
        ("large study: hypervolume", lambda: f"{one}/hypervolume"),
        ("large study: list while it grows", lambda: _grown(settings.runs_path / large, f"{one}/trials")),
        ("large study: front while it grows", lambda: _grown(settings.runs_path / large, f"{one}/pareto")),
        ("large study: by Dice while it grows", lambda: _grown(settings.runs_path / large, f"{one}/trials?sort=-dice")),
    ]  # fmt: skip
    for name, url in rows:
        first, times, used, size = 0.0, [], [], 0
        for i in range(repeats + 1):
            address = url()
            began, cpu = time.perf_counter(), time.process_time()
            answer = http.get(address)
            took = time.perf_counter() - began
            answer.raise_for_status()
            size = len(answer.content)
            if i == 0:
                first = took
            else:
                times.append(took)
                used.append(time.process_time() - cpu)
        cpu_ms = 1000 * float(np.median(used))
        print(f"| {name} | {size / 1000:.0f} | {1000 * first:.1f} | {cpu_ms:.1f} | {quantiles(times)} |", flush=True)
    memory = psutil.Process().memory_info().rss / 2**20
    print(f"\nMemory of the process with {min(64, num_searches)} studies open: {memory:.0f} MiB.")


def _grown(folder: Path, url: str) -> str:
    """The URL, after one more trial was written to the study."""
    record = record_path(folder / "search.journal", "search")
    number = len(RecordReader(record).read())
    note(record, _begun(number).model_copy(update=_ended(number, (0.8, 4.0, 40.0)) | {"seconds": 1.0}))
    return url


class _NoJobs:
    """A cluster that nothing is asked of: all searches have ended."""


@contextmanager
def simulated_drivers(folders: Sequence[RunFolder], seconds_a_trial: float) -> Iterator[None]:
    """Write statuses twice a second, as drivers do, until the block ends; that of the last folder ends trials too."""
    stopping = Event()

    def drive() -> None:
        study = Study(folders[-1].study_location, "search", SPACE, OBJECTIVES, "nsga2")
        rng = np.random.default_rng(1)
        done = 0
        while not stopping.wait(seconds_a_trial):
            genes = rng.integers(0, 4, SPACE.num_blocks).tolist()
            number = study.start(SPACE.decode(genes), origin="nsga2", asked_after=done).number
            metrics = {
                "dice": float(rng.uniform()),
                "hd95": float(rng.uniform(1, 9)),
                "latency_ms": float(rng.uniform()),
            }
            study.complete(number, metrics, ended_as=done, seconds=seconds_a_trial)
            folders[-1].emit("trial", number=number, state="COMPLETED", metrics=metrics)
            done += 1

    def tell() -> None:
        done = 0
        while not stopping.wait(0.5):
            done += 1
            progress = {"search": Progress(done=done, total=1000, unit="trials", metrics={"best dice": 0.9})}
            for folder in folders:
                now = datetime.now(timezone.utc)
                folder.write_status(RunStatus(state="RUNNING", phase="search", progress=progress, updated_at=now))

    threads = [Thread(target=drive), Thread(target=tell)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@contextmanager
def served(folder: Path, jobs: JobServer, database_url: str | None) -> Iterator[tuple[str, psutil.Process]]:
    """A ``slicemamba serve`` of its own on a free port: its URL and its process."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "SLICEMAMBA_DATA": str(folder / "data")}
    environment["SLICEMAMBA_MAX_RUNNING"] = "20"  # what is submitted beyond them waits in the queue
    (folder / "data").mkdir(exist_ok=True)
    if database_url is not None:
        environment["SLICEMAMBA_DATABASE_URL"] = database_url
    command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--ray-address", jobs.address]
    command += ["--runs-dir", str(folder / "runs")]
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("serving on "):
                raise RuntimeError(f"the service did not start; see {folder / 'service.log'}")
            yield line.split()[2], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def large_set(root: Path, num_images: int) -> None:
    """A data set of so many images, which are links to few files, as what counts is how many names there are."""
    root.mkdir(parents=True)
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6, 2:6] = 255
    made = 0
    for split, share in {"train": 0.7, "val": 0.1, "search": 0.1, "test": 0.1}.items():
        for kind in ("images", "masks"):
            place = root / LARGE / split / kind
            place.mkdir(parents=True)
            for i in range(round(share * num_images)):
                file = root / f"{made // MOST_LINKS}.png"
                if made % MOST_LINKS == 0:
                    Image.fromarray(pixels).save(file)
                os.link(file, place / f"{split}{i:06d}.png")
                made += 1


def load(
    folder: Path, clients: int, seconds: float, pause: float, posting: int, num_images: int, database_url: str | None
) -> None:
    jobs = JobServer()
    if posting:
        large_set(folder / "data", num_images)
    with jobs.running(), served(folder, jobs, database_url) as (url, server):
        for i in range(20):
            answer = httpx.post(f"{url}/v1/searches", json={**JOB, "name": f"search {i}"}, timeout=60)
            answer.raise_for_status()
        search_id = answer.json()["id"]
        while len(jobs.folders) < 20:
            time.sleep(0.1)
        others = [RunFolder(folder) for name, folder in jobs.folders.items() if name != search_id]
        with simulated_drivers([*others, RunFolder(jobs.folders[search_id])], 0.5):
            while httpx.get(f"{url}/v1/searches/{search_id}/trials", timeout=60).json()["total"] < 4:
                time.sleep(0.2)
            before = _cpu(server), time.process_time()
            times, errors = asyncio.run(_look(url, search_id, clients, seconds, pause, posting))
            used, own = _cpu(server) - before[0], time.process_time() - before[1]
    total = sum(map(len, times.values()))
    print(
        f"{clients} clients, {seconds:g} s, a pause of {pause:g} s; {total} requests, {total / seconds:.0f} a second.\n"
    )
    print("| request | requests | p50 ms | p99 ms | longest ms |\n| --- | ---: | ---: | ---: | ---: |")
    for name, found in times.items():
        print(f"| {name} | {len(found)} | {quantiles(found)} |")
    reading = [second for name, found in times.items() if name != "submit" for second in found]
    print(f"| **all reading** | {len(reading)} | {quantiles(reading)} |")
    print(f"\nErrors: {len(errors)} {sorted(set(errors))[:5]}")
    print(
        f"CPU: service {used / seconds:.2f} cores, {1000 * used / max(total, 1):.2f} ms a request; "
        f"clients, driver and job server {own / seconds:.2f} cores."
    )


def follow(folder: Path, clients: int, seconds: float) -> None:
    jobs = JobServer()
    with jobs.running(), served(folder, jobs, None) as (url, server):
        answer = httpx.post(f"{url}/v1/searches", json=JOB, timeout=60)
        answer.raise_for_status()
        search_id = answer.json()["id"]
        while not jobs.folders:
            time.sleep(0.1)
        with simulated_drivers([RunFolder(jobs.folders[search_id])], 0.25):
            delays, used = asyncio.run(_follow(f"{url}/v1/searches/{search_id}", server, clients, seconds))
    print(f"{clients} clients follow the events and {clients} the log of one search, {seconds:g} s.\n")
    print("| events received | p50 ms | p99 ms | longest ms | CPU of the service, cores |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    print(f"| {len(delays)} | {quantiles(delays)} | {used / seconds:.3f} |")


async def _follow(url: str, server: psutil.Process, clients: int, seconds: float) -> tuple[list[float], float]:
    """(how late each event came in seconds, processor time of the service), once all have caught up."""
    delays: list[float] = []
    limits = httpx.Limits(max_connections=2 * clients, max_keepalive_connections=2 * clients)
    async with httpx.AsyncClient(timeout=None, limits=limits) as http:

        async def listen_to(path: str) -> None:
            async with http.stream("GET", f"{url}/{path}") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: ") and '"time"' in line:
                        written = datetime.fromisoformat(json.loads(line[6:])["time"])
                        delays.append((datetime.now(timezone.utc) - written).total_seconds())

        paths = ["events", "logs?follow=true"]
        tasks = [asyncio.create_task(listen_to(path)) for path in paths for _ in range(clients)]
        await asyncio.sleep(5)
        delays.clear()
        before = _cpu(server)
        await asyncio.sleep(seconds)
        used, found = _cpu(server) - before, list(delays)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found, used


def rounds(folder: Path, num_searches: int, num_stored: int, repeats: int) -> None:
    counts: Counter[str] = Counter()
    stretches: list[float] = []

    def job_state(address: str, submission_id: str) -> ray_jobs.JobState | None:
        counts["requests"] += 1
        return ray_jobs.job_state(address, submission_id)

    class Pauses(Event):
        def wait(self, timeout: float | None = None) -> bool:
            stretches.append(time.thread_time())
            return False

    server = JobServer()
    with server.running():
        settings = Settings(runs_dir=folder / "runs", ray_address=server.address, max_running=10**6)
        sessions = open_database(settings.database)
        listen(sessions.kw["bind"], "before_cursor_execute", lambda *_: counts.update(["statements"]))
        asked = SimpleNamespace(submit_run=ray_jobs.submit_run, job_state=job_state, stop_run=ray_jobs.stop_run)
        service = SearchService(sessions, settings, Event())
        reconciler = Reconciler(service, asked, settings, Event())  # type: ignore[arg-type]
        reconciler._stopping = Pauses()
        store_searches(sessions, settings.runs_path, num_stored, 1, np.random.default_rng(0))
        ids = [service.submit({**JOB, "name": f"search {i}"})[0].id for i in range(num_searches)]
        found: list[tuple[float, float, int, int]] = []
        for done in range(repeats + 4):
            counts.clear()
            progress = {"search": Progress(done=done, total=1000, unit="trials", metrics={"best_dice": 0.9})}
            now = datetime.now(timezone.utc)
            for search_id in ids if done else ():  # the first round submits
                status = RunStatus(state="RUNNING", phase="search", progress=progress, updated_at=now)
                service.run_folder(search_id).write_status(status)
            began = time.thread_time()
            stretches[:] = [began]
            reconciler.run_once()
            used = time.thread_time() - began
            longest = max(np.diff([*stretches, time.thread_time()]))
            found.append((1000 * used, 1000 * float(longest), counts["statements"], counts["requests"]))
    used_ms, longest_ms, statements, requests = np.median(np.array(found[4:]), axis=0)
    print("| searches | folders | CPU ms a round | longest without a pause, ms | statements | requests to Ray |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {num_searches} | {num_searches + num_stored} | {used_ms:.1f} | {longest_ms:.1f} | {statements:.0f} | "
        f"{requests:.0f} |"
    )


def opening(folder: Path, num_trials: int, clients: int) -> None:
    """How long the first reading of a large study takes, and what requests for another search feel of it."""
    rng = np.random.default_rng(0)
    sessions = open_database(Settings(runs_dir=folder / "runs").database)
    (small,) = store_searches(sessions, folder / "runs", 1, 50, rng)
    (large,) = store_searches(sessions, folder / "runs", 1, num_trials, rng)
    jobs = JobServer()
    with jobs.running(), served(folder, jobs, None) as (url, server):
        httpx.get(f"{url}/v1/searches/{small}/pareto", timeout=60).raise_for_status()
        before, memory = _cpu(server), server.memory_info().rss
        first, statuses, others = asyncio.run(_open_and_look(url, large, small, clients))
        used, grown = _cpu(server) - before, (server.memory_info().rss - memory) / 2**20
    answered = ", ".join(f"{count} with {status}" for status, count in sorted(Counter(statuses).items()))
    print(f"First front of {num_trials} trials: {first:.1f} s, {used:.1f} s of processor time, {grown:.0f} MiB more.")
    print(f"{clients} clients asked for it at once; answered {answered}.\n")
    print(
        "| meanwhile, another search | requests | p50 ms | p99 ms | longest ms |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, found in others.items():
        print(f"| {name} | {len(found)} | {quantiles(found)} |")


async def _open_and_look(
    url: str, large: str, small: str, clients: int
) -> tuple[float, list[int], dict[str, list[float]]]:
    """(seconds until the first front was there, statuses of all who asked, seconds of each request for another)."""
    others: dict[str, list[float]] = defaultdict(list)
    limits = httpx.Limits(max_connections=clients + 4, max_keepalive_connections=clients + 4)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:

        async def ask() -> tuple[int, float]:
            answer = await http.get(f"/v1/searches/{large}/pareto")
            return answer.status_code, time.perf_counter()

        began = time.perf_counter()
        asked = [asyncio.create_task(ask()) for _ in range(clients)]
        await asyncio.sleep(0.2)
        while not all(task.done() for task in asked):
            for name, path in {"search": "", "trials": "/trials", "front": "/pareto"}.items():
                moment = time.perf_counter()
                (await http.get(f"/v1/searches/{small}{path}")).raise_for_status()
                others[name].append(time.perf_counter() - moment)
            await asyncio.sleep(0.02)
        answers = [task.result() for task in asked]
    first = min(moment for status, moment in answers if status == 200) - began
    return first, [status for status, _ in answers], others


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _look(
    url: str, search_id: str, clients: int, seconds: float, pause: float, posting: int
) -> tuple[dict[str, list[float]], list[str]]:
    """(seconds of each request by kind, what went wrong) of all clients together."""
    one = f"/v1/searches/{search_id}"
    pages = {
        "list": "/v1/searches",
        "search": one,
        "trials": f"{one}/trials?sort=-dice&page_size=20",
        "front": f"{one}/pareto",
        "hypervolume": f"{one}/hypervolume",
    }
    times: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients + posting, max_keepalive_connections=clients + posting)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:

        async def client() -> None:
            await asyncio.sleep(random.uniform(0, pause))
            while time.monotonic() < end:
                for name, path in pages.items():
                    began = time.perf_counter()
                    try:
                        answer = await http.get(path)
                        if answer.status_code != 200:
                            errors.append(f"{answer.status_code} of {name}")
                    except httpx.HTTPError as error:
                        errors.append(f"{type(error).__name__} of {name}")
                    times[name].append(time.perf_counter() - began)
                await asyncio.sleep(pause)

        async def poster(own: int) -> None:
            number = 0
            while time.monotonic() < end:
                body = {**JOB, "name": f"large {own}-{number}", "data": {"name": LARGE, "image_size": [32, 32]}}
                began, number = time.perf_counter(), number + 1
                answer = await http.post("/v1/searches", json=body, timeout=300)
                if answer.status_code != 202:
                    errors.append(f"{answer.status_code} of submit: {answer.text[:200]}")
                times["submit"].append(time.perf_counter() - began)

        await asyncio.gather(*(client() for _ in range(clients)), *(poster(i) for i in range(posting)))
    return times, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    stored = commands.add_parser("volume")
    stored.add_argument("--searches", type=int, default=1000)
    stored.add_argument("--trials", type=int, default=100_000)
    stored.add_argument("--repeats", type=int, default=100)
    many = commands.add_parser("load")
    many.add_argument("--clients", type=int, default=100)
    many.add_argument("--seconds", type=float, default=60.0)
    many.add_argument("--pause", type=float, default=3.0)
    many.add_argument("--posting", type=int, default=0)
    many.add_argument("--images", type=int, default=100_000)
    many.add_argument("--database-url")
    followed = commands.add_parser("follow")
    followed.add_argument("--clients", type=int, default=100)
    followed.add_argument("--seconds", type=float, default=30.0)
    counted = commands.add_parser("rounds")
    counted.add_argument("--searches", type=int, default=20)
    counted.add_argument("--stored", type=int, default=1000)
    counted.add_argument("--repeats", type=int, default=30)
    opened = commands.add_parser("opening")
    opened.add_argument("--trials", type=int, default=100_000)
    opened.add_argument("--clients", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slicemamba-bench-") as name:
        if options.command == "volume":
            volume(Path(name), options.searches, options.trials, options.repeats)
        elif options.command == "follow":
            follow(Path(name), options.clients, options.seconds)
        elif options.command == "rounds":
            rounds(Path(name), options.searches, options.stored, options.repeats)
        elif options.command == "opening":
            opening(Path(name), options.trials, options.clients)
        else:
            load(
                Path(name),
                options.clients,
                options.seconds,
                options.pause,
                options.posting,
                options.images,
                options.database_url,
            )


if __name__ == "__main__":
    main()
