"""The reference of the command line, from the commands' own help, by typer."""

from __future__ import annotations

import re
from typing import Any

import typer.main
from typer.cli import get_docs_for_click

from api.cli import app

INTRODUCTION = """# Command line

Generated from the commands' help; `slicemamba COMMAND --help` prints the same.

Exit codes: 0 success; 1 the run or the search failed; 2 bad input, or no answer from the service or Ray; 3 some of
several files gave no mask; 130 interrupted.
"""


def page() -> str:
    """The whole page as Markdown."""
    command: Any = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="slicemamba")
    _, first, rest = text.partition("\n## ")
    listed = "\n".join(_listed("slicemamba", command))
    body = re.sub(r"\{(\S+?)\}", r"\1", first + rest)  # braces around arguments say nothing
    return f"{INTRODUCTION}\n{listed}\n{body}"


def _listed(name: str, group: Any) -> list[str]:
    """A line for each command, with a link to its section."""
    found = []
    for command_name, command in group.commands.items():
        full = f"{name} {command_name}"
        if getattr(command, "commands", None):
            found += _listed(full, command)
        else:
            line = " ".join((command.help or "").partition("\n\n")[0].split())
            found.append(f"- [`{full}`](#{full.replace(' ', '-')}): {line}")
    return found
