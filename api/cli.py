"""The command ``slicemamba``: this package's commands, joined with those of the packages below.

Everything heavy is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import cluster.cli
import slicemamba.cli
from api import tables
from slicemamba.config import override, read_yaml
from slicemamba.errors import InputError, RunFailedError

if TYPE_CHECKING:
    from api.client import Client
    from api.tokens import Tokens

app = typer.Typer(
    name="slicemamba",
    help="Finds how a Mamba segmentation network should slice its feature maps for your medical images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
slicemamba.cli.register(app)
cluster.cli.register(app)

SearchId = Annotated[str, typer.Argument(metavar="ID", help="The search's id, as `submit` and `list` print it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it has ended.")]
RunsDir = Annotated[Path | None, typer.Option(help="A folder for each search is made here.")]
Database = Annotated[str | None, typer.Option(help="Run database; a SQLite file in the runs folder by default.")]
Url = Annotated[str | None, typer.Option(help="The service.", envvar="SLICEMAMBA_URL", show_default=False)]


@app.command(rich_help_panel="Service")
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 by default; 0 takes a free one.")] = None,
    runs_dir: RunsDir = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets that requests may name.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray's job server: http://127.0.0.1:8265.")] = None,
    database_url: Database = None,
) -> None:
    """Run the service. Options can be given as SLICEMAMBA_* variables too (docs/api.md)."""
    from api.serving import serve as run
    from api.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "runs_dir": runs_dir, "data_root": data}
    given |= {"ray_address": ray_address, "database_url": database_url}
    run(Settings.from_env(**given))


tokens = typer.Typer(help="Make, list and revoke access tokens; on the server, as they go to its run database.")
app.add_typer(tokens, name="token", rich_help_panel="Service")


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[str, typer.Option(help="read; submit: and start, stop, extend; admin: and delete.")] = "submit",
    runs_dir: RunsDir = None,
    database_url: Database = None,
) -> None:
    """Print a new token. It is shown this once: only its hash is kept."""
    from api.tokens import Scope

    known = [item.value for item in Scope]
    if scope not in known:
        raise InputError(f"--scope must be one of {', '.join(known)}; got {scope!r}")
    row, text = _open_tokens(runs_dir, database_url).create(name, Scope(scope))
    print(f"token {row.id} ({scope}) for {name}; clients take it from SLICEMAMBA_TOKEN:", file=sys.stderr)
    print(text)


@tokens.command("list")
def list_tokens(runs_dir: RunsDir = None, database_url: Database = None) -> None:
    """List tokens, without their secrets."""
    from rich.console import Console

    Console().print(tables.tokens(_open_tokens(runs_dir, database_url).list()))


@tokens.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.")],
    runs_dir: RunsDir = None,
    database_url: Database = None,
) -> None:
    """End a token's validity at once."""
    row = _open_tokens(runs_dir, database_url).revoke(token_id)
    print(f"token {row.id} of {row.name} is revoked")


def _open_tokens(runs_dir: Path | None, database_url: str | None) -> Tokens:
    from api.db import open_database
    from api.settings import Settings
    from api.tokens import Tokens

    return Tokens(open_database(Settings.from_env(runs_dir=runs_dir, database_url=database_url).database))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made anew.")] = Path("demo-output"),
    data: Annotated[Path | None, typer.Option(help="Your own images in the ISIC layout.")] = None,
) -> None:
    """Show the whole way: start Ray and the service, submit a search, follow it, show its result, stop all again."""
    from rich.console import Console

    from api.demo import run_demo

    raise typer.Exit(run_demo(out, data, Console()))


@app.command(rich_help_panel="Service")
def submit(
    config: Annotated[Path, typer.Argument(help="The search as YAML, or a name that `config list` prints.")],
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Set an option.")] = None,
    watch: Watch = False,
    url: Url = None,
) -> None:
    """Submit a search to the service and print its id."""
    job = override(read_yaml(config), assignments or [])
    with _client(url) as client:
        search = client.submit(job)
        print(search.id, flush=True)
        if watch:
            _follow(client, search.id)


