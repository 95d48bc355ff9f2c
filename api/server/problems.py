"""Errors as problem+json (RFC 9457), for our own faults and for those FastAPI finds."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from api.schemas import Finding, Problem
from slicemamba.errors import Crossing, InputError, crossing

logger = logging.getLogger(__name__)
_FULL = ("disk is full", "No space left on device", "could not extend file")  # SQLite; PostgreSQL
MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """Raised where a request cannot be answered as asked; becomes a Problem."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: Sequence[Finding] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers

    def __reduce__(self) -> Crossing:
        return crossing(self)


def not_found(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, detail)


def conflict(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.CONFLICT, detail)


def bad_parameter(name: str, detail: str) -> ProblemError:
    """422 that names the parameter."""
    found = [Finding(parameter=name, detail=detail)]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {detail}", found)


def install(app: FastAPI) -> None:
    """Makes the app answer every error as a problem."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(InputError, _on_input_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_fault)


def _respond(
    request: Request, status: int, detail: str, errors: Sequence[Finding] = (), headers: Any = None
) -> JSONResponse:
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, instance=request.url.path, errors=list(errors)
    )
    return JSONResponse(problem.model_dump(mode="json"), status, headers, media_type=MEDIA_TYPE)


def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return _respond(request, error.status, error.detail, error.errors, error.headers)


def _on_input_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InputError)
    return _respond(request, HTTPStatus.UNPROCESSABLE_ENTITY, error.message, findings_of(error))


def findings_of(error: InputError) -> list[Finding]:
    """The error's details, each with the pointer it begins with or else the error's own."""
    if not error.details:
        return [Finding(pointer=error.pointer, detail=error.message)] if error.pointer else []
    found = []
    for line in error.details:
        match = re.match(r"(/\S*): (.*)", line, re.DOTALL)
        pointer, detail = (match[1], match[2]) if match else (error.pointer, line)
        found.append(Finding(pointer=pointer, detail=detail))
    return found


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_finding(item) for item in error.errors()]
    places = [item.parameter or item.pointer for item in found]
    detail = "; ".join(
        f"{place}: {item.detail}" if place else item.detail for place, item in zip(places, found, strict=True)
    )
    return _respond(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, found)


def _finding(item: dict[str, Any]) -> Finding:
    place, *rest = item["loc"]
    if item["type"] == "json_invalid":
        reason = item.get("ctx", {}).get("error", "it cannot be parsed")
        position = f" at character {rest[0]}" if rest else ""
        told = f"is {reason}" if reason.startswith("not valid YAML") else f"must be valid JSON: {reason}{position}"
        return Finding(pointer="", detail=f"the body {told}")
    message = item["msg"]
    if item["type"] == "extra_forbidden":
        message = "unknown field; remove it or correct its spelling"
    if place == "body":
        if not rest and item["type"] in ("missing", "dict_type"):
            message = (
                "the body must be a mapping of options, sent with Content-Type: application/json or application/yaml"
            )
        return Finding(pointer="".join(f"/{part}" for part in rest), detail=message)
    if isinstance(item.get("input"), str):
        message = f"{message}; got {item['input']!r}"
    return Finding(parameter=".".join(map(str, rest)), detail=message)


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is nothing at {request.url.path}; see /docs for all paths"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
        detail = f"{request.method} is not possible here; allowed: {headers['Allow']}"
    return _respond(request, error.status_code, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """All methods of this path; the exception knows those of the first matching route only."""
    paths = request.app.openapi()["paths"]
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    template = request.scope["route"].path if "route" in request.scope else path
    return sorted(method.upper() for method in paths.get(template.replace(":path}", "}"), {}))


def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """The cause goes to the log, not to the client, as it may hold what the client must not know."""
    if _disk_is_full(error):
        logger.error("%s %s failed: the disk is full (%s)", request.method, request.url.path, error)
        detail = "the service's disk is full, so nothing was changed; its administrator must free space on it"
        return _respond(request, HTTPStatus.INSUFFICIENT_STORAGE, detail)
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = "the service failed to answer this request; see its log"
    return _respond(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _disk_is_full(error: BaseException) -> bool:
    """By the error's number, or by what a database says of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, DBAPIError) and any(words in str(error.orig) for words in _FULL)
