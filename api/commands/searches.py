"""Commands on searches of a service, from submission to download."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.client import tables
from api.commands import common as commands
from api.commands.common import (
    Baseline,
    Follow,
    Json,
    SearchId,
    Tail,
    Url,
    Watch,
    connect,
    fetch,
    follow_search,
    show_logs,
    study_of,
)
from api.states import SearchState
from nas.trial import TrialState
from slicemamba.cli import SERVICE
from slicemamba.documents import override, read_yaml
from slicemamba.errors import InputError
from slicemamba.presets import complete_preset
from slicemamba.text import to_json

_SORTED_BY = ("created_at", "name", "dataset", "state")
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Maximum number.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(rich_help_panel=SERVICE)(submit)
    app.command("list", rich_help_panel=SERVICE)(list_searches)
    for command in (status, logs, trials, pareto, download, pause, resume, cancel, extend, delete, events):
        app.command(rich_help_panel=SERVICE)(command)


def submit(
    config: Annotated[
        Path, typer.Argument(help="The search as YAML, or a name from `config list`.", autocompletion=complete_preset)
    ],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override an option.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it and estimate its cost.")] = False,
    watch: Watch = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Check a search, estimate its cost, submit it to the service and print its id."""
    job = override(read_yaml(config), assignments or [])
    with connect(url) as client:
        checked = client.validate(job)
        if dry_run:
            tables.show(checked, tables.validation(checked), as_json=as_json)
            return
        print(tables.cost(checked), file=sys.stderr)
        search = client.submit(job)
        print(search.model_dump_json(indent=2) if as_json else search.id, flush=True)
        if watch:
            follow_search(client, search.id)


