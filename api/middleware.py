"""What every request passes before any route: an id, a size limit, a rate limit, safe headers, a line in the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.telemetry import Telemetry

access_log = logging.getLogger("api.access")

MAX_BODY_BYTES = 1 << 20
TOO_LARGE = f"a request's body may have {MAX_BODY_BYTES} bytes at most; a search's job needs a few thousand"
_MAX_CLIENTS = 10_000
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass
class _Bucket:
    level: float
    filled_at: float


class RateLimit:
    """A token bucket a client: ``per_minute`` requests on average, as many at once after a minute of silence."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = Lock()

    def seconds_to_wait(self, client: str, now: float) -> float:
        """0 when the request may pass, which is counted; else in how many seconds one may."""
        with self._lock:
            bucket = self._buckets.setdefault(client, _Bucket(self._per_minute, now))
            self._buckets.move_to_end(client)
            if len(self._buckets) > _MAX_CLIENTS:
                self._buckets.popitem(last=False)
            gained = (now - bucket.filled_at) * self._per_minute / 60
            bucket.level, bucket.filled_at = min(self._per_minute, bucket.level + gained), now
            if bucket.level < 1:
                return (1 - bucket.level) * 60 / self._per_minute
            bucket.level -= 1
            return 0.0


class Gate:
    """The outermost layer of the app.

    Args:
        app: the rest of it.
        telemetry: counts requests.
        writes_per_minute: of one client, by its token or else its address; reads are not limited.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, writes_per_minute: float) -> None:
        self._app = app
        self._telemetry = telemetry
        self._writes = RateLimit(writes_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("X-Request-ID", "")
        request = _Exchange(scope, given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, send)
        try:
            refusal = self._refuse(scope, headers)
            if refusal is not None:
                await request.refuse(*refusal)
                return
            await self._app(scope, _limited(receive), request.send)
        finally:
            self._note(scope, request)

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[HTTPStatus, str, dict[str, str]] | None:
        length = headers.get("Content-Length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE, {}
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        client = headers.get("Authorization") or (scope["client"] or ("?",))[0]
        wait = self._writes.seconds_to_wait(client, time.monotonic())
        if not wait:
            return None
        seconds = str(int(wait) + 1)
        detail = f"too many changes at once from one client; try again in {seconds} seconds"
        return HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": seconds}

    def _note(self, scope: Scope, request: _Exchange) -> None:
        seconds = time.perf_counter() - request.started_at
        route = getattr(scope.get("route"), "path", "unknown")
        status = request.status or 500
        self._telemetry.count_request(scope["method"], route, status, seconds)
        line = {
            "request_id": request.id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "token": scope.get("state", {}).get("token_id"),
        }
        access_log.info("%s", json.dumps(line))


class _Exchange:
    """One request's answer on its way out."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.id = request_id
        self.status: int | None = None
        self.started_at = time.perf_counter()
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, status: HTTPStatus, detail: str, headers: dict[str, str]) -> None:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": detail,
            "instance": self._scope["path"],
            "errors": [],
        }
        fields = {"Content-Type": "application/problem+json", "Connection": "close", **headers}
        start = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await self.send({"type": "http.response.start", "status": int(status), "headers": start})
        await self.send({"type": "http.response.body", "body": json.dumps(body).encode()})


def _limited(receive: Receive) -> Receive:
    """Counts what is read, for bodies that come in pieces without saying how long they are."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)  # FastAPI answers with it
        return message

    return limited
