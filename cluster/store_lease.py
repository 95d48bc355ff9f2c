"""Which driver writes to a place in an object store: ``driver.json`` there, renewed as a sign of life.

Stores have no locks. A driver that finds the place free writes its name, waits a moment, and goes on if that is still
there; afterwards it looks at the name again before each round of uploads, and stops where it finds another one.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from typing import Any

from cluster.object_store import Store
from slicemamba.errors import InputError

DRIVER = "driver.json"
EXPIRE_SECONDS = 30.0
"""A driver that has not renewed ``driver.json`` for this long is taken for dead."""
RENEW_SECONDS = 5.0
SETTLE_SECONDS = 1.0
"""Longer than a write takes, so that of two drivers that begin at once the first sees the second."""
_POLL_SECONDS = 0.5
_LENGTH = 1024
"""Of ``driver.json``, always: a reader asks for the length first, and would miss the end of one that grows then."""


class ReplacedError(Exception):
    """Another driver has taken the place over."""


class StoreLease:
    """The right to write to a place in a store.

    Args:
        store: the place.

    Attributes:
        owner: random, of this lease alone.
        content: owner of the lease under which the place was last written to, None for a new place. It is another one
            than ``owner`` for as long as this driver only brings the content to its node.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._beats = 0
        self._beaten_at = 0.0
        self.owner = uuid.uuid4().hex
        self.content: str | None = None

    def take(self) -> None:
        """Takes the place from a driver that has ended or is dead; waits for one that only brings the content to its
        node.

        Raises:
            InputError: a driver is at work there.
        """
        while True:
            self.content, self._beats = self._await_free(), 0
            self.beat()
            time.sleep(SETTLE_SECONDS)
            if self._read().get("owner") == self.owner:
                return

    def beat(self, *, released: bool = False) -> None:
        """A sign of life, or with ``released`` the last one. Raises ReplacedError."""
        if self._beats:
            self.check()
        self._beats += 1
        who = {"owner": self.owner, "content": self.content, "host": socket.gethostname(), "pid": os.getpid()}
        content = json.dumps({**who, "beat": self._beats, "released": released})
        self._store.write(DRIVER, content.ljust(_LENGTH).encode())
        self._beaten_at = time.monotonic()

    def beat_if_due(self) -> None:
        if time.monotonic() - self._beaten_at >= RENEW_SECONDS:
            self.beat()

    def check(self) -> None:
        """Raises ReplacedError where another driver has taken the place over."""
        if self._read().get("owner") != self.owner:
            raise ReplacedError

    def current_content(self) -> str | None:
        """``content`` as the store has it now."""
        found: str | None = self._read().get("content")
        return found

    def _await_free(self) -> str | None:
        """Looks are counted, not seconds: where both drivers stand still, as on a suspended machine, none is silent."""
        found, looks = self._read(), 0
        while found and not found["released"] and looks * _POLL_SECONDS < EXPIRE_SECONDS:
            time.sleep(_POLL_SECONDS)
            now = self._read()
            if now == found:
                looks += 1
                continue
            if not now["released"] and now["content"] == now["owner"]:
                raise InputError(
                    f"{self._store.path} in the store has a running driver (process {now['pid']} on {now['host']}); "
                    "wait for it or stop it first"
                )
            found, looks = now, 0
        return found.get("content")

    def _read(self) -> dict[str, Any]:
        content = self._store.read(DRIVER)
        values: dict[str, Any] = {} if content is None else json.loads(content)
        return values
