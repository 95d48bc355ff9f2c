"""A Ray cluster and the service, each part on a host of its own, and what is seen of them from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from network import Host, Network, network

from api.client import ApiUnreachableError, Client
from cluster.connect import ENVIRONMENT
from cluster.jobs import check_cluster
from cluster.local import stop_tree, tail
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError

HEAD, WORKERS, SERVICE = "head", ("worker-1", "worker-2"), "service"
_GCS, _DASHBOARD, _PORT = 6379, 8265, 8000
# Given, as Ray waits 15 s only for ports that it has to choose itself.
_AGENT_PORTS = ("--dashboard-agent-grpc-port=52366", "--runtime-env-agent-port=52367", "--metrics-export-port=8080")
_START_SECONDS = 600.0
_RESTART_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 30.0


@dataclass
class Node:
    """A Ray node, which is started again whenever it ends, as systemd or Kubernetes would.

    Attributes:
        host: where. process: of ``ray start``. starts: when it was started, by the monotonic clock.
    """

    host: Host
    process: subprocess.Popen[bytes]
    starts: list[float] = field(default_factory=lambda: [time.monotonic()])


class HostsCluster:
    """A head without CPUs, two worker nodes with one each, and the service.

    Args:
        net: with the hosts. folder: of runs and logs, which all hosts see. own_files: where each has its own.
        driver_anywhere: Ray places drivers on any node, not on the head alone.
    """

    def __init__(self, net: Network, folder: Path, own_files: Path, driver_anywhere: bool) -> None:
        self.net = net
        self.folder = folder
        self._own_files = own_files
        addresses = ",".join(host.address for host in net.hosts.values())
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")},
            **ENVIRONMENT,
            "RAY_worker_niceness": "0",
            "RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES": str(int(driver_anywhere)),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "no_proxy": addresses,
            "NO_PROXY": addresses,
            "SLICEMAMBA_CACHE": str(folder / "cache"),
            "SLICEMAMBA_REQUIRE_TOKENS": "false",
        }
        self.dashboard = f"http://{self._address(HEAD)}:{_DASHBOARD}"
        self.url = f"http://{self._address(SERVICE)}:{_PORT}"
        self.nodes: dict[str, Node] = {}

    def start(self) -> None:
        """Returns when all answer."""
        self._start_node(HEAD)
        self._wait_for_head()
        for name in WORKERS:
            self._start_node(name)
        serve = ["serve", "--host", "0.0.0.0", "--port", str(_PORT), "--ray-address", self.dashboard]
        command = [sys.executable, "-m", "api.cli", *serve, "--runs-dir", str(self.folder / "runs")]
        self._run(SERVICE, command)
        self._wait_for_service()

    def _address(self, name: str) -> str:
        return self.net.hosts[name].address

    def _run(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        return self.net.hosts[name].start(command, environment=self._environment, log=log)

    def _start_node(self, name: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        if name == HEAD:
            command += ["--head", f"--port={_GCS}", "--dashboard-host=0.0.0.0", f"--dashboard-port={_DASHBOARD}"]
        else:
            command += [f"--address={self._address(HEAD)}:{_GCS}"]
        command += [f"--node-ip-address={self._address(name)}", f"--temp-dir={self._own_files}", *_AGENT_PORTS]
        command += [f"--num-cpus={int(name != HEAD)}", "--num-gpus=0", "--object-store-memory=100000000"]
        process = self._run(name, command)
        if name in self.nodes:
            self.nodes[name].process = process
            self.nodes[name].starts.append(time.monotonic())
        else:
            self.nodes[name] = Node(self.net.hosts[name], process)

    def _wait_for_head(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(InputError):
                return check_cluster(self.dashboard)
            assert self.nodes[HEAD].process.poll() is None, tail(self.folder / "head.log")
            assert time.monotonic() < deadline, tail(self.folder / "head.log")
            time.sleep(0.5)

    def _wait_for_service(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with Client(self.url) as client:
            while True:
                with suppress(ApiUnreachableError):
                    client.version()
                    return
                assert time.monotonic() < deadline, tail(self.folder / "service.log")
                time.sleep(0.5)

    def restart_ended_nodes(self) -> None:
        for name, node in self.nodes.items():
            if node.process.poll() is not None and time.monotonic() - node.starts[-1] > _RESTART_SECONDS:
                for left in self._processes_of(node.host, "ray/"):
                    stop_tree(left.pid)
                self._start_node(name)

    def _processes_of(self, host: Host, part: str) -> list[psutil.Process]:
        """Those on a host with this in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if host.runs(process) and any(part in argument for argument in process.cmdline()):
                    found.append(process)
        return found

    def drivers(self, run: RunFolder) -> dict[int, str]:
        """Host of each process that drives a run, by process id."""
        found = {}
        for name, node in self.nodes.items():
            for process in self._processes_of(node.host, str(run.path)):
                with suppress(psutil.Error):
                    if "cluster.entrypoint" in process.cmdline():
                        found[process.pid] = name
        return found


@contextmanager
def hosts_cluster(folder: Path, *, driver_anywhere: bool) -> Iterator[HostsCluster]:
    # A short name, as the paths of Ray's sockets in it are limited to 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as own_files,
        network([HEAD, *WORKERS, SERVICE], Path(own_files)) as net,
    ):
        cluster = HostsCluster(net, folder, Path(own_files), driver_anywhere)
        cluster.start()
        yield cluster


class Watch:
    """Asks the service again and again, in a thread, from a host that is never cut off from it.

    Attributes:
        failures: requests that were not answered with 200, with what came instead.
        slowest_seconds: the longest that an answer took.
        seen: (time, state, message) of the search, whenever one of the latter two changed.
        readiness: what the service said of its database and its cluster, one after the other.
    """

    def __init__(self, url: str, search_id: str) -> None:
        self._url = url
        self._search_id = search_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.began = time.monotonic()
        self.failures: list[str] = []
        self.slowest_seconds = 0.0
        self.num_answers = 0
        self.seen: list[tuple[float, str, str | None]] = []
        self.readiness: list[str] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=_ANSWER_SECONDS, trust_env=False) as http:
            while not self._stop.wait(_LOOK_SECONDS):
                self._ask(http, "/healthz")
                self._ask_ready(http)
                answer = self._ask(http, "/v1/searches")
                for search in answer["searches"] if answer else []:
                    if search["id"] == self._search_id:
                        self._note(search["state"], search["message"])

    def _ask(self, http: httpx.Client, path: str) -> dict[str, list[dict[str, str]]] | None:
        asked_at = time.monotonic()
        try:
            answer = http.get(path)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self.failures.append(f"{asked_at - self.began:.0f} s: {path}: {error!r}")
            return None
        self.num_answers += 1
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - asked_at)
        found: dict[str, list[dict[str, str]]] = answer.json()
        return found

    def _ask_ready(self, http: httpx.Client) -> None:
        try:
            said = http.get("/readyz").json()
        except (httpx.HTTPError, ValueError) as error:
            said = {"detail": repr(error)}
        told = said.get("detail", "ready")
        if self.readiness[-1:] != [told]:
            self.readiness.append(told)

    def _note(self, state: str, message: str | None) -> None:
        if not self.seen or self.seen[-1][1:] != (state, message):
            self.seen.append((time.time(), state, message))
