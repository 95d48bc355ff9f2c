"""The service as a process that can be told to kill itself, as ``kill -9`` would, at a certain commit."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread

from sqlalchemy import event
from sqlalchemy.orm import Session

from api.server.serving import serve
from api.server.settings import Settings


class Fuse:
    """Counts commits from the moment it is set.

    ``before 2`` dies in place of the second commit from then on, ``after 2`` when it is done.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._place, self._left = "", 0

    def set(self, line: str) -> None:
        place, count = line.split()
        with self._lock:
            self._place, self._left = place, int(count)

    def pass_by(self, place: str) -> None:
        with self._lock:
            if place == self._place:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)


def run(settings: Mapping[str, str], output: Path, orders: Connection) -> None:
    """Serves until it is killed.

    Args:
        settings: ``SLICEMAMBA_*`` variables. output: where its lines go.
        orders: takes what ``Fuse.set`` takes, and answers each when it is set.
    """
    sys.stdout = sys.stderr = output.open("a", buffering=1)
    fuse = Fuse()
    event.listen(Session, "before_commit", lambda _: fuse.pass_by("before"))
    event.listen(Session, "after_commit", lambda _: fuse.pass_by("after"))

    def listen() -> None:
        while True:
            fuse.set(orders.recv())
            orders.send("set")

    Thread(target=listen, daemon=True).start()
    serve(Settings.from_env(settings))
