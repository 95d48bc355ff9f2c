"""Commands that need no cluster. Each ``cli.py`` has ``register``; ``api.cli`` joins them in the command ``slicemamba``."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds this package's commands."""
