"""A driver tells when its head is gone or nodes are missing, once, and when all is well again."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster import cluster_health as watch
from cluster.capacity import Node, needs_of
from cluster.config import parse_job
from cluster.run_folder import RunFolder
from slicemamba.errors import RunFailedError

NEEDS = needs_of(parse_job({"retrain": None}).resources, trains=True, searches=True)


def test_head_that_stops_answering_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "live_nodes", lambda: [Node("n1", 4, 0)])
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        look = watch._Look(address, NEEDS)
        assert look() is None
    told = look()
    assert told is not None
    assert f"Ray's head at {address} does not answer" in told
    assert "it continues from here" in told
    assert watch._Look(None, NEEDS)() is None


def test_driver_without_its_head_for_a_minute_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends it only where the head's machine refuses connections, not where it is cut off from it."""
    monkeypatch.setattr(watch, "live_nodes", lambda: [Node("n1", 4, 0)])
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(watch.time, "monotonic", itertools.count(0, 20).__next__)
    answers = iter([True, False, False, False, True, False, False, False, False, False])
    monkeypatch.setattr(watch, "_answers", lambda address: next(answers))
    told: list[str] = []
    ends: list[str] = []
    watch._watch(watch._Look("head:6379", NEEDS), told.append, threading.Event(), ends.append)
    assert [sentence.partition(";")[0] for sentence in told] == ["Ray's head at head:6379 does not answer"]
    assert len(ends) == 1
    assert ends[0].startswith("Ray's head at head:6379 has not answered for 60 s, so this driver ends")
    assert list(answers) == []


def test_ended_driver_says_why() -> None:
    code = "from cluster.cluster_health import _end_process; _end_process('the head is gone')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: the head is gone\n")


def test_missing_nodes_are_told_with_what_they_would_have_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node("n1", 0, 0), Node("n2", 4, 0)]
    monkeypatch.setattr(watch, "live_nodes", lambda: nodes)
    look = watch._Look(None, NEEDS)
    assert look() is None
    del nodes[1]
    told = look()
    assert told is not None
    assert told.startswith("nodes have left, and the run waits for new ones: resources.train needs a worker")
    assert "on n1 with 0 CPUs and 0 GPUs" in told


def follow(seen: list[str | None], monkeypatch: pytest.MonkeyPatch, tell: object = None) -> list[str]:
    """What is told of these looks, one after the other."""
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.0)
    stop, told, looks = threading.Event(), [], iter(seen)

    def look() -> str | None:
        try:
            return next(looks)
        except StopIteration:
            stop.set()
            return seen[-1]

    watch._watch(look, tell or told.append, stop, pytest.fail)  # type: ignore[arg-type]
    return told


def test_each_fault_is_told_once_when_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [None, "a", None, "a", "a", "a", "b", "b", None, "b", None, None, None, "a", "a"]
    assert follow(seen, monkeypatch) == ["a", "b", "the cluster is complete again", "a"]
    assert follow([None] * 5, monkeypatch) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RunFailedError("another driver")])
def test_what_cannot_be_told_stops_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(sentence: str) -> None:
        raise error

    assert follow(["a"] * 4, monkeypatch, tell) == []


def test_look_that_fails_ends_no_watch_and_is_not_taken_for_a_complete_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.0)
    stop, told = threading.Event(), []
    looks = ["a", "a", ConnectionError(), ConnectionError(), "a", "b", "b"]

    def look() -> str:
        seen = looks.pop(0)
        if not looks:
            stop.set()
        if isinstance(seen, Exception):
            raise seen
        return seen

    watch._watch(look, told.append, stop, pytest.fail)
    assert told == ["a", "b"]


def test_warning_stands_in_the_events_and_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    run.warn("the cluster is too small", "search")
    [(_, event)] = run.events()
    assert (event["event"], event["phase"], event["message"]) == ("warning", "search", "the cluster is too small")
    assert capsys.readouterr().out == "warning: the cluster is too small\n"
