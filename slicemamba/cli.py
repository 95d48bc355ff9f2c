"""Commands that need no cluster. Each ``cli.py`` has ``register``; ``api.cli`` joins them in one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import slicemamba.data.cli

if TYPE_CHECKING:
    import torch

    from slicemamba.models.checkpoints import NetworkCard
    from slicemamba.models.ensemble import SegmentationNetwork

NetworkFolder = Annotated[Path, typer.Argument(help="Folder of a trained network, such as RUN/retrained.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; the GPU where there is one.")]
BROKEN_FILES = 3  # exit code: some of many files could not be read


def register(app: typer.Typer) -> None:
    """Adds this package's commands."""
    app.command()(evaluate)
    app.command()(predict)
    app.command()(doctor)
    slicemamba.data.cli.register(app)


def evaluate(
    network: NetworkFolder,
    split: Annotated[str, typer.Option(help="train, val, search or test.")] = "test",
    data: Annotated[Path | None, typer.Option(help="Other data than the network was trained on: its folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write predictions beside masks into this folder.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained network on a split: mIoU, Dice, accuracy, specificity, sensitivity, HD95."""
    from slicemamba.data.base import load_split
    from slicemamba.data.cache import default_cache_dir
    from slicemamba.data.checks import check_dataset
    from slicemamba.evaluation.evaluate import evaluate as run
    from slicemamba.evaluation.figures import save_predictions
    from slicemamba.evaluation.metrics import METRICS_VERSION
    from slicemamba.progress import bar

    model, card, on = _load(network, device)
    assert card.data is not None
    config = card.data if data is None else card.data.model_copy(update={"name": data.name or "data", "root": data})
    check_dataset(config, cache_dir=default_cache_dir())
    images = load_split(config, split, default_cache_dir())
    with bar(f"Evaluate on {split}", "images") as on_progress:
        scored = run(model, images, batch_size=batch_size, device=on, on_progress=on_progress)
    if out is not None:
        save_predictions(out, images, scored)
    if as_json:
        values = {"metrics_version": METRICS_VERSION, "data": config.name, "split": split, "metrics": scored.metrics}
        typer.echo(json.dumps(values, indent=2))
        return
    table = Table("metric", "value", title=f"{config.name} / {split}, {len(images)} images")
    for name, value in scored.metrics.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


def predict(
    network: NetworkFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")] = Path("predictions"),
    device: Device = None,
) -> None:
    """Write a mask for each image. Broken files are named at the end (exit code 3) and stop nothing."""
    from slicemamba.evaluation.predict import find_images, predict_files
    from slicemamba.progress import bar

    files = find_images(images)
    model, card, on = _load(network, device)
    assert card.data is not None
    with bar("Predict", "images") as on_progress:
        done = predict_files(model, files, out, config=card.data, device=on, on_progress=on_progress)
    console = Console(stderr=True)
    console.print(f"{len(done.masks)} masks written to {out}")
    if done.failed:
        console.print(f"[red]{len(done.failed)} files could not be read:[/]")
        for reason in done.failed.values():
            console.print(f"  {reason}", highlight=False, markup=False)
        raise typer.Exit(BROKEN_FILES)


def doctor(
    storage: Annotated[Path, typer.Option(help="Folder where runs are to be written.")] = Path("runs"),
) -> None:
    """Say which scan backends, GPUs, Ray and storage are usable, and what to install."""
    from slicemamba.doctor import examine

    signs = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}
    table = Table("", "what", "found")
    faults = 0
    for finding in examine(storage):
        table.add_row(signs[finding.state], finding.topic, finding.text)
        faults += finding.state == "fault"
    Console().print(table)
    if faults:
        raise typer.Exit(1)


def _load(folder: Path, device: str | None) -> tuple[SegmentationNetwork, NetworkCard, torch.device]:
    """Raises InputError for a folder without a plain network, one trained on unknown data, or an absent device."""
    import torch

    from slicemamba.errors import InputError
    from slicemamba.models.checkpoints import load_network, read_card
    from slicemamba.models.supernet import Supernet

    card = read_card(folder)
    network = load_network(folder)
    if isinstance(network, Supernet):
        raise InputError(f"{folder} holds a supernet; give a plain network, such as RUN/retrained")
    if card.data is None:
        raise InputError(f"{folder} does not say what data it was trained on; its config.json needs 'data'")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is usable here; leave out --device, or give --device cpu")
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return network.to(on), card, on
