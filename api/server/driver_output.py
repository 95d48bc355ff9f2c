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
from api.server.settings import Settings
from cluster.driver_log import read_log
from cluster.jobs import ClusterUnavailableError
from cluster.run_folder import RunFolder
from slicemamba.text import masked, to_json


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

    They are in the run's folder; those of a driver that has printed nothing yet, or kept nothing, are asked of Ray.

    Args:
        service: of the searches. jobs: of the cluster. settings: where Ray, runs and data sets are. row: whose log.
    """

    def __init__(self, service: SearchService, jobs: Jobs, settings: Settings, row: Search) -> None:
        self._service = service
        self._jobs = jobs
        self._address = settings.ray_address
        self._places = {settings.runs_path: "<runs>"}
        if settings.data_root is not None:
            self._places |= {settings.data_root: "<data>", settings.data_root.resolve(): "<data>"}
        self._row = row

    def tail(self, lines: int) -> str | None:
        """The last lines of the latest attempt; None without a log. Raises ClusterUnavailableError."""
        found = self._find(self._row.attempt)
        return None if found is None else self._shown("".join(found[1].splitlines(keepends=True)[-lines:]))

    def place_of_tail(self, tail: int) -> LogPlace | None:
        """Where the last lines of the latest attempt begin; None while there is no log that might yet come."""
        seen = self._service.state_of(self._row.id)
        if seen is None:
            return LogPlace(self._row.attempt, 0)
        state, attempt = seen
        found = self._log(attempt)
        if found is None:
            return LogPlace(attempt, 0) if state.ended else None
        start, log = found
        return LogPlace(attempt, start + len(log) - len("".join(log.splitlines(keepends=True)[-tail:])))

    def read(self, place: Hashable) -> Batch:
        # The state is read before the log: when it is final, what is read after it is the last.
        assert isinstance(place, LogPlace)
        seen = self._service.state_of(self._row.id)
        if seen is None:
            return Batch(end=_end(None))
        state, attempt = seen
        past = place.attempt < attempt or state.ended
        start, log = self._log(place.attempt) or (0, "")
        pieces = list(islice(self._pieces(start, log, place, whole=not past), MAX_PIECES))
        if not past or len(pieces) == MAX_PIECES:
            return Batch(pieces)
        if place.attempt == attempt:
            return Batch(pieces, _end(state.value))
        return Batch([*pieces, Piece(pieces[-1].after if pieces else place, LogPlace(place.attempt + 1, 0), "")])

    def _pieces(self, start: int, log: str, place: LogPlace, *, whole: bool) -> Iterator[Piece]:
        """A piece for each line after the place; with ``whole``, a last line without its end waits for it.

        Args:
            start: how many characters of the log are gone. log: the rest.
        """
        before, offset = place, max(start, place.offset)
        for line in re.finditer(r"[^\n]*\n|[^\n]+", log[offset - start :]):
            text = line[0]
            if whole and not text.endswith("\n"):
                return
            offset += len(text)
            after = LogPlace(place.attempt, offset)
            yield Piece(before, after, format_event("log", {"line": self._shown(text.rstrip("\r\n"))}, after))
            before = after

    def _shown(self, text: str) -> str:
        return masked(text, self._places)

    def _log(self, attempt: int) -> tuple[int, str] | None:
        """As ``_find``; None, too, while Ray cannot be reached."""
        try:
            return self._find(attempt)
        except ClusterUnavailableError:
            return None

    def _find(self, attempt: int) -> tuple[int, str] | None:
        """How many characters of an attempt's log are gone, and the rest; None without a log."""
        job_id = self._row.job_id_of(attempt)
        kept = read_log(self._service.folder_of(self._row).path, job_id)
        if kept is not None:
            return kept
        log = self._jobs.job_logs(self._address, job_id)
        return None if log is None else (0, log)
