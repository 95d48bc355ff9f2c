"""Streams that many follow: what is new is read once in a process, however many clients there are.

A client begins wherever it left off and reads by itself until it has caught up; from then on it is given what the one
reader has read. A stream is a file or a log that stays there, so nothing is queued for a client: one that takes its
time falls behind what is kept, and then reads by itself again. Places are where one piece ends and the next begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Protocol

from fastapi.concurrency import run_in_threadpool

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 15.0
MAX_PIECES = 500
"""That a source gives at once, and that are sent in one go."""
KEPT_PIECES = 1000
STILL_HERE = ": still here\n\n"


@dataclass(frozen=True)
class Piece:
    """A part of a stream, between two places: the text of an event, or none where only the place moves on."""

    before: Hashable
    after: Hashable
    text: str


@dataclass(frozen=True)
class Batch:
    """Pieces one after the other; ``end`` is the text of the last event where nothing will ever follow them."""

    pieces: Sequence[Piece] = ()
    end: str | None = None


class Source(Protocol):
    """What is followed."""

    def read(self, place: Hashable) -> Batch:
        """What is there after a place, at most MAX_PIECES. Called by several threads at once; may take its time."""


class _Feed:
    """What was read of one source lately, and who waits for more."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.listeners: set[_Listener] = set()
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, Piece] = OrderedDict()
        self._place: Hashable | None = None  # up to which was read; None until the first client has caught up
        self._end: str | None = None
        self._failed = False

    def begin(self, place: Hashable) -> None:
        """A client has caught up; if it is the first, reading begins where it is."""
        with self._lock:
            if self._place is None:
                self._place = place

    def take(self, place: Hashable) -> Batch | None:
        """What is kept after a place; None where the place is not known here."""
        with self._lock:
            if place != self._place and place not in self._kept:
                return None
            pieces: list[Piece] = []
            while len(pieces) < MAX_PIECES and (piece := self._kept.get(place)) is not None:
                pieces.append(piece)
                place = piece.after
            return Batch(pieces, self._end if place == self._place else None)

    def advance(self) -> None:
        """Reads what is new and wakes those who wait for it."""
        if self._place is None or self._end is not None:
            return
        try:
            batch = self.source.read(self._place)
        except Exception:  # the database or the disk is away; it may come back
            if not self._failed:
                logger.exception("cannot read the source of a stream; retrying")
            self._failed = True
            return
        self._failed = False
        with self._lock:
            for piece in batch.pieces:
                self._kept[piece.before] = piece
                self._place = piece.after
            while len(self._kept) > KEPT_PIECES:
                self._kept.popitem(last=False)
            self._end = batch.end
            listeners = list(self.listeners) if batch.pieces or batch.end else []
        for listener in listeners:
            listener.wake()


class _Listener:
    """A client that waits, in an event loop of its own or one that it shares."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Called by another thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._news.set)

    def forget(self) -> None:
        self._news.clear()

    async def wait(self) -> bool:
        """Whether there is news since ``forget``; False after some time without."""
        try:
            await asyncio.wait_for(self._news.wait(), KEEPALIVE_SECONDS)
        except TimeoutError:
            return False
        return True


class Feeds:
    """All streams of a kind that are followed in this process, and the thread that reads them while there are any.

    Args:
        period_seconds: from one look for news to the next.
        closing: set when the server is about to stop; then streams end without their end, to be resumed elsewhere.
    """

    def __init__(self, period_seconds: float, closing: Event) -> None:
        self.period_seconds = period_seconds
        self._closing = closing
        self._lock = Lock()
        self._feeds: dict[str, _Feed] = {}
        self._thread: Thread | None = None

    async def follow(self, name: str, source: Source, place: Hashable) -> AsyncIterator[str]:
        """Text of a stream from a place on, up to its end.

        Args:
            name: of the stream; those who give the same one share its reader. source: of the stream.
            place: to begin at.
        """
        listener = _Listener()
        feed = self._join(name, source, listener)
        try:
            while not self._closing.is_set():
                listener.forget()
                batch = feed.take(place)
                if batch is None:
                    batch = await run_in_threadpool(source.read, place)
                if batch.pieces:
                    place = batch.pieces[-1].after
                    if text := "".join(piece.text for piece in batch.pieces):
                        yield text
                elif batch.end is None:
                    feed.begin(place)
                    if not await listener.wait():
                        yield STILL_HERE
                if batch.end is not None:
                    yield batch.end
                    return
        finally:
            self._leave(name, listener)

    def _join(self, name: str, source: Source, listener: _Listener) -> _Feed:
        with self._lock:
            feed = self._feeds.setdefault(name, _Feed(source))
            feed.listeners.add(listener)
            if self._thread is None:
                self._thread = Thread(target=self._read, name="feeds", daemon=True)
                self._thread.start()
            return feed

    def _leave(self, name: str, listener: _Listener) -> None:
        with self._lock:
            self._feeds[name].listeners.discard(listener)
            if not self._feeds[name].listeners:
                del self._feeds[name]

    def _read(self) -> None:
        while not self._closing.wait(self.period_seconds):
            with self._lock:
                feeds = list(self._feeds.values())
                if not feeds:
                    self._thread = None
                    return
            for feed in feeds:
                feed.advance()
        with self._lock:
            listeners = [listener for feed in self._feeds.values() for listener in feed.listeners]
        for listener in listeners:
            listener.wake()
