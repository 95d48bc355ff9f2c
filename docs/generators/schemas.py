"""JSON schemas as words for tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicemamba.docstrings import markdown

Refer = Callable[[str], str]


def in_words(schema: dict[str, Any], refer: Refer) -> str:
    """A JSON schema in words.

    Args:
        refer: what to say of a named schema.
    """
    if "$ref" in schema:
        return refer(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(in_words(part, refer) for part in schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return _array(schema, refer)
    if schema.get("type") == "object":
        return _object(schema, refer)
    limits = _limits(schema)
    comma = "," if limits and limits[0][0].isalpha() else ""
    return f"{_plain(schema)}{comma} {', '.join(limits)}".rstrip()


def _array(schema: dict[str, Any], refer: Refer) -> str:
    if "prefixItems" in schema:
        items = [in_words(item, refer) for item in schema["prefixItems"]]
        return f"{len(items)} × {items[0]}" if len(set(items)) == 1 else "[" + ", ".join(items) + "]"
    return f"list of {in_words(schema['items'], refer)}"


def _object(schema: dict[str, Any], refer: Refer) -> str:
    if "properties" in schema:
        return "options, see below"
    values = schema.get("additionalProperties")
    return f"mapping to {in_words(values, refer)}" if isinstance(values, dict) else "mapping"


def _plain(schema: dict[str, Any]) -> str:
    if schema.get("format") == "path":
        return "path"
    return {"string": "text", "boolean": "true or false"}.get(schema.get("type", ""), schema.get("type", "any"))


def _limits(schema: dict[str, Any]) -> list[str]:
    if schema.get("type") == "integer" and "exclusiveMinimum" in schema:
        schema = {**schema, "minimum": schema["exclusiveMinimum"] + 1}
        del schema["exclusiveMinimum"]
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    found += [f"at most {schema['maxLength']} characters"] if "maxLength" in schema else []
    if "examples" in schema:
        return [*found, f"like `{schema['examples'][0]}`"]
    return found + ([f"matching `{schema['pattern']}`"] if "pattern" in schema else [])


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return markdown(text).replace("|", "\\|")
