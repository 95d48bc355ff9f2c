"""Ray's Job API for real, on a head that the test starts and stops itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import jobs
from cluster.jobs import JobState
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


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def wait_for(condition: Callable[[], bool], what: str, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout_seconds} s"
        time.sleep(0.2)


def answers(address: str) -> bool:
    try:
        jobs.check_cluster(address)
    except InputError:
        return False
    return True


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the job server of a head of our own. Only its process tree is ended: `ray stop` would end them all."""
    gcs, dashboard, client, agent = free_ports(4)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    # The folder's name is short, as the sockets in it have a limit of 107 characters.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
            *(f"--dashboard-agent-listen-port={agent}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"),
            *("--include-dashboard=true", "--num-cpus=1", f"--temp-dir={folder}", "--object-store-memory=80000000"),
        ]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_for(lambda: answers(address), "the Ray head")
            yield address
        finally:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in tree:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(tree, timeout=10)


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
    def test_job_runs_with_its_environment_to_its_end(self, head: str) -> None:
        code = "import os; print(os.environ['RAY_USAGE_STATS_ENABLED'], os.environ['PYTHONUNBUFFERED'])"
        submit(head, "s-good", code)
        wait_for(lambda: jobs.job_state(head, "s-good") is JobState.SUCCEEDED, "the end of the job")
        assert "0 1" in (jobs.job_logs(head, "s-good") or "")

    def test_submitting_again_changes_nothing(self, head: str) -> None:
        submit(head, "s-again", "print('first')")
        submit(head, "s-again", "raise SystemExit('second')")
        wait_for(lambda: bool((state := jobs.job_state(head, "s-again")) and state.ended), "the end of the job")
        assert jobs.job_state(head, "s-again") is JobState.SUCCEEDED
        assert "second" not in (jobs.job_logs(head, "s-again") or "")

    def test_failing_job_is_failed_with_its_log(self, head: str) -> None:
        submit(head, "s-bad", "raise SystemExit('no data')")
        wait_for(lambda: jobs.job_state(head, "s-bad") is JobState.FAILED, "the failure")
        assert "no data" in (jobs.job_logs(head, "s-bad") or "")

    def test_stopped_job_is_stopped(self, head: str) -> None:
        submit(head, "s-long", "import signal; print('up', flush=True); signal.pause()")
        wait_for(lambda: "up" in (jobs.job_logs(head, "s-long") or ""), "the start of the job")
        jobs.stop_run(head, "s-long")
        wait_for(lambda: jobs.job_state(head, "s-long") is JobState.STOPPED, "the stop")
        jobs.stop_run(head, "s-long")

    def test_unknown_job_is_none(self, head: str) -> None:
        assert jobs.job_state(head, "s-none") is None
        assert jobs.job_logs(head, "s-none") is None
        jobs.stop_run(head, "s-none")
