"""Commands that run jobs on Ray from this terminal."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands."""
