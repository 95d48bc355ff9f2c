"""How bodies of requests are read: as JSON, or YAML that holds the same, in which nothing is lost in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import yaml
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from api.server.middleware import MAX_BODY_BYTES
from slicemamba.documents import parse_yaml

_MOST_LEVELS = 100
YAML = ("application/yaml", "application/x-yaml", "text/yaml")
"""Content types of YAML: the first is registered (RFC 9512), the others are older and common."""


class _StrictRequest(Request):
    """Python's parser would keep the last of two equal keys and drop the others."""

    async def json(self) -> Any:
        """Raises json.JSONDecodeError, which FastAPI answers with 422, also where a key is given twice."""
        if not hasattr(self, "_json"):
            text = (await self.body()).decode("utf-8")
            read = _from_yaml if self.scope.get("is_yaml") else _from_json
            self._json = read(text)
        return self._json


def _from_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, text))


def _from_yaml(text: str) -> Any:
    try:
        found = parse_yaml(text)
        _check_json(found)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise json.JSONDecodeError(f"not valid YAML: {error}", text, 0 if mark is None else mark.index) from None
    except (TypeError, ValueError, RecursionError) as error:
        told = f"not valid YAML of what JSON can hold (no !!binary, !!set or list that holds itself): {error}"
        raise json.JSONDecodeError(told, text, 0) from None
    return found


def _check_json(found: Any) -> None:
    """Raises what ``json.dumps`` does, ValueError for what is too deep, and yaml.YAMLError where aliases, of which few
    can stand for terabytes, make it longer than a body may be.
    """
    left, waiting = MAX_BODY_BYTES, [(found, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= len(value) if isinstance(value, str) else 1
        if left < 0:
            raise yaml.YAMLError(f"as JSON, without aliases, it would have more than {MAX_BODY_BYTES} bytes")
        if depth > _MOST_LEVELS:
            raise ValueError(f"it has more than {_MOST_LEVELS} levels")
        if isinstance(value, (dict, list)):
            inside = value.values() if isinstance(value, dict) else value
            waiting += [(one, depth + 1) for one in inside]
    json.dumps(found)


def _as_json(scope: Scope) -> Scope:
    """A request of YAML as one of JSON, as FastAPI hands on no other; what it is stays beside."""
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() not in YAML:
        return scope
    others = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
    return {**scope, "headers": [*others, (b"content-type", b"application/json")], "is_yaml": True}


def _once(pairs: list[tuple[str, Any]], text: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise json.JSONDecodeError(f"{twice!r} is given twice, and one would be lost", text, text.rfind(f'"{twice}"'))
    return found


class StrictRoute(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, for ``_StrictRequest``."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(_as_json(request.scope), request.receive))

        return strictly
