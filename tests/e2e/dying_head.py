"""A Ray head that is killed, in part or whole, and started again in the same place, as an operator would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil

from cluster.connect import ENVIRONMENT
from cluster.jobs import check_cluster
from cluster.local import RayHead, free_ports, tail
from slicemamba.errors import InputError

Part = Literal["gcs", "all"]
_MARK = "SLICEMAMBA_DYING_HEAD"
_START_SECONDS = 600.0


class DyingHead:
    """``ray start --head`` on ports of its own. All its processes, and those of its jobs, carry a mark.

    Attributes:
        ray: its addresses, and the environment of its clients, which carries no mark.
        address: for drivers outside of Ray jobs.
    """

    def __init__(self, folder: Path, temporary: Path) -> None:
        gcs, dashboard, *others = free_ports(5)
        self._log = folder / "ray.log"
        self._mark = uuid.uuid4().hex
        self._dashboard = f"http://127.0.0.1:{dashboard}"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # jobs say ``python``
        environment = {**os.environ, **ENVIRONMENT, "PATH": path, "RAY_worker_niceness": "0"}
        self.ray = RayHead(self._dashboard, f"http://127.0.0.1:{others[2]}/metrics", environment)
        self.address = f"127.0.0.1:{gcs}"
        client, agent, metrics = others
        self._command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={gcs}"]
        self._command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        self._command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
        self._command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
        self._command += ["--num-cpus=4", "--num-gpus=0", f"--temp-dir={temporary}"]

    def start(self) -> None:
        """Tries until Ray starts: it refuses to while anything of the head before is left."""
        deadline = time.monotonic() + _START_SECONDS
        environment = self.ray.environment | {_MARK: self._mark}
        while True:
            with self._log.open("ab") as log:
                done = subprocess.run(
                    self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
                )
            if done.returncode == 0 and self._answers(deadline):
                return
            assert time.monotonic() < deadline, tail(self._log)
            time.sleep(2)

    def _answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            with suppress(InputError):
                check_cluster(self._dashboard)
                return True
            time.sleep(0.3)
        return False

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self, part: Part) -> int:
        """SIGKILL to the global control service alone, or to all at once as when the machine goes; how many."""
        victims = self.processes()
        if part == "gcs":
            victims = [process for process in victims if process.name() == "gcs_server"]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(victims)


@contextmanager
def dying_head(folder: Path) -> Iterator[DyingHead]:
    """A running one; nothing of it is left at the end."""
    # A short name, as the paths of the sockets in it are limited to 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="ray"))
    head = DyingHead(folder, temporary)
    try:
        head.start()
        yield head
    finally:
        while head.kill("all"):
            time.sleep(0.5)
        shutil.rmtree(temporary, ignore_errors=True)