def list_searches(
    state: Annotated[
        list[SearchState] | None,
        typer.Option(metavar="STATE", case_sensitive=False, help="Only searches in this state; may be repeated."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only searches with this label; may be repeated.")
    ] = None,
    text: Annotated[str, typer.Option(help="Only searches with this in name, id, labels or data set.")] = "",
    sort: Annotated[
        str, typer.Option(help="created_at, name, dataset or state; with a - in front from the highest value down.")
    ] = "-created_at",
    limit: Limit = 20,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List searches, newest first or by --sort."""
    labels = dict(_split_label(one) for one in label or [])
    if len(labels) < len(label or []):
        raise InputError(f"--label names a key twice, and a search has one value of each; got {', '.join(label or [])}")
    if sort.removeprefix("-") not in _SORTED_BY:
        raise InputError(f"--sort must be one of {', '.join(_SORTED_BY)}, or one with a - in front; got {sort!r}")
    with connect(url) as client:
        page = client.list(states=state or (), labels=labels, text=text, sort=sort, page_size=limit)
    if not page.searches and not as_json:
        asked = state or label or text
        print("no search matches" if asked else "no searches yet; `slicemamba submit` creates one", file=sys.stderr)
        return
    tables.show(page, tables.searches(page), as_json=as_json)


def status(search_id: SearchId = "latest", watch: Watch = False, as_json: Json = False, url: Url = None) -> None:
    """Show the state and progress of a search."""
    with connect(url) as client:
        found = client.resolve(search_id)

        def show() -> None:
            search = client.get(found)
            tables.show(search, tables.search(search), as_json=as_json)

        if not watch:
            show()
        else:
            follow_search(client, found, show if as_json else lambda: None)


def trials(
    search_id: SearchId = "latest",
    state: Annotated[
        list[TrialState] | None,
        typer.Option(metavar="STATE", case_sensitive=False, help="Only trials in this state; may be repeated."),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="number, seconds or a metric; - for largest first: --sort=-dice.")
    ] = "number",
    baseline: Baseline = False,
    limit: Limit = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all trials as comma-separated values.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List the trials of a search."""
    with connect(url) as client:
        found, study, states = client.resolve(search_id), study_of(baseline), state or ()
        if as_csv:
            sys.stdout.write(client.trials_csv(found, study=study, states=states, sort=sort))
            return
        page = client.trials(found, study=study, states=states, sort=sort, page_size=limit)
        names = list(client.get(found).spec["search"]["objectives"])
    key = sort.removeprefix("-")
    if key not in (*names, "number", "seconds"):
        names.insert(0, key)
    tables.show(page, tables.trials(page, names), as_json=as_json)


def pareto(
    search_id: SearchId = "latest",
    objectives: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Objectives, if not the search's own.")
    ] = None,
    baseline: Baseline = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a plot: .png, .pdf, .svg or .html; - draws in the terminal."),
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Show the Pareto frontier of a search as a table and, in a terminal, as a plot."""
    from api.client.figures import draw_pareto, save_pareto

    names = objectives.split(",") if objectives else None
    with connect(url) as client:
        found, study = client.resolve(search_id), study_of(baseline)
        front = client.pareto(found, objectives=names, study=study)
        shown = [objective.name for objective in front.objectives]
        if plot is not None and str(plot) != "-":
            random = [] if baseline else list(client.iter_trials(found, study="random"))
            save_pareto(plot, client.iter_trials(found, study=study), random, shown)
            print(f"written: {plot}", file=sys.stderr)
        drawn = str(plot) == "-" or (plot is None and sys.stdout.isatty())
        every = list(client.iter_trials(found, study=study)) if drawn and not as_json else []
    tables.show(front, tables.pareto(front), as_json=as_json)
    if every:
        print("\n" + draw_pareto(every, [trial.number for trial in front.trials], shown))


def cancel(search_id: SearchId, as_json: Json = False, url: Url = None) -> None:
    """Stop a search and keep what it has found so far."""
    with connect(url) as client:
        tables.show_state(client.cancel(client.resolve(search_id)), as_json=as_json)


def pause(search_id: SearchId, as_json: Json = False, url: Url = None) -> None:
    """Stop a search for now; `resume` continues it where it stopped."""
    with connect(url) as client:
        tables.show_state(client.pause(client.resolve(search_id)), as_json=as_json)


def resume(search_id: SearchId, watch: Watch = False, as_json: Json = False, url: Url = None) -> None:
    """Continue a paused, cancelled or failed search. No finished trial is evaluated again."""
    with connect(url) as client:
        found = client.resolve(search_id)
        tables.show_state(client.resume(found), as_json=as_json)
        if watch:
            follow_search(client, found)


def extend(
    search_id: SearchId,
    num_trials: Annotated[int, typer.Option(min=1, help="New total number of trials.")],
    watch: Watch = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Raise the number of trials of a paused or ended search, and continue it."""
    with connect(url) as client:
        found = client.resolve(search_id)
        tables.show_state(client.extend(found, num_trials), as_json=as_json)
        if watch:
            follow_search(client, found)


def delete(
    search_id: SearchId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
) -> None:
    """Permanently delete an ended search with its trials, networks and figures."""
    with connect(url) as client:
        search = client.get(client.resolve(search_id))
        if not yes:
            typer.confirm(f"Delete {search.id} ({search.name}, {search.state.value}) with all its files?", abort=True)
        client.delete(search.id)
    print(f"{search.id} is deleted", file=sys.stderr)


def logs(
    search_id: SearchId = "latest",
    tail: Tail = 1000,
    following: Follow = False,
    url: Url = None,
) -> None:
    """Print the log of a search's driver."""
    with connect(url) as client:
        found = client.resolve(search_id)
        show_logs(client, found, tail, following)


def events(search_id: SearchId = "latest", url: Url = None) -> None:
    """Print the events of a search as JSON lines until it has ended; for scripts."""
    with connect(url) as client:
        try:
            for event in client.events(client.resolve(search_id), on_lost=commands.tell_lost):
                print(to_json({"id": event.id, "event": event.kind, **event.data}), flush=True)
        except KeyboardInterrupt:
            raise typer.Exit(commands.INTERRUPTED) from None


def download(
    search_id: SearchId = "latest",
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    folder: Annotated[str, typer.Option(help="Only this folder of the run, such as `predictions`.")] = "",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Download the files of a search. Repeat the command to continue an interrupted download."""
    with connect(url) as client:
        files = fetch(client, client.resolve(search_id), out, folder)
    print(to_json([str(path) for path in files]) if as_json else f"{len(files)} files in {out}")


def _split_label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise InputError(f"a label must look like key=value; got {text!r}")
    return key, value
