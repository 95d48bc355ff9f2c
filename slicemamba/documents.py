"""How the documents of users are read: YAML or JSON mappings, and ``a.b=value`` assignments to their options.

Nothing that is written is lost in silence: what is given twice is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from slicemamba.commands import command_line
from slicemamba.errors import InputError
from slicemamba.presets import advise_on, find_config

_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_DEEPEST = 50  # levels; no configuration has ten, and Python gives up at a thousand


class _Strict(yaml.constructor.SafeConstructor):
    """A key that stands twice is an error, and a name such as 2026-01-31 is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # yaml's own name
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Hashable, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:  # brings keys that may be given anew
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue
            if key in first:
                raise yaml.YAMLError(
                    f"{key!r} is given twice, in lines {first[key]} and {line}, and one would be lost; keep one"
                )
            first[key] = line
        return super().construct_mapping(node, deep)


class _Loader(_Strict, yaml.SafeLoader):
    """YAML's safe part, nested no deeper than it may be."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"it has more than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_FastLoader: Any = _Loader
if hasattr(yaml, "CSafeLoader"):  # libyaml, by which it takes a thirteenth of the time

    class _FastLoader(_Strict, yaml.CSafeLoader):  # type: ignore[no-redef]
        """The same; its depth is looked at before, as libyaml's tree of what is nested too deep ends the process."""


def parse_yaml(text: str, *, long: bool = False) -> Any:
    """What a YAML text holds.

    Args:
        long: it may have tens of thousands of lines, as groups and strata of a data set.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice, or is nested beyond all measure.
    """
    try:
        if long:
            _check_depth(text)
        return yaml.load(text, _FastLoader if long else _Loader)  # both are SafeLoaders
    except ValueError as error:  # of Python's own conversions, such as a whole number of 5000 digits
        raise yaml.YAMLError(str(error)) from None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _FastLoader):  # one after the other, without a tree
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"it has more than {_DEEPEST} levels")


def read_yaml(path: Path, *, long: bool = False) -> dict[str, Any]:
    """Reads a YAML (or JSON) mapping from a file, or the one of that name which travels with the package.

    ``long`` as in ``parse_yaml``.

    InputError says which line could not be read, and which two hold one key.
    """
    try:
        values = parse_yaml(find_config(path).read_text(encoding="utf-8"), long=long)
    except FileNotFoundError:
        raise InputError(
            f"config file {path} does not exist; {advise_on(path)}give the path of a YAML file, or a name from "
            "`slicemamba config list`"
        ) from None
    except IsADirectoryError:
        planned = command_line("search", str(path), "--auto")
        raise InputError(f"{path} is a folder; `{planned}` plans a search on it, if it is a data set") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"config file {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"config file {path} must hold a mapping of options; got {type(values).__name__}")
    return values


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Applies ``a.b=value`` assignments (values in YAML) to nested options and returns a new mapping.

    Raises:
        InputError: one has another form, leads into a value, or would undo an earlier one.
    """
    result = copy.deepcopy(values)
    earlier: list[str] = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not all(key.split(".")):
            raise InputError(f"an override must look like 'supernet.epochs=10'; got {assignment!r}")
        undone = [other for other in earlier if other == key or other.startswith(f"{key}.")]
        if undone:
            raise InputError(f"override {assignment!r} would undo the one of {undone[0]!r} before it; keep one of them")
        earlier.append(key)
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:  # absent, or null to say that there is none
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise InputError(f"override {assignment!r}: {parent!r} holds a value, not options")
        try:
            node[last] = parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"override {assignment!r}: the value is not valid YAML: {error}") from None
    return result
