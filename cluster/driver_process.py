"""Who drives a run: the process, so described that others can tell whether it is still there."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.connect import submission_id


@dataclass(frozen=True)
class DriverProcess:
    """A driver.

    Attributes:
        token: random, of this attempt alone. host, pid: of the process.
        machine: the boot and process namespace in which ``pid`` means something.
        began: when the process began, by ``_began``.
        job: the submission id of its Ray job, where it is one.
    """

    token: str
    host: str
    pid: int
    machine: str
    began: float
    job: str | None = None

    @classmethod
    def me(cls) -> DriverProcess:
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _began(pid), submission_id())

    @classmethod
    def parse(cls, content: bytes | None) -> DriverProcess | None:
        """None where there is no content, or none that can be made out."""
        try:
            return cls(**json.loads(content or b""))
        except (ValueError, TypeError):
            return None

    def surely_dead(self) -> bool:
        """Whether the process is gone from this machine. Of other machines nothing can be said."""
        if self.machine != _machine():
            return False
        try:
            return _began(self.pid) != self.began or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", Ray job {self.job}" if self.job else "")


def in_place_of_a_lost_job(run: str) -> bool:
    """Whether this process is a job that the service submitted again: named after the run, with a number.

    It does so only when Ray says that the job before has ended. A driver that still beats then is one whose node Ray
    has given up, as it is cut off from the head, and is about to find that out itself.
    """
    return re.fullmatch(rf"{re.escape(run)}-\d+", submission_id() or "") is not None


def _began(pid: int) -> float:
    """When a process began, which tells it from another that has got its number later.

    On Linux in ticks since the boot: as a time of day it would be another one after the clock was set, and a driver
    that is alive would be taken for dead. Raises psutil.NoSuchProcess, ProcessLookupError or FileNotFoundError.
    """
    if not sys.platform.startswith("linux"):
        return psutil.Process(pid).create_time()
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return float(after_name[19])


def _machine() -> str:
    """Where a process number means the same process: a boot of a machine, and a namespace in it (a container)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()
