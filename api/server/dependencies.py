"""What routes share: the app's context, page tokens, and how often requested answers are written."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from threading import Event
from typing import Annotated, Any, TypeVar, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request, Response
from pydantic import BaseModel

from api.server.eta import Etas
from api.server.feeds import Feeds
from api.server.follow_ups import FollowUps
from api.server.problems import bad_parameter
from api.server.rate_limit import RateLimit
from api.server.reconciler import Jobs, Reconciler
from api.server.service import SearchService
from api.server.settings import Settings
from api.server.studies import Studies
from api.server.telemetry import Telemetry
from api.server.tokens import Tokens
from api.server.webhooks import Webhooks


@dataclass(frozen=True)
class AppContext:
    """What one app is made of.

    ``writes`` limits changes, by token or else by address. ``log_readers`` limits how many threads may wait for Ray's
    logs, so that others are left when it hangs, and ``data_checkers`` how many may check data sets. ``closing`` is set
    when the server is about to stop, to end streams that would go on.
    """

    settings: Settings
    service: SearchService
    tokens: Tokens
    studies: Studies
    etas: Etas
    follow_ups: FollowUps
    telemetry: Telemetry
    reconciler: Reconciler
    webhooks: Webhooks
    jobs: Jobs
    event_feeds: Feeds
    log_feeds: Feeds
    writes: RateLimit
    log_readers: CapacityLimiter
    data_checkers: CapacityLimiter
    closing: Event


async def context_of(request: Request) -> AppContext:
    """Not a plain function, as FastAPI would hand that to a thread, which takes longer than what it does."""
    return cast(AppContext, request.app.state.context)


Context = Annotated[AppContext, Depends(context_of)]


def link(request: Request, name: str, **parts: str) -> str:
    """The path of a route, below the prefix that a proxy has taken off."""
    return f"{request.scope.get('root_path', '')}{request.app.url_path_for(name, **parts)}"


def page_token(place: str | int) -> str:
    """Opaque, so that clients do not come to rely on what is in it."""
    return base64.urlsafe_b64encode(str(place).encode()).decode().rstrip("=")


def read_page_token(token: str) -> str:
    """The place where the page begins. Raises ProblemError (422)."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise bad_token() from None


def bad_token() -> Exception:
    return bad_parameter(
        "page_token",
        "must be the next_page_token of the page before, asked for in the same order; omit it to start over",
    )


Answer = TypeVar("Answer", bound=BaseModel)


def written_in_its_thread(endpoint: Callable[..., Answer]) -> Callable[..., Answer]:
    """For an endpoint that is asked often: writes its answer as JSON in the thread that has made it.

    FastAPI would hand the answer to a second thread to check it, and write it in the event loop, where all other
    requests wait meanwhile. Headers that the endpoint sets on its ``response`` are kept; the status is always 200.
    """

    @wraps(endpoint)
    def answer(**given: Any) -> Response:
        written = Response(endpoint(**given).model_dump_json(), media_type="application/json")
        if isinstance(template := given.get("response"), Response):
            written.headers.raw.extend(template.headers.raw)
        return written

    return cast(Callable[..., Answer], answer)
