"""Run folders without a record become searches: started by ``ray job submit``, or older than a lost database.

A folder is adopted when it is a whole run of a search: its name is one that a search may have, its ``config.json`` is a
search and its driver has written a status. Everything else is left alone, and so is what a driver has set aside.
"""

from __future__ import annotations

import logging
import os
import re
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from api.server.decisions import NO_RESULT
from api.server.models import Label, Search, utc_now
from api.server.service import SAFE_ID, SearchService
from api.states import SearchState
from cluster.config import SearchJob, config_hash, parse_job
from cluster.run_folder import STATUS, RunFolder
from cluster.run_view import RunStatus
from cluster.storage import OLDER
from slicemamba.errors import InputError
from slicemamba.text import finite

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]

ADOPTED = "adopted: a run folder that had no record"
SILENT = "its driver had fallen silent before the run was adopted; resume the search to continue it"


class Adoption:
    """Records what can be adopted.

    Args:
        service: of the searches. runs_dir: holds their folders. stale_seconds: a driver silent for longer is dead.
    """

    def __init__(self, service: SearchService, runs_dir: Path, stale_seconds: float) -> None:
        self._service = service
        self._runs_dir = runs_dir
        self._stale_seconds = stale_seconds
        self._known: set[str] = set()  # folders with a record, so that the database is asked about new ones alone
        self._rejected: dict[str, _Stamp] = {}  # those that are no searches, with what that was seen from

    def look(self) -> None:
        """Looks once. A fault of one folder is logged and does not keep the others waiting.

        Raises:
            OSError: the folders cannot be listed.
        """
        # Folders are listed first: a search that is submitted now has its record before its folder.
        names = self._names()
        self._known &= names  # one that was deleted may come back
        stamps = {name: _stamp(RunFolder(self._runs_dir / name)) for name in names - self._known}
        self._rejected = {name: stamp for name, stamp in self._rejected.items() if stamps.get(name) == stamp}
        if new := stamps.keys() - self._rejected.keys():
            self._known |= self._service.known_among(new)
        for name in sorted(new - self._known):
            try:
                search = as_search(RunFolder(self._runs_dir / name), self._stale_seconds)
                if search is None:
                    self._rejected[name] = stamps[name]
                elif self._service.enqueue(search)[1]:
                    logger.info("%s: adopted as %s", search.title, search.state)
            except Exception:
                logger.exception("run folder %s could not be adopted", name)

    def _names(self) -> set[str]:
        try:
            with os.scandir(self._runs_dir) as entries:
                return {entry.name for entry in entries if entry.is_dir() and OLDER not in entry.name}
        except FileNotFoundError:
            return set()


def _stamp(folder: RunFolder) -> _Stamp:
    """What changes when a file changes that a search is known by."""
    found: list[tuple[int, int, int] | None] = []
    for path in (folder.config_path, folder.path / STATUS):
        try:
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, facts.st_mode))
        except OSError:
            found.append(None)
    return tuple(found)


def as_search(folder: RunFolder, stale_seconds: float) -> Search | None:
    """The record that a run folder should have had; None for a folder that is not a whole run of a search."""
    if not SAFE_ID.fullmatch(folder.path.name):
        return None
    try:
        values, status = folder.read_json("config.json"), folder.read_status()
        is_search = isinstance(values, dict) and values.get("kind") == SearchJob.model_fields["kind"].default
        job = parse_job(values, source=str(folder.config_path)) if values and is_search else None
    except (OSError, ValueError, ValidationError, InputError):
        return None
    if status is None or not isinstance(job, SearchJob):
        return None
    now, begun = utc_now(), _begun(folder, status)
    state, error = _state(folder, status, (now - status.updated_at).total_seconds() > stale_seconds)
    attempt, first_job_id = _attempt(folder.path.name, status.job_id)
    spec = job.model_dump(mode="json")
    return Search(
        id=folder.path.name,
        name=job.name,
        spec=spec,
        state=state.value,
        phase=status.phase,
        progress=finite(status.model_dump(mode="json")["progress"]),
        admitted=not state.ended,
        message=ADOPTED,
        error=error,
        attempt=attempt,
        first_job_id=first_job_id,
        request_hash=config_hash(spec),
        created_at=begun,
        started_at=begun,
        ended_at=status.updated_at if state.ended else None,
        changed_at=now,
        updated_at=now,
        label_rows=[Label(key=key, value=value) for key, value in job.labels.items()],
    )


def _state(folder: RunFolder, status: RunStatus, stale: bool) -> tuple[SearchState, str | None]:
    if status.state == "RUNNING":
        return (SearchState.FAILED, SILENT) if stale else (SearchState.RUNNING, None)
    if status.state == "SUCCEEDED" and not folder.result_path.exists():
        return SearchState.FAILED, NO_RESULT
    return SearchState(status.state), status.error if status.state == "FAILED" else None


def _attempt(search_id: str, job_id: str | None) -> tuple[int, str | None]:
    """Number of the attempt, and the Ray job of the first where it has another id than the search.

    A search that this service had started before its database was lost goes on counting: Ray takes no id twice.
    """
    again = re.fullmatch(rf"{re.escape(search_id)}-(\d{{1,6}})", job_id or "")
    if again:
        return int(again[1]), None
    return 1, None if job_id == search_id else job_id


def _begun(folder: RunFolder, status: RunStatus) -> datetime:
    """When the driver wrote its first event; else when it wrote its status."""
    for _, event in folder.events():
        try:
            return datetime.fromisoformat(event["time"])
        except (KeyError, TypeError, ValueError):
            break
    return status.updated_at
