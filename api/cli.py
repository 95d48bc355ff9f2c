"""The command ``slicemamba``: this package's commands, joined with those of the packages below.

Everything heavy is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import api.commands.searches
import api.commands.tokens
import api.commands.trials
import cluster.cli
import slicemamba.cli
from api.commands.tokens import Database, RunsDir
from slicemamba import __version__
from slicemamba.cli import SERVICE, START
from slicemamba.errors import InputError, RunFailedError
from slicemamba.files import DISK_FAULTS

if TYPE_CHECKING:
    from api.client.connection import ApiError

_OF_FILES = {
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}
"""Faults of the place that a user has named, not of the program."""

app = typer.Typer(
    name="slicemamba",
    help="Finds how a Mamba segmentation network should slice its feature maps for your medical images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"slicemamba {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of ``slicemamba`` itself; its help is that of ``app``."""


@app.command(rich_help_panel=START)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; those of an earlier demo are replaced.")] = Path(
        "demo-output"
    ),
    data: Annotated[Path | None, typer.Option(help="Your own images in the ISIC layout.")] = None,
) -> None:
    """Run everything once: start Ray and the service, submit and follow a search, show its result, stop everything."""
    from rich.console import Console

    from api.commands.demo import run_demo

    raise typer.Exit(run_demo(out, data, Console()))


def _check_document(values: Mapping[str, Any], source: str) -> None:
    from cluster.config import check_document

    check_document(values, source)


cluster.cli.register(app)
slicemamba.cli.register(app, _check_document)


@app.command(rich_help_panel=SERVICE)
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8000; 0 selects a free one.")] = None,
    runs_dir: RunsDir = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets that requests may name.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray's job server; default: http://127.0.0.1:8265.")] = None,
    database_url: Database = None,
    root_path: Annotated[
        str | None, typer.Option(help="Prefix under which a reverse proxy shows the service: /nas.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Start Ray on this machine if none answers, and stop it at the end.")
    ] = False,
) -> None:
    """Run the service. SLICEMAMBA_* variables set the same options (docs/api.md)."""
    from api.server.serving import serve as run
    from api.server.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "runs_dir": runs_dir, "data_root": data}
    given |= {"ray_address": ray_address, "database_url": database_url, "root_path": root_path}
    run(Settings.from_env(**given), local=local)


api.commands.tokens.register(app)
api.commands.searches.register(app)
api.commands.trials.register(app)


def main() -> None:
    """Entry point of ``slicemamba``. Exit codes: see docs/client.md."""
    _end_in_order()
    try:
        app()
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        message, code = found
        _print_error(message)
        sys.exit(code)


def _end_in_order() -> None:
    """A closed terminal and ``kill`` end a command as Ctrl-C does: what it has started is stopped, too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, interrupt)


def explain(error: Exception) -> tuple[str, int] | None:
    """What to tell the user about an error, and the exit code; None for a fault of the program."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, RunFailedError):
        return str(error), 1
    if isinstance(error, OSError) and error.filename and error.errno in DISK_FAULTS:
        return f"{error.filename} cannot be written: the disk {DISK_FAULTS[error.errno]}, then repeat the command", 2
    if isinstance(error, OSError) and error.filename and error.errno in _OF_FILES:
        reason = (error.strerror or type(error).__name__).lower()
        return f"{error.filename} cannot be used: {reason}; choose another path, or fix this one", 2
    # Not imported, it has raised nothing, and importing it would take time.
    if "api.client.connection" not in sys.modules:
        return None
    from api.client.connection import ApiError, ApiUnreachableError

    if isinstance(error, ApiUnreachableError):
        return f"{error}; start it with `slicemamba serve`, or set SLICEMAMBA_URL to where it runs", 2
    if isinstance(error, ApiError):
        return _explain_refusal(error), 2 if error.status < 500 else 1
    return None


def _explain_refusal(error: ApiError) -> str:
    """What the service says; where it advises on a request, the command that does the same instead."""
    said, (what, _, _) = str(error), error.problem.detail.partition(";")
    if error.status == HTTPStatus.UNAUTHORIZED:
        return f"{said}\ngive the token as SLICEMAMBA_TOKEN; on the server `slicemamba token create NAME` creates one"
    if error.status == HTTPStatus.FORBIDDEN:
        return f"{said}\non the server `slicemamba token create NAME --scope SCOPE` creates a token with more rights"
    if what.endswith("must not contain its folder"):
        return f"{what}; leave it out with --set data.root=null, and set data.name to its name on the server"
    if what.startswith("there is no search"):
        return f"{what}; `slicemamba list` lists all"
    if what.startswith("there is no job"):
        return f"{what}; `slicemamba job list ID` lists those of a search"
    if what.startswith("trial") and what.endswith("is not trained yet"):
        return f"{what}; `slicemamba trial retrain ID N` trains it"
    return said


def _print_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)


if __name__ == "__main__":
    main()
