"""Values made fit for JSON, which knows neither NaN nor infinity, and for UTF-8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """The same value with null in place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def well_formed(text: str) -> str:
    """The text with ``?`` for each half of a character, which JSON may name (``\\ud800``) and UTF-8 does not know."""
    return text.encode("utf-8", "replace").decode("utf-8")
