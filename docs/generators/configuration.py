"""The configuration reference: every option with type, default, constraints and meaning, from the pydantic models.

What a field means stands in its class's docstring, under ``Attributes:``, and nowhere else.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from api.server.settings import VARIABLES, Settings
from cluster.config import JobSpec
from docs.generators.schemas import cell, in_words
from nas.config import AuditConfig
from slicemamba.architecture import Block, format_block
from slicemamba.docstrings import describe_fields, markdown

KINDS: dict[str, type[BaseModel]] = {job.model_fields["kind"].default: job for job in get_args(get_args(JobSpec)[0])}
INTRODUCTION = """# Configuration reference

Generated from the schemas of this version. A job is one mapping of the options below, the same as a YAML file, as the
body of a request, and as `config.json` next to each network. `kind` says what the job does. Omitted options have their
default; unknown options are an error. On the command line, `--set search.num_trials=100` sets an option by its dotted
name. `configs/` in the sources has complete examples.

| kind | what it does |
| --- | --- |
"""


@dataclass
class Section:
    """A group of options: ``path`` in a job (empty for the job itself), its model and the kinds of job that have it."""

    path: str
    model: type[BaseModel]
    kinds: list[str] = field(default_factory=list)


def page() -> str:
    """The whole page as Markdown."""
    kinds = [f"| `{kind}` | {cell(_summary(model))} |" for kind, model in KINDS.items()]
    parts = [INTRODUCTION + "\n".join(kinds) + "\n", "## Options of a job\n"]
    parts += [_section_text(section) for section in sections()]
    parts.append(
        "## The audit\n\nOptions of `slicemamba audit`, there written with dashes, and of an audit over "
        "REST.\n\n" + table(AuditConfig)
    )
    parts.append(
        "## The service\n\nThese are environment variables; the common ones are also options of `slicemamba serve`."
        "\n\n" + table(Settings, names={name: f"`{variable}`" for name, variable in VARIABLES.items()})
    )
    return "\n".join(parts)


def sections() -> list[Section]:
    """All groups of options of all kinds of job, each model at a path once."""
    found: dict[tuple[str, type[BaseModel]], Section] = {}
    for kind, job in KINDS.items():
        for path, model in _nested("", job):
            section = found.setdefault((path, model), Section(path, model))
            section.kinds.append(kind)
    return sorted(found.values(), key=lambda section: bool(section.path))  # the jobs themselves first


def table(model: type[BaseModel], names: dict[str, str] | None = None) -> str:
    """A model's fields as a Markdown table.

    Args:
        names: what to show instead of a field's own name.
    """
    schema = model.model_json_schema()

    def refer(name: str) -> str:
        return in_words(schema["$defs"][name], refer)

    told = describe_fields(model)
    for name, info in model.model_fields.items():
        for inner in _models(info.annotation):
            told.setdefault(name, _summary(inner))
    rows = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, info in model.model_fields.items():
        kind = in_words(schema["properties"][name], refer)
        shown = (names or {}).get(name, f"`{name}`")
        rows.append(f"| {shown} | {cell(kind)} | {_default(info)} | {cell(told.get(name, ''))} |")
    return "\n".join(rows) + "\n"


def _section_text(section: Section) -> str:
    if not section.path:
        return f"### kind: {section.kinds[0]}\n\n{_body(section.model)}\n\n{table(section.model)}"
    others = [other for other in sections() if other.path == section.path]
    of = f" ({', '.join(section.kinds)})" if len(others) > 1 else ""
    jobs = ", ".join(f"`{kind}`" for kind in section.kinds)
    return f"### {section.path}{of}\n\nIn jobs of kind {jobs}. {_body(section.model)}\n\n{table(section.model)}"


def _nested(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, info in model.model_fields.items():
        for inner in _models(info.annotation):
            yield from _nested(f"{path}.{name}".lstrip("."), inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation is, or is a union or a mapping of."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, dict):
        for part in get_args(annotation):
            yield from _models(part)


def _body(model: type[BaseModel]) -> str:
    """The docstring without its ``Attributes:``."""
    text, _, _ = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")
    return markdown(" ".join(text.split()))


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0]


def _default(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "as below"
    plain = _jsonable(value)
    return f"`{plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)}`"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Block):
        return format_block(value)
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str, dict)) else str(value)
