"""Free text and numbers made fit for where they go: JSON, UTF-8, figures."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from urllib.parse import quote

_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\w.])")
_HOME = re.compile(r"/(?:home|Users)/[^/\s:'\"]+|/root(?=/)")
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation.replace("%", "") + " "


def finite(value: Any) -> Any:
    """The same value with null in place of each number that is not finite, and plain numbers in place of NumPy's."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def to_json(values: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """JSON that every parser takes: ASCII, with null for what is not finite."""
    separators = (",", ":") if compact else None
    return json.dumps(finite(values), indent=indent, separators=separators, allow_nan=False)


def well_formed(text: str) -> str:
    """The text with ``?`` for each half of a character, which JSON may name (``\\ud800``) and UTF-8 does not know."""
    return text.encode("utf-8", "replace").decode("utf-8")


def displayable(value: Any) -> Any:
    """The same value with ``well_formed`` text in it, whatever an older version has stored."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {displayable(key): displayable(item) for key, item in value.items()}
    return [displayable(item) for item in value] if isinstance(value, (list, tuple)) else value


def ascii_name(text: str) -> str:
    """The text for what takes nothing but ASCII, as Ray's metrics and HTTP headers do: the rest percent-encoded."""
    return quote(text, safe=_PRINTABLE, errors="surrogateescape")


def figure_text(text: str) -> str:
    """A name as matplotlib is to draw it: dollars are no formula, and control characters and line breaks a ``?``."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.replace("$", r"\$")


def masked(text: str, places: Mapping[Path, str] | None = None) -> str:
    """The text without home folders and without addresses of machines.

    Args:
        places: further folders, each with what stands for it.
    """
    known = {str(folder): name for folder, name in (places or {}).items()} | {str(Path.home()): "~"}
    for folder in sorted(known, key=len, reverse=True):
        text = text.replace(folder, known[folder])
    return _ADDRESS.sub("<address>", _HOME.sub("~", text))
