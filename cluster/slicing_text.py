"""A slicing's text in a table: broken between blocks only, so that it can be read and copied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

_NARROWEST = 14


@dataclass(frozen=True)
class SlicingText:
    """``s1:2x4,2x4|s2:…`` for Rich, in as many lines as the width asks for."""

    architecture: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_NARROWEST, max(_NARROWEST, len(self.architecture))).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text("\n".join(lines_of(self.architecture, options.max_width)), overflow="fold")


def lines_of(architecture: str, width: int) -> list[str]:
    """The text in lines that end behind a block or stage, each at most ``width`` long where that can be."""
    lines = [""]
    for block in re.findall(r"[^,|]+[,|]?", architecture):
        if lines[-1] and len(lines[-1] + block) > width:
            lines.append("")
        lines[-1] += block
    return lines
