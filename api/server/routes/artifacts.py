"""/v1/searches/{id}/result and /artifacts: the files of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from api import schemas
from api.schemas import Problem
from api.server.dashboard import SANDBOX
from api.server.dependencies import Context
from api.server.problems import not_found
from api.server.routes.searches import UNKNOWN
from cluster.config import public_spec
from slicemamba.text import finite

_RESPONSES: dict[int | str, dict[str, Any]] = {422: {"model": Problem}, **UNKNOWN}
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["results"], responses=_RESPONSES)


@router.get("/result")
def get_result(search_id: str, context: Context) -> dict[str, Any]:
    """The content of `result.json`: Pareto frontier, comparison with fixed and random slicings, test scores."""
    search = context.service.get(search_id)
    result = context.service.run_folder(search_id).read_json("result.json")
    if result is None:
        raise not_found(f"search {search_id} has no result; it is {search.state}")
    answer: dict[str, Any] = finite(result)
    return answer


@router.get("/audit")
def get_audit(search_id: str, context: Context) -> dict[str, Any]:
    """How far to trust the result, after an audit by `POST …/audit`."""
    context.service.check_exists(search_id)
    found = context.service.run_folder(search_id).read_json("audit.json")
    if found is None:
        raise not_found(f"search {search_id} has not been audited; POST /v1/searches/{search_id}/audit starts an audit")
    answer: dict[str, Any] = finite(found)
    return answer


@router.get("/artifacts")
def list_artifacts(search_id: str, context: Context) -> schemas.ArtifactList:
    """All files of the run."""
    context.service.check_exists(search_id)
    root = context.service.run_folder(search_id).path
    found = (_describe(root, name) for name in _names(root))
    return schemas.ArtifactList(artifacts=sorted(filter(None, found), key=lambda one: one.path))


@router.get("/artifacts/{path:path}", response_class=FileResponse)
def get_artifact(search_id: str, path: str, context: Context) -> Response:
    """One file, or part of it with a `Range` header."""
    context.service.check_exists(search_id)
    found = _resolve(context.service.run_folder(search_id).path, path)
    if found is None:
        raise not_found(f"search {search_id} has no artifact {path!r}; GET …/artifacts lists all")
    if found.name == "config.json":  # where data lies on the server is not the client's business
        return JSONResponse(public_spec(json.loads(found.read_text(encoding="utf-8"))))
    return _FileOfNow(found, filename=found.name, content_disposition_type="inline", headers=SANDBOX)


class _FileOfNow(FileResponse):
    """A file as long as it is when the answer begins, though it is appended to meanwhile, as events and journal are."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = 0

        async def send_up_to_length(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                left = int(Headers(raw=message["headers"])["Content-Length"])
                await send(message)
            elif left or not message.get("more_body"):
                body = message.get("body", b"")[:left]
                left -= len(body)
                await send({**message, "body": body})

        await super().__call__(scope, receive, send_up_to_length)


@router.get("/report", response_class=HTMLResponse)
def get_report(search_id: str, context: Context) -> FileResponse:
    """The report as a self-contained page."""
    search = context.service.get(search_id)
    path = _resolve(context.service.run_folder(search_id).path, "report.html")
    if path is None:
        raise not_found(f"search {search_id} has no report yet; it is {search.state}")
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=SANDBOX)


def _names(root: Path) -> Iterator[str]:
    """Of what may be a file; folders that are removed meanwhile are passed over, hidden ones are not looked into."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in files)


def _resolve(root: Path, name: str) -> Path | None:
    """The regular file of this name inside ``root``; None for all else.

    Links are followed before the check, so one that leads out is refused as ``..`` is. Hidden files are half-written.
    """
    if any(part.startswith(".") for part in Path(name).parts):
        return None
    try:
        path = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # not there, a NUL in its name, a loop of links
        return None
    return path if path.is_relative_to(root) and path.is_file() else None


def _describe(root: Path, name: str) -> schemas.Artifact | None:
    """None for what is not served, or is gone since it was listed."""
    path = _resolve(root, name)
    if path is None:
        return None
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    modified = datetime.fromtimestamp(facts.st_mtime, timezone.utc)
    return schemas.Artifact(path=name, size_bytes=facts.st_size, modified_at=modified)
