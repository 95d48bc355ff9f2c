"""Hosts that cannot reach one another for a while, and slow links that lose: a search goes on, and does nothing twice.

Head, two worker nodes and the service are hosts of their own on one machine; a folder that all see stands for NFS.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from disturbed_job import check_nothing_lost_or_twice
from hosts_cluster import HEAD, SERVICE, WORKERS, HostsCluster, Watch, hosts_cluster
from network import missing_for_network

from api.client import ApiUnreachableError, Client
from api.schemas import Search
from api.states import SearchState
from cluster.run_folder import RunFolder
from nas.study import Trial, find_trials, open_storage

_MISSING = missing_for_network()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(_MISSING is not None, reason=f"hosts of their own are not to be had: {_MISSING}"),
]

Part = Literal["driver", "worker", "service"]
_WAIT_SECONDS = 1500.0
_NOT_READY = "the Ray cluster cannot be reached"
_BEGUN_TRIALS = 6
_NUM_TRIALS: dict[Part, int] = {"driver": 60, "worker": 90, "service": 130}
"""So many that a search outlasts a cut of two minutes: in it, it stands still, is half as fast, or goes on."""
_MOST_RESUMED = 2
_MOST_PLACINGS = 12
"""How often a search is submitted until Ray, which draws a node, has placed its driver away from the head."""


def job(num_trials: int) -> dict[str, Any]:
    """A search of candidates that take two seconds or so each, two at a time."""
    return {
        "data": {
            "name": "synthetic",
            "image_size": [32, 32],
            "intensity": "zscore",
            "synthetic": {"num_train": 8, "num_val": 2, "num_search": 5000, "num_test": 2},
        },
        "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
        "supernet": {"epochs": 2, "batch_size": 4, "t_max": 2, "num_val_architectures": 0},
        "search": {"searcher": "random", "objectives": ["dice"], "num_trials": num_trials},
        "resources": {"search": {"num_workers": 2}},
        "retrain": None,
    }


class Running:
    """A search on the cluster, with what its user and the operator do for it, and what they see."""

    def __init__(self, cluster: HostsCluster, client: Client, num_trials: int) -> None:
        self.cluster = cluster
        self.client = client
        self.num_trials = num_trials
        self.num_resumed = 0
        self.submit()

    def submit(self) -> None:
        self.search = self.client.submit(job(self.num_trials))
        self.run = RunFolder(self.cluster.folder / "runs" / self.search.id)

    def trials(self) -> list[Trial]:
        """Those that have ended."""
        return [trial for trial in find_trials(open_storage(self.run.study_location), "search") if trial.ended]

    def num_attempts(self) -> int:
        return len(list((self.run.path / "attempts").iterdir()))

    def num_ended(self) -> int:
        return len(self.trials()) if self.run.config_path.exists() and self.run.read_status() else 0

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.client.get(self.search.id)
            self.cluster.restart_ended_nodes()
            time.sleep(0.5)

    def driver_host(self) -> str:
        """Where its driver runs, waited for."""
        self.wait_for(lambda: self.cluster.drivers(self.run))
        [host] = self.cluster.drivers(self.run).values()
        return host

    def place_driver_on_worker(self) -> str:
        for _ in range(_MOST_PLACINGS):
            host = self.driver_host()
            if host in WORKERS:
                return host
            self.client.cancel(self.search.id)
            self.wait_for(lambda: self.client.get(self.search.id).state.ended)
            self.submit()
        raise AssertionError("Ray has placed all drivers on the head")

    def ended(self) -> bool:
        """Whether it has succeeded; what failed is asked to go on, as its user would."""
        with suppress(ApiUnreachableError):
            search = self.client.get(self.search.id)
            if search.state in (SearchState.FAILED, SearchState.CANCELLED):
                assert self.num_resumed < _MOST_RESUMED, search
                print(f"resumed by hand: {search.state}: {search.error or search.message}", flush=True)
                self.client.resume(self.search.id)
                self.num_resumed += 1
            return search.state is SearchState.SUCCEEDED
        return False


@contextmanager
def running(folder: Path, num_trials: int, *, driver_anywhere: bool = False) -> Iterator[Running]:
    with hosts_cluster(folder, driver_anywhere=driver_anywhere) as cluster, Client(cluster.url) as client:
        yield Running(cluster, client, num_trials)


def check_one_driver_at_a_time(run: RunFolder) -> None:
    """No attempt has written anything once the next one was claimed."""
    numbers = sorted(int(folder.name) for folder in (run.path / "attempts").iterdir())
    assert numbers == list(range(1, len(numbers) + 1))
    for number, following in pairwise(numbers):
        claimed_at = (run.path / "attempts" / str(following) / "driver.json").stat().st_mtime
        for file in (run.path / "attempts" / str(number)).glob("*.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            assert all(datetime.fromisoformat(line["time"]).timestamp() <= claimed_at for line in lines), file
            assert file.stat().st_mtime <= claimed_at
    # Nor has one of them written to the study after the next: its records are those of one process after another.
    writers = [json.loads(line)["worker_id"] for line in Path(run.study_location).read_text().splitlines()]
    changes = sum(before != after for before, after in pairwise(writers))
    assert changes == len(set(writers)) - 1


def check_story(at_work: Running, found: Search, before: list[Trial]) -> None:
    """It has its trials once each, those that had ended stay as they were, and it has ended once."""
    run = at_work.run
    check_nothing_lost_or_twice(run, at_work.num_trials)
    after = {trial.number: trial for trial in at_work.trials()}
    assert [after[trial.number] for trial in before] == before
    assert found.history[-1].new_state is SearchState.SUCCEEDED
    assert run.result_path.exists()
    assert not list(run.path.glob("result-*.json"))
    ends = [event["state"] for _, event in run.events() if event["event"] == "ended"]
    assert ends.count("SUCCEEDED") == 1
    assert ends[-1] == "SUCCEEDED"
    check_one_driver_at_a_time(run)


def tell(what: str, at_work: Running, watch: Watch, found: Search, **moments: float) -> None:
    """Prints a row of the table in docs/reliability.md, and what happened when, in seconds from the first moment on."""
    ended = sorted(trial.ended_at.timestamp() for trial in at_work.trials() if trial.ended_at)
    longest, gap_began = max((later - earlier, earlier) for earlier, later in pairwise(ended))
    began = min(moments.values())
    row = {
        "what": what,
        "attempts": at_work.num_attempts(),
        "resumed": at_work.num_resumed,
        "longest_gap": [round(gap_began - began, 1), round(longest, 1)],
        "next_trial_after": {name: round(min(e for e in ended if e > at) - at, 1) for name, at in moments.items()},
        "node_starts": {name: len(node.starts) for name, node in at_work.cluster.nodes.items()},
        "slowest_answer": round(watch.slowest_seconds, 2),
        "answers": watch.num_answers,
        "readiness": watch.readiness,
    }
    story = [(at, f"{state}: {message}") for at, state, message in watch.seen]
    story += [(change.time.timestamp(), f"{change.new_state}: {change.message}") for change in found.history]
    for _, event in at_work.run.events():
        if event["event"] in ("warning", "started", "ended") and event.get("phase") != "supernet":
            story.append((datetime.fromisoformat(event["time"]).timestamp(), json.dumps(event)))
    print("\nMEASURED", json.dumps(row))
    for at, text in sorted(story):
        print(f"  {at - began:7.1f} s {text}", flush=True)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seconds", [20, 120])
@pytest.mark.parametrize("part", ["driver", "worker", "service"])
def test_part_cut_off_from_the_head(part: Part, seconds: float, tmp_path: Path) -> None:
    num_trials = _NUM_TRIALS[part] if seconds > 60 else _NUM_TRIALS["driver"]
    with running(tmp_path, num_trials, driver_anywhere=part == "driver") as at_work:
        cluster = at_work.cluster
        host = {"driver": at_work.place_driver_on_worker, "worker": lambda: WORKERS[1], "service": lambda: SERVICE}
        victim = host[part]()
        at_work.wait_for(lambda: at_work.num_ended() >= _BEGUN_TRIALS)
        before = at_work.trials()
        with Watch(cluster.url, at_work.search.id) as watch:
            cluster.net.set_conditions(cut=[(HEAD, victim)])
            cut, over = time.time(), time.monotonic() + seconds
            at_work.wait_for(lambda: time.monotonic() >= over)
            cluster.net.set_conditions()
            mended = time.time()
            assert len(at_work.trials()) < num_trials, "it ended within the cut: it needs more trials on this machine"
            at_work.wait_for(at_work.ended)
        found = at_work.client.get(at_work.search.id)
        tell(f"{part} {seconds:g} s", at_work, watch, found, cut=cut, mended=mended)
        check_story(at_work, found, before)
        assert watch.failures == []
        if part != "driver":
            assert at_work.num_attempts() == 1
        if part == "service":
            assert any(_NOT_READY in told for told in watch.readiness), watch.readiness
            assert watch.readiness[-1] == "ready"


@pytest.mark.timeout(3600)
def test_links_that_lose_and_delay(tmp_path: Path) -> None:
    with hosts_cluster(tmp_path, driver_anywhere=False) as cluster, Client(cluster.url) as client:
        cluster.net.set_conditions(loss=0.1, delay_seconds=0.3)
        submitted = time.time()
        at_work = Running(cluster, client, 40)
        with Watch(cluster.url, at_work.search.id) as watch:
            at_work.wait_for(at_work.ended)
        found = client.get(at_work.search.id)
        tell("10 % loss, 300 ms", at_work, watch, found, submitted=submitted)
        check_story(at_work, found, [])
        assert watch.failures == []
