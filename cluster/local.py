"""Processes started here and stopped here: a Ray head of one's own, beside whatever else runs on the machine.

``ray stop`` would end every Ray on the host, so only the process tree that was started is ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.connect import ENVIRONMENT, short_temp
from slicemamba.errors import InputError, RunFailedError

_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Attributes:
        dashboard, metrics: addresses of its job server and dashboard, and of its metrics.
        gcs, client: addresses for drivers, the second one for Ray Client.
        environment: variables of its clients.
    """

    dashboard: str
    gcs: str
    client: str
    metrics: str
    environment: dict[str, str]


@dataclass(frozen=True)
class StartedHead(RayHead):
    """A head that was started here.

    Attributes:
        process, log: of ``ray start``, which ends when any part of the head does.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises RunFailedError with the end of the log when the head has stopped."""
        if self.process.poll() is not None:
            raise RunFailedError(f"Ray has stopped; the end of {self.log}:\n{tail(self.log)}")


class HeadPorts(NamedTuple):
    """Where a head listens. All are given, as Ray waits 15 s only for those that its agents have to choose themselves:
    then a node does not start on a busy machine.
    """

    gcs: int
    dashboard: int
    client: int
    agent: int
    agent_grpc: int
    runtime_env: int
    metrics: int

    @classmethod
    def free(cls, dashboard: int | None = None) -> HeadPorts:
        """Args: dashboard: its port, where that has to be a certain one."""
        found = cls(*free_ports(7))
        return found if dashboard is None else found._replace(dashboard=dashboard)

    @property
    def head(self) -> RayHead:
        return RayHead(
            dashboard=f"http://127.0.0.1:{self.dashboard}",
            gcs=f"127.0.0.1:{self.gcs}",
            client=f"ray://127.0.0.1:{self.client}",
            metrics=f"http://127.0.0.1:{self.metrics}/metrics",
            environment=_environment(),
        )

    def start_command(self, *, num_cpus: int, num_gpus: int | None, folder: str) -> list[str]:
        """``ray start --head`` on these ports of this machine, with its session below ``folder``."""
        gpus = [] if num_gpus is None else [f"--num-gpus={num_gpus}"]
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={self.gcs}"),
            *(f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={self.client}"),
            *(f"--dashboard-agent-listen-port={self.agent}", f"--dashboard-agent-grpc-port={self.agent_grpc}"),
            *(f"--runtime-env-agent-port={self.runtime_env}", f"--metrics-export-port={self.metrics}"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
            *(f"--num-cpus={num_cpus}", *gpus, f"--temp-dir={folder}"),
        ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        **ENVIRONMENT,
        "TMPDIR": short_temp(),
        # By default 30 s: then a part of the dashboard that a busy machine starts too slowly is never tried again, and
        # the job server stays silent while the rest of Ray lives.
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
        "RAY_worker_niceness": "0",  # by default they give way to all else, which starves them on few cores
        # So that ``python`` in a job is this one: jobs have the head's environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
    }


@contextlib.contextmanager
def ray_head(
    *, num_cpus: int, num_gpus: int | None = None, log: Path, dashboard_port: int | None = None
) -> Iterator[StartedHead]:
    """Starts a Ray head, and stops it at the end.

    It asks for a token, which is random and in its clients' environment alone (RAY_AUTH_TOKEN where that is set), so
    nobody else can submit jobs to it. Its dashboard listens on this machine only. Ray reads the token once in a
    process, when it is first imported, so one process can be the client of one such head.

    Args:
        num_cpus, num_gpus: what it offers; more than there are is allowed, for tests. None: the GPUs that Ray finds.
        log: where its output goes.
        dashboard_port: of its dashboard and job server; None: a free one.

    Raises:
        InputError: it did not come up; the message holds the end of its log.
    """
    from cluster.jobs import check_cluster

    ports = HeadPorts.free(dashboard_port)
    head = ports.head
    with tempfile.TemporaryDirectory(prefix="ray", dir=short_temp(), ignore_cleanup_errors=True) as folder:
        command = [*ports.start_command(num_cpus=num_cpus, num_gpus=num_gpus, folder=folder), "--block"]
        with started(command, environment=head.environment, log=log) as process, _variables(head.environment):
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    check_cluster(head.dashboard)
                    break
                except InputError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise InputError(f"Ray did not start; the end of {log}:\n{tail(log)}") from None
                    time.sleep(0.3)
            yield StartedHead(**vars(head), process=process, log=log)


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
            with _undisturbed():
                if process.poll() is None:  # else its number may be another process's by now
                    stop_tree(process.pid)
                process.wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or the terminal that is closed, does not leave half of the processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
