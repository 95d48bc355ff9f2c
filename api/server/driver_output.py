"""What clients follow: the events that a driver writes, and the log that it prints."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from api.server.feeds import MAX_PIECES, Batch, Piece
from api.server.models import Search
from api.server.reconciler import Jobs
from api.server.service import SearchService
from cluster.jobs import ClusterUnavailableError
from cluster.run_folder import RunFolder
from slicemamba.text import to_json


def format_event(kind: str, data: dict[str, Any], place: object = None) -> str:
    """A server-sent event; ``place`` is its id, from which the stream is resumed."""
    id_line = "" if place is None else f"id: {place}\n"
    return f"{id_line}event: {kind}\ndata: {to_json(data)}\n\n"


def _end(state: str | None) -> str:
    return format_event("end", {"state": state})


class DriversEvents:
    """Events of a search; a place is one of ``cluster.event_files``.

    Args:
        service: of the searches. search_id: whose events.
    """

    def __init__(self, service: SearchService, search_id: str) -> None:
        self._service = service
        self._search_id = search_id
        self.folder: RunFolder = service.run_folder(search_id)

    def read(self, place: Hashable) -> Batch:
        # The state is read before the events: when it is final, the events read after it are the last ones.
        seen = self._service.state_of(self._search_id)
        pieces, before = [], place
        assert isinstance(place, tuple)
        for after, event in islice(self.folder.events(place), MAX_PIECES):
            text = format_event(event.get("event", "message"), event, "-".join(map(str, after)))
            pieces.append(Piece(before, after, text))
            before = after
        final = (seen is None or seen[0].ended) and len(pieces) < MAX_PIECES
        return Batch(pieces, _end(seen[0].value if seen else None) if final else None)


@dataclass(frozen=True)
class LogPlace:
    """How far a log was read: ``offset`` characters of that of the ``attempt``."""

    attempt: int
    offset: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.offset}"


class DriversLog:
    """Lines that the drivers of a search or job print; after the last line of an attempt come those of the next one.

    Args:
        service: of the searches. jobs, address: of the cluster. row: whose log.
    """

    def __init__(self, service: SearchService, jobs: Jobs, address: str, row: Search) -> None:
        self._service = service
        self._jobs = jobs
        self._address = address
        self._row = row

    def place_of_tail(self, tail: int) -> LogPlace | None:
        """Where the last lines of the latest attempt begin; None while there is no log that might yet come."""
        seen = self._service.state_of(self._row.id)
        if seen is None:
            return LogPlace(self._row.attempt, 0)
        state, attempt = seen
        log = self._log(attempt)
        if log is None:
            return LogPlace(attempt, 0) if state.ended else None
        return LogPlace(attempt, len(log) - len("".join(log.splitlines(keepends=True)[-tail:])))

    def read(self, place: Hashable) -> Batch:
        # The state is read before the log: when it is final, what is read after it is the last.
        assert isinstance(place, LogPlace)
        seen = self._service.state_of(self._row.id)
        if seen is None:
            return Batch(end=_end(None))
        state, attempt = seen
        past = place.attempt < attempt or state.ended
        log = self._log(place.attempt)
        pieces = list(islice(_lines(log or "", place, whole=not past), MAX_PIECES))
        if not past or len(pieces) == MAX_PIECES:
            return Batch(pieces)
        if place.attempt == attempt:
            return Batch(pieces, _end(state.value))
        return Batch([*pieces, Piece(pieces[-1].after if pieces else place, LogPlace(place.attempt + 1, 0), "")])

    def _log(self, attempt: int) -> str | None:
        """None while Ray cannot be reached, or where it does not know the job (any more)."""
        try:
            return self._jobs.job_logs(self._address, self._row.job_id_of(attempt))
        except ClusterUnavailableError:
            return None


def _lines(log: str, place: LogPlace, *, whole: bool) -> Iterator[Piece]:
    """A piece for each line after the place; with ``whole``, a last line without its end waits for it."""
    before = place
    for line in re.finditer(r"[^\n]*\n|[^\n]+", log[place.offset :]):
        text = line[0]
        if whole and not text.endswith("\n"):
            return
        after = LogPlace(place.attempt, before.offset + len(text))
        yield Piece(before, after, format_event("log", {"line": text.rstrip("\r\n")}, after))
        before = after
