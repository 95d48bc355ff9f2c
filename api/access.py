"""Who may do what: every request under ``/v1`` passes ``authorize``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.deps import AppParts
from api.problems import ProblemError
from api.tokens import Scope

_bearer = HTTPBearer(auto_error=False, description="A token created with `slicemamba token create` on the server.")
_NEEDED = {"GET": Scope.READ, "HEAD": Scope.READ, "POST": Scope.SUBMIT, "DELETE": Scope.ADMIN}


def authorize(
    request: Request, parts: AppParts, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises ProblemError: 401 without a valid token where one is needed, 403 when its scope does not suffice."""
    if not parts.settings.tokens_required:
        return
    if given is None:
        raise _unauthorized("this service needs a token: Authorization: Bearer <token>; ask its administrator for one")
    token = parts.tokens.check(given.credentials)
    if token is None:
        raise _unauthorized("the token is not valid, or has been revoked; ask the service's administrator for another")
    needed = _NEEDED[request.method]
    if not Scope(token.scope).includes(needed):
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            f"{request.method} {request.url.path} needs the scope {needed.value!r}; this token has {token.scope!r}",
        )
    request.state.token_id = token.id


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