@app.command("list", rich_help_panel="Service")
def list_searches(
    state: Annotated[list[str] | None, typer.Option(help="Only searches in this state; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only searches with it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    json: Json = False,
    url: Url = None,
) -> None:
    """List searches, newest first."""
    labels = dict(_split_label(text) for text in label or [])
    with _client(url) as client:
        page = client.list(states=state or [], labels=labels, page_size=limit)
    tables.show(page, tables.searches(page), as_json=json)


@app.command(rich_help_panel="Service")
def status(search_id: SearchId, watch: Watch = False, json: Json = False, url: Url = None) -> None:
    """Tell how far a search is."""
    with _client(url) as client:
        if watch:
            _follow(client, search_id)
        search = client.get(search_id)
    if json or not watch:
        tables.show(search, tables.search(search), as_json=json)


@app.command(rich_help_panel="Service")
def trials(
    search_id: SearchId,
    state: Annotated[list[str] | None, typer.Option(help="Only trials in this state; may be repeated.")] = None,
    baseline: Annotated[bool, typer.Option("--random", help="Those of the random baseline.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 1000,
    json: Json = False,
    url: Url = None,
) -> None:
    """List the trials of a search."""
    with _client(url) as client:
        page = client.trials(search_id, study="random" if baseline else "search", states=state or [], page_size=limit)
    tables.show(page, tables.trials(page), as_json=json)


@app.command(rich_help_panel="Service")
def pareto(
    search_id: SearchId,
    objectives: Annotated[str | None, typer.Option(metavar="A,B,…", help="Others than the search's own.")] = None,
    baseline: Annotated[bool, typer.Option("--random", help="That of the random baseline.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show the Pareto frontier of a search."""
    names = objectives.split(",") if objectives else None
    with _client(url) as client:
        front = client.pareto(search_id, objectives=names, study="random" if baseline else "search")
    tables.show(front, tables.pareto(front), as_json=json)


@app.command(rich_help_panel="Service")
def cancel(search_id: SearchId, url: Url = None) -> None:
    """Stop a search. What it has found so far is kept."""
    with _client(url) as client:
        print(client.cancel(search_id).state.value)


@app.command(rich_help_panel="Service")
def pause(search_id: SearchId, url: Url = None) -> None:
    """Stop a search for now; `resume` lets it go on from where it stopped."""
    with _client(url) as client:
        print(client.pause(search_id).state.value)


@app.command(rich_help_panel="Service")
def resume(search_id: SearchId, watch: Watch = False, url: Url = None) -> None:
    """Let a paused, cancelled or failed search go on. No finished trial is evaluated again."""
    with _client(url) as client:
        print(client.resume(search_id).state.value, flush=True)
        if watch:
            _follow(client, search_id)


@app.command(rich_help_panel="Service")
def extend(
    search_id: SearchId,
    num_trials: Annotated[int, typer.Option(min=1, help="The new total of trials.")],
    watch: Watch = False,
    url: Url = None,
) -> None:
    """Raise the number of trials of a search that is paused or has ended, and let it go on."""
    with _client(url) as client:
        print(client.extend(search_id, num_trials).state.value, flush=True)
        if watch:
            _follow(client, search_id)


@app.command(rich_help_panel="Service")
def logs(
    search_id: SearchId,
    tail: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many last lines.")] = 1000,
    url: Url = None,
) -> None:
    """Print what a search's driver has printed."""
    with _client(url) as client:
        print(client.logs(search_id, tail=tail), end="")


@app.command(rich_help_panel="Service")
def download(
    search_id: SearchId,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    url: Url = None,
) -> None:
    """Fetch all files of a search."""
    with _client(url) as client:
        files = client.download(search_id, out)
    print(f"{len(files)} files in {out}")


def _client(url: str | None) -> Client:
    from api.client import Client

    return Client(url)


def _follow(client: Client, search_id: str) -> None:
    """Exit code 1 when the search does not succeed; an interrupt leaves it running."""
    from api.states import SearchState
    from api.watch import watch

    try:
        search = watch(client, search_id)
    except KeyboardInterrupt:
        print(
            f"the search goes on; `slicemamba status {search_id} --watch` follows it again, "
            f"`slicemamba cancel {search_id}` stops it",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if search.state is not SearchState.SUCCEEDED:
        raise typer.Exit(1)


def _split_label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise InputError(f"a label must look like key=value; got {text!r}")
    return key, value


def main() -> None:
    """Entry point of ``slicemamba``. Exit codes: 0 done, 1 failed, 2 bad input or nobody to ask."""
    try:
        app()
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        message, code = found
        _print_error(message)
        sys.exit(code)


def explain(error: Exception) -> tuple[str, int] | None:
    """What to tell the user about an error, and the exit code; None for a fault of the program."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, RunFailedError):
        return str(error), 1
    if "api.client" not in sys.modules:  # then it can be none of its errors, and importing it would take time
        return None
    from api.client import ApiError, ApiUnreachableError

    if isinstance(error, ApiUnreachableError):
        return f"{error}; start it with `slicemamba serve`, or set SLICEMAMBA_URL to where it runs", 2
    if isinstance(error, ApiError):
        return str(error), 2 if error.status < 500 else 1
    return None


def _print_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)


if __name__ == "__main__":
    main()
