"""The REST reference: endpoints, parameters, bodies and answers, from the service's OpenAPI document."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from api.server.app import create_app
from api.server.settings import Settings
from docs.generators import configuration
from docs.generators.schemas import cell, in_words
from slicemamba.docstrings import attributes, markdown

INTRODUCTION = """# REST reference

Generated from the service's OpenAPI document, which every service serves as `/openapi.json`; try the requests at its
`/docs`. [The service](../api.md) explains what they have in common: tokens, idempotency, lists, events and errors.

Each endpoint below `/v1` may also return 401 (a valid token is required) and 403 (the token's scope is insufficient).
Every error has the body [Problem](#problem).

"""
EVERYWHERE = ("401", "403")
TITLES = {"server": "The server", "health": "Health and metrics"}


@dataclass(frozen=True)
class Operation:
    """One endpoint: a method on a path, with its part of the document."""

    method: str
    path: str
    said: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.method} {self.path}"


class Reference:
    """Writes the page of one document.

    Args:
        document: as of ``/openapi.json``.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._schemas: dict[str, dict[str, Any]] = document["components"]["schemas"]
        self._options = {section.model.__name__ for section in configuration.sections()}

    def page(self) -> str:
        """The whole page as Markdown."""
        rows = [
            f"| [`{op.method}`](#{anchor(op)}) | `{op.path}` | {cell(first_line(op.said))} |"
            for op in self.operations()
        ]
        parts = [INTRODUCTION + "\n".join(["| | endpoint | |", "| --- | --- | --- |", *rows]) + "\n"]
        for tag in dict.fromkeys(op.said["tags"][0] for op in self.operations()):
            parts.append(f"## {TITLES.get(tag, tag.capitalize())}\n")
            parts += [self._operation(op) for op in self.operations() if op.said["tags"][0] == tag]
        parts.append("## Schemas\n")
        parts += [self._schema(name) for name in sorted(self._schemas) if self._own_section(name)]
        return "\n".join(parts)

    def operations(self) -> Iterator[Operation]:
        for path, methods in self._document["paths"].items():
            for method, said in methods.items():
                yield Operation(method.upper(), path, said)

    def _operation(self, op: Operation) -> str:
        short = op.title.replace("/v1/searches/{search_id}", "…")  # for the table of contents, which is narrow
        heading = f'### {op.title} {{ #{anchor(op)} data-toc-label="{short}" }}'
        parts = [heading, markdown(op.said.get("description", op.said["summary"]))]
        if op.said.get("parameters"):
            parts.append(self._parameters(op.said["parameters"]))
        if "requestBody" in op.said:
            parts.append("Body: " + self._body(op.said["requestBody"]))
        rows = [
            f"| {status} {HTTPStatus(int(status)).phrase} | {self._content(answer)} | {_beyond(status, answer)} |"
            for status, answer in sorted(op.said["responses"].items())
            if status not in EVERYWHERE
        ]
        parts.append("\n".join(["| status | body | |", "| --- | --- | --- |", *rows]))
        return "\n\n".join(parts) + "\n"

    def _parameters(self, parameters: list[dict[str, Any]]) -> str:
        rows = ["| parameter | in | type | default | |", "| --- | --- | --- | --- | --- |"]
        for item in parameters:
            schema = item["schema"]
            default = "required" if item.get("required") else default_of(schema)
            told = item.get("description") or schema.get("description", "")
            rows.append(f"| `{item['name']}` | {item['in']} | {cell(self._words(schema))} | {default} | {cell(told)} |")
        return "\n".join(rows)

    def _body(self, body: dict[str, Any]) -> str:
        (media_type, content), *_ = body["content"].items()
        kind = content["schema"].get("properties", {}).get("kind", {}).get("const")
        if kind:
            return f"`{media_type}`, a job as in the [configuration reference](configuration.md#kind-{kind})."
        return f"`{media_type}`, {self._words(content['schema'])}."

    def _content(self, answer: dict[str, Any]) -> str:
        bodies = {kind: self._words(part.get("schema", {})) for kind, part in answer.get("content", {}).items()}
        found = [f"`{kind}`" if words == "any" else f"`{kind}`: {words}" for kind, words in bodies.items()]
        return cell("; ".join(found)) or "–"

    def _schema(self, name: str) -> str:
        schema = self._schemas[name]
        description, _, _ = schema.get("description", "").partition("Attributes:\n")
        told = attributes(schema.get("description", ""))
        rows = ["| field | type | default | |", "| --- | --- | --- | --- |"]
        for field, part in schema["properties"].items():
            default = "always there" if field in schema.get("required", ()) else default_of(part)
            meaning = part.get("description") or told.get(field, "")
            rows.append(f"| `{field}` | {cell(self._words(part))} | {default} | {cell(meaning)} |")
        return f"### {name}\n\n{markdown(description).strip()}\n\n" + "\n".join(rows) + "\n"

    def _own_section(self, name: str) -> bool:
        return "properties" in self._schemas[name] and name not in self._options

    def _words(self, schema: dict[str, Any]) -> str:
        return in_words(schema, self._refer)

    def _refer(self, name: str) -> str:
        if name in self._options:
            return "options, see the [configuration reference](configuration.md)"
        return f"[{name}](#{name.lower()})" if self._own_section(name) else self._words(self._schemas[name])


def page() -> str:
    """The page of the service as it is."""
    with tempfile.TemporaryDirectory() as folder:
        return Reference(create_app(Settings(runs_dir=Path(folder))).openapi()).page()


def anchor(op: Operation) -> str:
    """Identifier of an endpoint's heading."""
    words = "".join(letter if letter.isalnum() else "-" for letter in op.title.lower())
    return "-".join(part for part in words.split("-") if part)


def first_line(said: dict[str, Any]) -> str:
    """The first sentence of what an endpoint does."""
    return str(said.get("description", said["summary"])).partition("\n\n")[0]


def _beyond(status: str, answer: dict[str, Any]) -> str:
    """What an answer's description says beyond its status; FastAPI's own words say nothing."""
    said = str(answer["description"])
    return "" if said in ("Successful Response", HTTPStatus(int(status)).phrase) else cell(said)


def default_of(schema: dict[str, Any]) -> str:
    """The default of a parameter or field."""
    value = schema.get("default")
    return "" if value is None or value in ([], {}) else f"`{value}`"
