"""Fenced blocks of the documentation, for tests that do what its pages say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title (empty without one) and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for language, options, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        found = re.search(r'title="([^"]*)"', options)
        yield Block(language, found[1] if found else "", text)


def apply_diff(text: str, diff: str) -> str:
    """Replaces what a block of ``-`` and context lines says by its ``+`` and context lines.

    Raises:
        AssertionError: the lines are not in the text, or more than once.
    """
    lines = diff.splitlines()
    assert all(line[:1] in ("+", "-", " ") for line in lines), f"a line of the diff begins with none of '+- ': {diff}"
    old = "".join(line[1:] + "\n" for line in lines if line[0] != "+")
    new = "".join(line[1:] + "\n" for line in lines if line[0] != "-")
    assert text.count(old) == 1, f"expected these lines once, found them {text.count(old)} times:\n{old}"
    return text.replace(old, new)
