"""How bodies of requests are read: as JSON in which nothing is lost in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class _StrictRequest(Request):
    """Python's parser would keep the last of two equal keys and drop the others."""

    async def json(self) -> Any:
        """Raises json.JSONDecodeError, which FastAPI answers with 422, also where a key is given twice."""
        if not hasattr(self, "_json"):
            text = (await self.body()).decode("utf-8")
            self._json = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, text))
        return self._json


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
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly
