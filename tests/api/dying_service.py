"""``slicemamba serve``, which kills itself as ``kill -9`` would: at the commit that a line on standard input tells.

``before 2`` dies in place of the second commit from then on, ``after 2`` when it is done. Run as a script, with the
service's settings in its environment.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import Lock, Thread

from sqlalchemy import event
from sqlalchemy.orm import Session

from api.serving import serve
from api.settings import Settings


class Fuse:
    """Counts commits from the moment it is set."""

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


def main() -> None:
    fuse = Fuse()
    event.listen(Session, "before_commit", lambda _: fuse.pass_by("before"))
    event.listen(Session, "after_commit", lambda _: fuse.pass_by("after"))

    def listen() -> None:
        for line in sys.stdin:
            fuse.set(line)
            print("set", flush=True)

    Thread(target=listen, daemon=True).start()
    serve(Settings.from_env())


if __name__ == "__main__":
    main()
