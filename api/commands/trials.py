"""Commands on trials of a search, and on the jobs that follow it: ``slicemamba trial …`` and ``slicemamba job …``.

``slicemamba retrain``, ``export``, ``figures`` and ``audit`` work on files and folders of this machine; these here
ask a service, and so they stand under what they are about.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.client import tables
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
    follow_job,
    show_logs,
    study_of,
)
from slicemamba.cli import SERVICE
from slicemamba.documents import override
from slicemamba.text import to_json

if TYPE_CHECKING:
    from api.client.http import Client
    from api.schemas import Job

Number = Annotated[
    int, typer.Argument(metavar="N", min=0, help="The trial's number, as shown by `trials` and `pareto`.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as printed by `job list`.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Wait for the job and download its files to this folder.")
]

trial = typer.Typer(help="Inspect, retrain, export or draw a trial of a search on the service.")
job = typer.Typer(help="Follow-up jobs of a search on the service: start audits; list, follow and cancel jobs.")


def register(app: typer.Typer) -> None:
    """Adds the groups."""
    app.add_typer(trial, name="trial", rich_help_panel=SERVICE)
    app.add_typer(job, name="job", rich_help_panel=SERVICE)


class Init(StrEnum):
    """From what weights a trial is retrained."""

    search = "search"
    scratch = "scratch"
    supernet = "supernet"


class Format(StrEnum):
    """What an export holds."""

    bundle = "bundle"
    torch = "torch"
    onnx = "onnx"


@trial.command("show")
def show_trial(
    search_id: SearchId, number: Number, baseline: Baseline = False, as_json: Json = False, url: Url = None
) -> None:
    """Show the metrics of a trial."""
    with connect(url) as client:
        found = client.trial(client.resolve(search_id), number, study=study_of(baseline))
    tables.show(found, tables.trial(found), as_json=as_json)


@trial.command("images")
def show_images(
    search_id: SearchId,
    number: Number,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number.")] = 20,
    baseline: Baseline = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """List Dice and IoU of each image of the search split, worst first."""
    with connect(url) as client:
        found = client.trial_images(client.resolve(search_id), number, study=study_of(baseline))
    tables.show(found, tables.images(found, limit), as_json=as_json)


@trial.command()
def retrain(
    search_id: SearchId,
    number: Number,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=VALUE", help="Override a training option: --set epochs=100.")
    ] = None,
    init: Annotated[
        Init, typer.Option(help="Weights to start from; search: as for the search's winner.")
    ] = Init.search,
    baseline: Baseline = False,
    watch: Watch = False,
    out: Out = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Train a trial's slicing in the same way as the search's winner, and score it on test."""
    options = override({}, assignments or [])
    with connect(url) as client:
        made = client.retrain(
            client.resolve(search_id), number, study=study_of(baseline), options=options, init=init.value
        )
        _started(client, made, watch, out, as_json)


@trial.command()
def export(
    search_id: SearchId,
    number: Number,
    format: Annotated[
        Format, typer.Option(help="bundle: every program; torch or onnx: only that one.")
    ] = Format.bundle,
    baseline: Baseline = False,
    watch: Watch = False,
    out: Out = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Export a trained trial as a bundle. All trials but the winner need `trial retrain` first."""
    with connect(url) as client:
        made = client.export(client.resolve(search_id), number, study=study_of(baseline), format=format.value)
        _started(client, made, watch, out, as_json, inside="/bundle")


@trial.command()
def figures(
    search_id: SearchId,
    number: Number,
    images: Annotated[int, typer.Option(min=1, max=64, help="Maximum number: half the worst, half the best.")] = 8,
    baseline: Baseline = False,
    watch: Watch = False,
    out: Out = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Draw a trial's predictions on the search split, with the supernet's weights."""
    with connect(url) as client:
        made = client.figures(client.resolve(search_id), number, study=study_of(baseline), images=images)
        _started(client, made, watch, out, as_json)


@job.command()
def audit(
    search_id: SearchId,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=VALUE", help="Override an option: --set num_retrained=8.")
    ] = None,
    watch: Watch = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Start an audit of how far to trust a search. With --watch, print its verdict."""
    settings = override({}, assignments or [])
    with connect(url) as client:
        found = client.resolve(search_id)
        _started(client, client.audit(found, settings), watch, None, as_json)
        if watch:
            result = client.audit_result(found)
            print(
                to_json(result, indent=2)
                if as_json
                else f"{result['verdict']['word']}: {result['verdict']['sentence']}"
            )


@job.command("list")
def list_jobs(search_id: SearchId = "latest", as_json: Json = False, url: Url = None) -> None:
    """List the follow-up jobs of a search, newest first."""
    from api.schemas import JobList

    with connect(url) as client:
        found = JobList(jobs=[*client.jobs(client.resolve(search_id))])
    if not found.jobs and not as_json:
        print("no jobs yet; `slicemamba trial` and `slicemamba job audit` start some", file=sys.stderr)
        return
    tables.show(found, tables.jobs(found), as_json=as_json)


@job.command("show")
def show_job(job_id: JobId, watch: Watch = False, as_json: Json = False, url: Url = None) -> None:
    """Show the state and progress of a job."""
    with connect(url) as client:

        def show() -> None:
            found = client.get_job(job_id)
            tables.show(found, tables.job(found), as_json=as_json)

        if not watch:
            show()
        else:
            files = client.get_job(job_id).kind != "audit"
            follow_job(client, job_id, with_files=files, at_end=show if as_json else lambda: None)


@job.command("logs")
def job_logs(job_id: JobId, tail: Tail = 1000, following: Follow = False, url: Url = None) -> None:
    """Print the log of a job."""
    with connect(url) as client:
        client.get_job(job_id)  # of a search, too, there is a log
        show_logs(client, job_id, tail, following)


@job.command("download")
def download_job(
    job_id: JobId,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    url: Url = None,
) -> None:
    """Download a job's files."""
    with connect(url) as client:
        found = client.get_job(job_id)
        files = fetch(client, found.search_id, out, found.folder)
    print(f"{len(files)} files in {out}")


@job.command("cancel")
def cancel_job(job_id: JobId, as_json: Json = False, url: Url = None) -> None:
    """Stop a job."""
    with connect(url) as client:
        tables.show_state(client.cancel_job(job_id), as_json=as_json)


def _started(client: Client, made: Job, watch: bool, out: Path | None, as_json: bool, *, inside: str = "") -> None:
    """Prints the job; follows it and fetches its files, or those in one folder, where that is asked for."""
    print(made.model_dump_json(indent=2) if as_json else made.id, flush=True)
    if watch or out is not None:
        follow_job(client, made.id, with_files=out is None and made.kind != "audit")
    if out is not None:
        files = fetch(client, made.search_id, out, made.folder + inside)
        print(f"{len(files)} files in {out}", file=sys.stderr)
