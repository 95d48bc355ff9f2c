"""Ray's Job API for real, on a head that the test starts and stops itself."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.job_server import JobServer
from cluster import jobs
from cluster.jobs import JobState
from cluster.local import RayHead
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "auto", ""])
def test_address_that_is_no_job_server_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be that of the job server"):
        jobs.check_cluster(address)


def test_unreachable_address_is_told_at_once() -> None:
    with pytest.raises(InputError, match=f"no Ray job server answers at {NOWHERE}"):
        jobs.check_cluster(NOWHERE)
    for call in (jobs.job_state, jobs.stop_run, jobs.job_logs):
        with pytest.raises(jobs.ClusterUnavailableError):
            call(NOWHERE, "s-1")
    with pytest.raises(jobs.ClusterUnavailableError):
        jobs.submit_run(NOWHERE, "s-1", Path("/run"))


def test_server_that_accepts_and_never_answers_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "READ_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="no Ray job server answers"):
            jobs.check_cluster(address)


@pytest.mark.parametrize("answer", [(200, []), (200, {"status": 5}), (200, "x"), (429, "busy"), (502, "no upstream")])
def test_answer_that_is_not_rays_is_taken_for_a_cluster_that_is_away(answer: tuple[int, object]) -> None:
    server = JobServer()
    for name in ("look", "logs", "stop", "submit"):
        setattr(server, name, lambda _: answer)
    with server.running():
        for call in (jobs.job_state, jobs.stop_run, jobs.job_logs):
            with pytest.raises(jobs.ClusterUnavailableError):
                call(server.address, "s-1")
        with pytest.raises(jobs.ClusterUnavailableError):
            jobs.submit_run(server.address, "s-1", Path("/run"))


def test_job_carries_the_name_of_its_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "s-1").write_json("config.json", {"name": "polyps", "kind": "search", "data": {"root": "/d"}})
    server = JobServer()
    with server.running():
        jobs.submit_run(server.address, "s-1", tmp_path / "s-1")
        jobs.submit_run(server.address, "s-2", tmp_path / "s-2")  # whose folder nothing is in
    assert server.metadata == {"s-1": {"run": "s-1", "name": "polyps", "kind": "search"}, "s-2": {"run": "s-2"}}


def wait_for(condition: Callable[[], bool], what: str, timeout_seconds: float = 180) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout_seconds} s"
        time.sleep(0.2)


@pytest.fixture
def address(head: RayHead) -> str:
    """Of the head's job server."""
    return head.dashboard


def submit(address: str, submission_id: str, code: str) -> None:
    """Tries again while the new head has no agent yet, as the reconciler does."""

    def submitted() -> bool:
        try:
            jobs.submit_run(address, submission_id, Path("/run"), [sys.executable, "-c", code])
        except jobs.ClusterUnavailableError:
            return False
        return True

    wait_for(submitted, "an agent")


@pytest.mark.ray
class TestOnRay:
    def test_job_runs_with_its_environment_to_its_end(self, address: str) -> None:
        code = "import os; print(os.environ['RAY_USAGE_STATS_ENABLED'], os.environ['PYTHONUNBUFFERED'])"
        submit(address, "s-good", code)
        wait_for(lambda: jobs.job_state(address, "s-good") is JobState.SUCCEEDED, "the end of the job")
        assert "0 1" in (jobs.job_logs(address, "s-good") or "")

    def test_nodes_are_told_with_what_they_offer(self, address: str) -> None:
        wait_for(lambda: bool(jobs.cluster_nodes(address)), "the node")  # the dashboard learns of it after the start
        (node,) = jobs.cluster_nodes(address)
        assert (node.cpus, node.gpus) == (3, 0)

    def test_submitting_again_changes_nothing(self, address: str) -> None:
        submit(address, "s-again", "print('first')")
        submit(address, "s-again", "raise SystemExit('second')")
        wait_for(lambda: bool((state := jobs.job_state(address, "s-again")) and state.ended), "the end of the job")
        assert jobs.job_state(address, "s-again") is JobState.SUCCEEDED
        assert "second" not in (jobs.job_logs(address, "s-again") or "")

    def test_failing_job_is_failed_with_its_log(self, address: str) -> None:
        submit(address, "s-bad", "raise SystemExit('no data')")
        wait_for(lambda: jobs.job_state(address, "s-bad") is JobState.FAILED, "the failure")
        assert "no data" in (jobs.job_logs(address, "s-bad") or "")

    def test_stopped_job_is_stopped(self, address: str) -> None:
        submit(address, "s-long", "import signal; print('up', flush=True); signal.pause()")
        wait_for(lambda: "up" in (jobs.job_logs(address, "s-long") or ""), "the start of the job")
        jobs.stop_run(address, "s-long")
        wait_for(lambda: jobs.job_state(address, "s-long") is JobState.STOPPED, "the stop")
        jobs.stop_run(address, "s-long")

    def test_unknown_job_is_none(self, address: str) -> None:
        assert jobs.job_state(address, "s-none") is None
        assert jobs.job_logs(address, "s-none") is None
        jobs.stop_run(address, "s-none")
