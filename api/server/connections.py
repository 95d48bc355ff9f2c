"""Connections to the service: how many one address may have, and how long a request may take to arrive.

Without limits, a few hundred clients that send half a request each would take all of the process's file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

RECEIVE_SECONDS = 20.0
"""For a whole request to arrive, head and body, which has 1 MiB at most."""
MAX_OF_ADDRESS = 256
MAX_OF_ALL = 2048
_RECEIVED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR, h11.SWITCHED_PROTOCOL)


class LimitedConnection(H11Protocol):
    """One connection. What is beyond a limit is closed without a word, and without a line in the log.

    Attributes:
        num_open: connections by address.
    """

    num_open: ClassVar[Counter[str]] = Counter()

    # Of a narrower type than asyncio's own, as in uvicorn: only TCP and its like come here.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._deadline: asyncio.TimerHandle | None = None
        self.num_open[self._address] += 1
        if self.num_open[self._address] > MAX_OF_ADDRESS or self.num_open.total() > MAX_OF_ALL:
            transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.num_open[self._address] -= 1
        if not self.num_open[self._address]:
            del self.num_open[self._address]
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unwatch()  # until the next request begins to arrive, only the time for keeping it alive runs

    def _watch(self) -> None:
        """Sets a deadline where a request has begun to arrive, and takes it away where it is all there."""
        if self.conn.their_state in _RECEIVED:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(RECEIVE_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.abort()


def raise_file_limit() -> None:
    """Lets this process have as many open files as the system allows it: connections are files, too."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limits: Any = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
