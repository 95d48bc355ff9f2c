"""Commands on access tokens, run on the server itself: ``slicemamba token …``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.client.tables import format_time, make_table
from slicemamba.cli import SERVICE
from slicemamba.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from api.server.models import Token
    from api.server.tokens import Tokens

RunsDir = Annotated[Path | None, typer.Option(help="Folder of all runs.")]
Database = Annotated[str | None, typer.Option(help="Run database; default: a SQLite file in the folder of runs.")]
MAX_DAYS = 36_500  # of a token that ends

_app = typer.Typer(help="Create, list and revoke access tokens. Run it on the server, whose run database holds them.")


@_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Owner of the token.")],
    scope: Annotated[str, typer.Option(help="read; submit: also start, stop, extend; admin: also delete.")] = "submit",
    days: Annotated[
        float | None, typer.Option("--days", help="Days that it is valid; default: until it is revoked.")
    ] = None,
    runs_dir: RunsDir = None,
    database_url: Database = None,
) -> None:
    """Print a new token. It is shown only once, as only its hash is stored."""
    from api.server.tokens import Scope

    known = [item.value for item in Scope]
    if scope not in known:
        raise InputError(f"--scope must be one of {', '.join(known)}; got {scope!r}")
    lifetime = None if days is None else _days(days)
    row, text = _open_tokens(runs_dir, database_url).create(name, Scope(scope), lifetime)
    until = "" if row.expires_at is None else f", until {format_time(row.expires_at)}"
    print(f"token {row.id} ({scope}) for {name}{until}; clients take it from SLICEMAMBA_TOKEN:", file=sys.stderr)
    print(text)


@_app.command("list")
def list_tokens(runs_dir: RunsDir = None, database_url: Database = None) -> None:
    """List tokens, without their secrets."""
    from rich.console import Console

    rows = _open_tokens(runs_dir, database_url).list()
    if not rows:  # perhaps that of another service
        print(
            "no tokens in this run database; `slicemamba token create NAME` creates one. --runs-dir or --database-url "
            "must be those of the service",
            file=sys.stderr,
        )
        return
    Console().print(_table(rows))


@_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id, as shown by `token list`.")],
    runs_dir: RunsDir = None,
    database_url: Database = None,
) -> None:
    """Invalidate a token at once."""
    row = _open_tokens(runs_dir, database_url).revoke(token_id)
    print(f"token {row.id} of {row.name} is revoked")


def _days(days: float) -> timedelta:
    """Raises InputError for a time that no calendar holds, or none at all."""
    if not 0 < days <= MAX_DAYS:
        raise InputError(
            f"--days must lie above 0 and be at most {MAX_DAYS}; got {days:g}. Without it a token stays valid"
        )
    return timedelta(days=days)


def _open_tokens(runs_dir: Path | None, database_url: str | None) -> Tokens:
    from api.server.database import open_database
    from api.server.settings import Settings
    from api.server.tokens import Tokens

    return Tokens(open_database(Settings.from_env(runs_dir=runs_dir, database_url=database_url).database))


def _table(rows: Sequence[Token]) -> Table:
    lines = [
        [row.id, row.name, row.scope, *map(format_time, (row.created_at, row.used_at, row.expires_at, row.revoked_at))]
        for row in rows
    ]
    return make_table(["id", "name", "scope", "created", "last used", "expires", "revoked"], lines)


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.add_typer(_app, name="token", rich_help_panel=SERVICE)
