"""Commands that run jobs on Ray from this terminal: on a cluster by its address, or on a Ray of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cluster.run_folder import RunFolder

ConfigFile = Annotated[Path, typer.Argument(help="Job as YAML, such as configs/kvasir.yaml.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; default: runs/NAME-OF-CONFIG.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override an option: --set search.num_trials=100.")]
Address = Annotated[str | None, typer.Option(help="Ray address; default: RAY_ADDRESS, else a Ray of its own here.")]


def register(app: typer.Typer) -> None:
    """Adds this package's commands."""
    app.command("train-supernet")(train_supernet)
    app.command()(search)
    app.command()(retrain)
    app.command()(audit)
    app.command()(report)


def train_supernet(config: ConfigFile, out: Out = None, overrides: Overrides = None, address: Address = None) -> None:
    """Train the supernet alone. The same folder again: go on where it stopped."""
    values = _read(config, overrides)
    values = {key: value for key, value in values.items() if key not in ("search", "retrain")} | {"kind": "supernet"}
    run = _run(values, config, out, address)
    typer.echo(f"supernet: {run.path / 'supernet'}")


def search(config: ConfigFile, out: Out = None, overrides: Overrides = None, address: Address = None) -> None:
    """Train the supernet, search, retrain the winner and evaluate it. The same folder again: go on where it stopped."""
    from cluster.summary import print_summary

    run = _run(_read(config, overrides) | {"kind": "search"}, config, out, address)
    print_summary(Console(), run.read_json("result.json") or {})
    typer.echo(f"results: {run.path}")


def retrain(
    config: ConfigFile,
    architecture: Annotated[str, typer.Option(help="Such as 's1:2x2,4x4|s2:…', as search and status print it.")],
    out: Out = None,
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Train one architecture from scratch and evaluate it on test."""
    values = _read(config, overrides)
    values = {key: value for key, value in values.items() if key not in ("search", "supernet")}
    run = _run(values | {"kind": "retrain", "architecture": architecture}, config, out, address)
    typer.echo(f"network: {run.path / 'retrained'}")


def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished search.")],
    num_retrained: Annotated[int, typer.Option(min=2, help="Sampled slicings to train from scratch.")] = 8,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each training; default: as the run's retrain.")] = None,
    retrain_seeds: Annotated[int, typer.Option(min=1, help="Trainings of the best and of the best fixed.")] = 3,
    random_seeds: Annotated[int, typer.Option(min=1, help="Random searches at the search's budget.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    address: Address = None,
) -> None:
    """Say how far a search's answer can be trusted: retrain a sample, repeat random search, judge by fixed rules."""
    from cluster.audit import run_audit
    from cluster.progress import progress_view, show_status
    from cluster.run_folder import RunFolder
    from cluster.summary import print_audit
    from nas.audit import AuditConfig

    settings = AuditConfig(
        num_retrained=num_retrained,
        epochs=epochs,
        retrain_seeds=retrain_seeds,
        random_seeds=random_seeds,
        seed=seed,
    )
    folder = RunFolder(run)
    with progress_view(Console(stderr=True)) as view:
        found = run_audit(folder, settings, address=address, on_status=partial(show_status, view))
    print_audit(Console(), found)
    typer.echo(f"audit: {folder.path / 'audit.json'}\nreport: {folder.path / 'report.html'}")


def report(run: Annotated[Path, typer.Argument(help="Folder of a finished search.")]) -> None:
    """Write report.html and the figures of a finished search anew."""
    from cluster.report import write_report
    from cluster.run_folder import RunFolder

    typer.echo(f"report: {write_report(RunFolder(run))}")


def _read(config: Path, overrides: list[str] | None) -> dict[str, Any]:
    from slicemamba.config import override, read_yaml

    return override(read_yaml(config), overrides or [])


def _run(values: dict[str, Any], config: Path, out: Path | None, address: str | None) -> RunFolder:
    """Runs a job in this process, showing its progress."""
    from cluster.config import parse_job
    from cluster.driver import run_job
    from cluster.progress import progress_view, show_status
    from cluster.run_folder import RunFolder

    job = parse_job(values, source=str(config))
    run = RunFolder(out or Path("runs") / config.stem)
    with progress_view(Console(stderr=True)) as view:
        run_job(job, run, address=address, on_status=partial(show_status, view))
    return run
