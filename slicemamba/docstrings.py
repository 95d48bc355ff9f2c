"""What the docstrings of classes say of their fields, for references, REST schemas and forms."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from typing import Any


@lru_cache
def attributes(docstring: str) -> dict[str, str]:
    """What a docstring says under ``Attributes:``, by name; ``a, b: text`` is said of both."""
    _, _, block = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + block):
        names, colon, text = entry.strip().partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def describe_fields(model: type) -> dict[str, str]:
    """Field → what its class, or the nearest ancestor that says so, has under ``Attributes:``."""
    found: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        found |= attributes(inspect.cleandoc(vars(ancestor).get("__doc__") or ""))
    return found


def add_descriptions(model: type, schema: dict[str, Any]) -> None:
    """Puts what the docstrings say into the JSON schema of a model, where it says nothing of its own."""
    properties = schema.get("properties", {})
    for name, text in describe_fields(model).items():
        if name in properties:
            properties[name].setdefault("description", markdown(text))


def markdown(text: str) -> str:
    """reStructuredText's literals as Markdown's."""
    return text.replace("``", "`")
