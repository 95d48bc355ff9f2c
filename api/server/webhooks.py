"""Tells addresses that the administrator has named how searches and jobs ended, signed by a secret that they share.

What is to be told is a mark on the row of the change of state, written in its transaction: a restart forgets none, and
of several processes each tells what it finds, so that a change may be told twice (its ``id`` is then the same).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from datetime import timedelta
from threading import Event, Thread

import httpx
from sqlalchemy import select, update

from api.server.database import Sessions
from api.server.models import Search, StateChange, utc_now
from api.server.settings import Settings, is_loopback
from api.states import SearchState

logger = logging.getLogger(__name__)

TOLD = (SearchState.SUCCEEDED, SearchState.FAILED)
SIGNATURE = "X-SliceMamba-Signature"
ROUND_SECONDS = 2.0
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0  # seconds between two tries, doubled each time
GIVE_UP = timedelta(hours=24)
_TIMEOUT = 10.0
_AT_ONCE = 50


class Webhooks:
    """Delivers in a thread of its own, so that an address that does not answer holds up nothing.

    Args:
        sessions: of the run database. settings: name the addresses and the secret.
    """

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings
        self._stopping = Event()
        self._thread: Thread | None = None
        self._waits: dict[int, tuple[float, float]] = {}  # by change: until when, and how long, it waits
        self._had: dict[int, set[str]] = {}  # by change: addresses that have it
        self._unreached: set[str] = set()  # in this round, which waits for none of them twice

    def start(self) -> None:
        """Does nothing where there is no address."""
        if self._settings.webhooks:
            self._thread = Thread(target=self._run, name="webhooks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Waits for a delivery that is under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_SECONDS):
            try:
                self.run_once()
            except Exception:  # it is tried again: the thread must outlive whatever it was
                logger.exception("webhooks could not be told of changes")

    def run_once(self) -> None:
        """Tells what is due, the oldest first."""
        now = time.monotonic()
        with self._sessions() as session:
            untold = session.scalars(select(StateChange.id).where(StateChange.untold).order_by(StateChange.id))
            # Those that wait for an address must not take the places of others.
            due = [change_id for change_id in untold if self._waits.get(change_id, (0.0, 0.0))[0] <= now][:_AT_ONCE]
            query = select(StateChange, Search).join(Search, Search.id == StateChange.search_id)
            query = query.where(StateChange.id.in_(due)).order_by(StateChange.id)
            found = [(change, row, _body(change, row)) for change, row in session.execute(query)]
        self._unreached.clear()
        for change, row, body in found:
            if self._stopping.is_set():
                return
            missing = [url for url in self._settings.webhooks if url not in self._had.get(change.id, ())]
            refused = [url for url in missing if url in self._unreached or not self._post(change.id, url, body)]
            if not refused:
                self._done(change.id)
            elif utc_now() - change.time > GIVE_UP:
                logger.error("gave up telling %s that %s is %s", ", ".join(refused), row.title, change.new_state)
                self._done(change.id)
            else:
                wait = min(LONGEST_WAIT, 2 * self._waits.get(change.id, (0.0, 0.0))[1] or FIRST_WAIT)
                self._waits[change.id] = (time.monotonic() + wait, wait)

    def _post(self, change_id: int, url: str, body: bytes) -> bool:
        assert self._settings.webhook_secret is not None  # Settings have seen to it
        secret = self._settings.webhook_secret.get_secret_value().encode()
        headers = {"Content-Type": "application/json", SIGNATURE: signature(secret, body)}
        try:
            with httpx.Client(timeout=_TIMEOUT, trust_env=not is_loopback(httpx.URL(url).host)) as client:
                client.post(url, content=body, headers=headers).raise_for_status()
        # A redirect, too: it would lead to an address that nobody named. And whatever a name does to a resolver.
        except Exception as error:
            logger.warning("webhook %s was not told: %s", url, error)
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                self._unreached.add(url)
            return False
        self._had.setdefault(change_id, set()).add(url)
        return True

    def _done(self, change_id: int) -> None:
        with self._sessions.begin() as session:
            session.execute(update(StateChange).where(StateChange.id == change_id).values(untold=False))
        self._waits.pop(change_id, None)
        self._had.pop(change_id, None)


def signature(secret: bytes, body: bytes) -> str:
    """HMAC-SHA-256 of a body, as its header holds it."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


def _body(change: StateChange, row: Search) -> bytes:
    told = {
        "id": f"{row.id}/{change.id}",
        "time": change.time.isoformat(),
        "state": change.new_state,
        "kind": row.kind,
        "search": row.parent_id or row.id,
        "job": row.id if row.parent_id else None,
        "name": row.name,
        "labels": row.labels,
        "submitted_by": row.submitted_by,
        "error": row.error,
    }
    return json.dumps(told, ensure_ascii=False).encode()
