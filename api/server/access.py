"""Who may do what: every request under ``/v1`` passes ``authorize``."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.server.dependencies import AppContext, Context
from api.server.models import Token
from api.server.problems import ProblemError
from api.server.service import ASKED_BY
from api.server.tokens import Scope

_bearer = HTTPBearer(auto_error=False, description="A token created with `slicemamba token create` on the server.")
_NEEDED = {"GET": Scope.READ, "HEAD": Scope.READ, "POST": Scope.SUBMIT, "DELETE": Scope.ADMIN}


async def authorize(
    request: Request, context: Context, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises ProblemError: 401 without a valid token where one is needed, 403 when its scope does not suffice, 429 for
    more changes than one client may make.

    Not a plain function, as FastAPI would hand that to a thread for each request, also where no token is needed.
    """
    client = request.client.host if request.client else "?"
    if context.settings.tokens_required:
        token = await run_in_threadpool(_check_token, request, context, given)
        request.state.token_id = client = token.id
        ASKED_BY.set(token.name)
    if _NEEDED[request.method] is not Scope.READ:
        _limit(context, client)


def _check_token(request: Request, context: AppContext, given: HTTPAuthorizationCredentials | None) -> Token:
    if given is None:
        raise _unauthorized("this service needs a token: Authorization: Bearer <token>; ask its administrator for one")
    token = context.tokens.check(given.credentials)
    if token is None:
        raise _unauthorized("the token is not valid, or has been revoked; ask the service's administrator for another")
    if token.expired:
        raise _unauthorized(f"the token has expired ({token.expires_at:%Y-%m-%d %H:%M} UTC); ask for another one")
    needed = _NEEDED[request.method]
    if not Scope(token.scope).includes(needed):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            f"{request.method} {request.url.path} needs the scope {needed.value!r}; this token has {token.scope!r}",
        )
    return token


def _limit(context: AppContext, client: str) -> None:
    wait = context.writes.seconds_to_wait(client, time.monotonic())
    if wait:
        seconds = str(int(wait) + 1)
        raise ProblemError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"too many changes at once from one client; try again in {seconds} seconds",
            headers={"Retry-After": seconds},
        )


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
