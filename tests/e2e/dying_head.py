"""A Ray head that is killed, in part or whole, and started again in the same place, as an operator would."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil

from cluster.jobs import check_cluster
from cluster.local import HeadPorts, tail
from slicemamba.errors import InputError

Part = Literal["gcs", "all"]
_MARK = "SLICEMAMBA_DYING_HEAD"
_START_SECONDS = 600.0


class DyingHead:
    """``ray start --head`` on ports of its own. All its processes, and those of its jobs, carry a mark.

    Attributes:
        ray: its addresses, and the environment of its clients, which carries no mark.
    """

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._ports = HeadPorts.free()
        self._log = folder / "ray.log"
        self._mark = uuid.uuid4().hex
        self._command = self._ports.start_command(num_cpus=4, num_gpus=0, folder=str(temporary))
        self.ray = self._ports.head

    def start(self) -> None:
        """Tries until Ray starts: it refuses to while anything of the head before is left, but for its dashboard.

        That one lives for a while after its head and keeps its port, so that the new head would be without.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._dashboard_is_gone():
            assert time.monotonic() < deadline, f"an old dashboard at {self.ray.dashboard} does not end"
            time.sleep(0.5)
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

    def _dashboard_is_gone(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self._ports.dashboard)) != 0

    def _answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            with suppress(InputError):
                check_cluster(self.ray.dashboard)
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
