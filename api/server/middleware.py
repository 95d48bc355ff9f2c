"""What every request passes before any route: an id, a size limit, a look at where it is from, safe headers, a line in
the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.server.settings import PREFIX, is_loopback
from api.server.telemetry import Telemetry

access_log = logging.getLogger("api.server.access")

MAX_BODY_BYTES = 1 << 20
TOO_LARGE = f"a request's body may have {MAX_BODY_BYTES} bytes at most; a search's job needs a few thousand"
FOREIGN = (
    "without tokens, only programs and pages of this machine may use the service; open it as http://127.0.0.1 or "
    "http://localhost, or set SLICEMAMBA_REQUIRE_TOKENS=false if a reverse proxy controls access"
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REQUEST_ID = re.compile(r"[\w.-]{1,64}")

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """The outermost layer of the app.

    Args:
        app: the rest of it.
        telemetry: counts requests.
        local: refuse what a page of another site may have sent, as nobody is asked for a token.
        root_path: prefix that a proxy before the service takes off, where it does not say so in X-Forwarded-Prefix.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, local: bool, root_path: str = "") -> None:
        self._app = app
        self._telemetry = telemetry
        self._local = local
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _put_below(scope, headers.get("X-Forwarded-Prefix", "").rstrip("/") or self._root_path)
        given = headers.get("X-Request-ID", "")
        # What may be asked for may be asked about: HEAD is GET without the body.
        answered = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        request = _Exchange(scope, given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, send)
        try:
            refusal = self._refuse(headers)
            if refusal is not None:
                await request.refuse(*refusal)
                return
            await self._app(answered, _limited(receive), request.send)
        finally:
            self._note({**answered, "method": scope["method"]}, request)

    def _refuse(self, headers: Headers) -> tuple[HTTPStatus, str] | None:
        length = headers.get("Content-Length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE
        if self._local and not _is_from_here(headers):
            return HTTPStatus.FORBIDDEN, FOREIGN
        return None

    def _note(self, scope: Scope, request: _Exchange) -> None:
        seconds = time.perf_counter() - request.started_at
        route = getattr(scope.get("route"), "path", "unknown")
        status = request.status or 500
        method = scope["method"] if scope["method"] in METHODS else "other"  # each one seen would be kept for ever
        self._telemetry.count_request(method, route, status, seconds)
        line = {
            "request_id": request.id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "client": scope["client"][0] if scope.get("client") else None,
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
        elif self._scope["method"] == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, status: HTTPStatus, detail: str) -> None:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": detail,
            "instance": self._scope["path"],
            "errors": [],
        }
        fields = {"Content-Type": "application/problem+json", "Connection": "close"}
        start = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await self.send({"type": "http.response.start", "status": int(status), "headers": start})
        await self.send({"type": "http.response.body", "body": json.dumps(body).encode()})


def _put_below(scope: Scope, prefix: str) -> None:
    """Puts the request below a prefix, as ASGI has it: ``path`` begins with ``root_path``, even if a proxy cut it.

    A prefix of another form than a path's is passed over, as it would end up in Location.
    """
    if not re.fullmatch(PREFIX, prefix) or not prefix:
        return
    scope["root_path"] = prefix
    if not f"{scope['path']}/".startswith(f"{prefix}/"):
        scope["path"] = prefix + scope["path"]
        if scope.get("raw_path") is not None:
            scope["raw_path"] = prefix.encode() + scope["raw_path"]


def _is_from_here(headers: Headers) -> bool:
    """Whether a request comes from a program, or from a page that was opened from this machine.

    A name that is made to lead to 127.0.0.1 (DNS rebinding) is still in Host, and a browser names in Origin the site of
    the page that sends a form or calls ``fetch``.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    try:
        here = is_loopback(urlsplit(f"//{host}").hostname or "")
        return here and (origin is None or urlsplit(origin).netloc == host)
    except ValueError:  # half an IPv6 address
        return False


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
