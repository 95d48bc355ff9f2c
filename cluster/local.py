"""Processes started here and stopped here: a Ray head of one's own, beside whatever else runs on the machine.

``ray stop`` would end every Ray on the host, so only the process tree that was started is ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.connect import ENVIRONMENT
from slicemamba.errors import InputError, RunFailedError

_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Attributes:
        dashboard, metrics: addresses of its job server and dashboard, and of its metrics.
        environment: variables of its clients.
        process, log: of ``ray start``, which ends when any part of the head does.
    """

    dashboard: str
    metrics: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises RunFailedError with the end of the log when the head has stopped."""
        if self.process.poll() is not None:
            raise RunFailedError(f"Ray has stopped; the end of {self.log}:\n{tail(self.log)}")


@contextlib.contextmanager
def ray_head(*, num_cpus: int, num_gpus: int = 0, log: Path) -> Iterator[RayHead]:
    """Starts a Ray head, and stops it at the end.

    It asks for a token, which is random and in its clients' environment alone (RAY_AUTH_TOKEN where that is set), so
    nobody else can submit jobs to it. Its dashboard listens on this machine only. Ray reads the token once in a
    process, when it is first imported, so one process can be the client of one such head.

    Args:
        num_cpus, num_gpus: what it offers; more than there are is allowed, for tests.
        log: where its output goes.

    Raises:
        InputError: it did not come up; the message holds the end of its log.
    """
    from cluster.jobs import check_cluster

    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "RAY_worker_niceness": "0",  # by default they give way to all else, which starves them on few cores
        # So that ``python`` in a job is this one: jobs have the head's environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
    }
    # A short name, as the paths of the sockets in it are limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        command += [
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
        ]
        command += [f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", f"--temp-dir={folder}"]
        address = f"http://127.0.0.1:{dashboard}"
        with started(command, environment=environment, log=log) as process, _variables(environment):
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    check_cluster(address)
                    break
                except InputError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise InputError(f"Ray did not start; the end of {log}:\n{tail(log)}") from None
                    time.sleep(0.3)
            yield RayHead(address, f"http://127.0.0.1:{metrics}/metrics", environment, process, log)


@contextlib.contextmanager
def started(command: Sequence[str], *, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command with its output in ``log``; ends it and all its descendants at the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:  # else its number may be another process's by now
                stop_tree(process.pid)
            process.wait()


def stop_tree(pid: int) -> None:
    """Ends a process and its descendants: asks first, and kills what has not gone in time."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        root.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=_STOP_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all different."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def _variables(environment: dict[str, str]) -> Iterator[None]:
    """Sets variables in this process too, for the clients in it, and restores them."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
