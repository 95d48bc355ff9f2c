"""Commands that need no cluster. Each ``cli.py`` has ``register``; ``api.cli`` joins them in one command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import slicemamba.data.cli
from slicemamba.presets import complete_preset

if TYPE_CHECKING:
    import torch

    from slicemamba.data.base import SegmentationData
    from slicemamba.evaluation.evaluate import Evaluation
    from slicemamba.evaluation.inference import Segmenter
    from slicemamba.evaluation.volumes import VolumeScores

START, TRAIN, USE, SERVICE = (
    "Get started",
    "Search and train, here or on a cluster",
    "Evaluate and use results",
    "Service",
)
"""Groups of commands in the help."""

NetworkFolder = Annotated[Path, typer.Argument(help="Folder of a run, of the network in it, or of a bundle.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU if there is one.")]
Split = Annotated[str, typer.Option(help="train, val, search or test.")]
OtherData = Annotated[
    Path | None,
    typer.Option(help="Folder of another data set of the same kind: split folders, or images/ and masks/."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
BROKEN_FILES = 3  # exit code: some of many files gave no mask


class PredictMode(StrEnum):
    """How an image is brought to the network's size (slicemamba.evaluation.inference)."""

    resize = "resize"
    window = "window"


def register(app: typer.Typer, check_rest: slicemamba.data.cli.CheckRest | None = None) -> None:
    """Adds this package's commands; ``check_rest`` as of ``slicemamba.data.cli.register``."""
    for command in (evaluate, predict, figures, export):
        app.command(rich_help_panel=USE)(command)
    app.command(rich_help_panel=START)(doctor)
    slicemamba.data.cli.register(app, START, check_rest)
    configs = typer.Typer(help="Configurations that come with the package; commands accept their names.")
    configs.command("list")(list_configs)
    configs.command("show")(show_config)
    app.add_typer(configs, name="config", rich_help_panel=START)


def evaluate(
    network: NetworkFolder,
    split: Split = "test",
    data: OtherData = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores, scores per image, and pictures.")] = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    boundary_tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Also report surface Dice within this many pixels, lesions found, and MONAI's HD95."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained network on a split, with 95 % intervals; also whole volumes, if the data set has any.

    OUT receives evaluation.json, per_image.csv, predictions/ (pictures) and, for volumes, volumes/*.nii.gz.
    """
    from slicemamba.evaluation.metrics import METRICS_VERSION
    from slicemamba.evaluation.per_image import class_scores
    from slicemamba.text import to_json

    on_split = _open(network, split, data, batch_size, device)
    scored, volumes = on_split.score(), on_split.score_volumes(out)
    config, images = on_split.segmenter.config, on_split.images
    values = {"metrics_version": METRICS_VERSION, "data": config.name, "split": split, "images": len(images)}
    intervals = scored.intervals()
    values |= {"metrics": scored.metrics, "intervals": intervals}
    values |= {"classes": class_scores(scored.counts, config.class_names) if scored.is_finite else {}}
    values |= {} if volumes is None else {"volumes": volumes.as_dict()}
    boundaries = {} if boundary_tolerance is None else _boundaries(images, scored, boundary_tolerance)
    values |= {"boundaries": boundaries} if boundaries else {}
    if out is not None:
        _write_evaluation(out, values, images, scored)
    if as_json:
        typer.echo(to_json(values, indent=2))
        return
    table = Table("metric", "value", "95 % interval", title=f"{config.name} / {split}, {len(images)} images")
    for name, value in scored.metrics.items():
        interval = f"{intervals[name].low:.4f} … {intervals[name].high:.4f}" if name in intervals else ""
        table.add_row(name, f"{value:.4f}", interval)
    for name, value in boundaries.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value), "")
    Console().print(table)
    if config.num_classes > 1:
        Console().print(_class_table(values["classes"]))
    if volumes is not None:
        Console().print(_volume_table(volumes))


def figures(
    network: NetworkFolder,
    split: Split = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")] = Path("figures"),
    case: Annotated[
        list[str] | None, typer.Option(help="Image to show in the grid; may be repeated. Default: worst to best.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of pictures of single images.")] = 16,
    data: OtherData = None,
    batch_size: BatchSize = 16,
    device: Device = None,
) -> None:
    """Draw predictions next to the truth, worst first, a grid for a paper, and the distribution of scores."""
    from slicemamba.evaluation.figures import check_cases, save_figures

    on_split = _open(network, split, data, batch_size, device)
    check_cases(on_split.images, case or ())
    files = save_figures(out, on_split.images, on_split.score(), cases=case or (), limit=limit)
    Console(stderr=True).print(
        f"{len(files)} files written to {escape(str(out))}: cases/, grid and scores (PNG and PDF)"
    )


def predict(
    network: NetworkFolder,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Images, volumes, DICOM series, or folders of these.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")] = Path("predictions"),
    mode: Annotated[
        PredictMode,
        typer.Option(help="Resize to the network's size, as in training, or slide a window over the image."),
    ] = PredictMode.resize,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.95, help="Overlap of neighbouring windows, as a share of a window.")
    ] = 0.25,
    flips: Annotated[bool, typer.Option("--flips", help="Average over the image and its 3 mirror images.")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write pictures with outlines.")] = False,
    window: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Volume values that become 0 and 1: --window=-125,275.")
    ] = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Also write DICOM SEG for each series, with its patient's tags.")
    ] = False,
    batch_size: BatchSize = 8,
    device: Device = None,
) -> None:
    """Write a mask for each image or volume. Broken files stop nothing and are listed at the end (exit code 3)."""
    from slicemamba.data.dicom import TELL, TELL_SEG, is_dicom
    from slicemamba.errors import InputError
    from slicemamba.evaluation.inference import InferenceOptions, Segmenter
    from slicemamba.evaluation.inputs import find_inputs, tell_aside
    from slicemamba.evaluation.predict import Outputs, predict_files
    from slicemamba.progress import bar

    roots = tuple(path for path in inputs if path.is_dir())
    outputs = Outputs(out, probabilities, overlay, _parse_window(window), roots, dicom_seg)
    files, aside = find_inputs(inputs, out)
    if dicom_seg and not any(path.is_dir() for path in files):
        raise InputError("--dicom-seg is for folders of a DICOM series, and none is given; leave it out")
    segmenter = Segmenter.load(network, _device(device), InferenceOptions(mode.value, overlap, flips, batch_size))
    with bar("Predict", "images and slices") as on_progress:
        done = predict_files(segmenter, files, outputs, on_progress=on_progress)
    console = Console(stderr=True)
    console.print(
        f"{len(done.masks)} masks written to {escape(str(out))}{escape(tell_aside(aside))}",
        highlight=False,
        soft_wrap=True,
    )
    if any(is_dicom(path) or path.is_dir() for path in files):
        console.print(TELL_SEG if dicom_seg else TELL, highlight=False, soft_wrap=True)
    if done.failed:
        console.print(f"[red]{len(done.failed)} files gave no mask:[/]")
        for reason in done.failed.values():
            console.print(f"  {reason}", highlight=False, markup=False)
        for mend in done.mends:
            console.print(f"Fix: {mend}.", highlight=False, markup=False)
        raise typer.Exit(BROKEN_FILES)


def export(
    network: NetworkFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")] = Path("bundle"),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pt2, portable or onnx; may be repeated. Default: all three.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest allowed difference of a logit.")] = 1e-4,
) -> None:
    """Write a bundle: weights, model card, preprocessing, scores, and programs checked against the network."""
    from slicemamba.evaluation.bundle import export_bundle
    from slicemamba.evaluation.export import FORMATS, check_formats
    from slicemamba.evaluation.inference import Segmenter
    from slicemamba.models.checkpoints import find_network, read_card

    chosen = check_formats(formats or FORMATS)
    model = Segmenter.load(network).network
    console = Console(stderr=True)
    with console.status("export") as status:
        folder = find_network(network)
        artifacts = export_bundle(
            folder, model, read_card(folder), out, chosen, tolerance=tolerance, on_step=status.update
        )
    table = Table("file", "MB", "largest difference", "seconds", title=f"programs in {escape(str(out))}")
    for made in artifacts:
        size = made.file.stat().st_size / 1e6
        table.add_row(made.file.name, f"{size:.1f}", f"{made.error:.1e}", f"{made.seconds:.0f}")
    Console().print(table)


def doctor(
    storage: Annotated[Path, typer.Option(help="Folder for runs, to check.")] = Path("runs"),
) -> None:
    """Check scan backends, GPUs, Ray and storage, and say what to install."""
    from slicemamba.doctor import examine

    signs = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}
    table = Table("", "what", "found")
    faults = 0
    for finding in examine(storage):
        table.add_row(signs[finding.state], finding.topic, escape(finding.text))
        faults += finding.state == "fault"
    Console().print(table)
    if faults:
        typer.echo(f"{faults} to fix first: see the lines marked fault")
        raise typer.Exit(1)
    typer.echo("ready: `slicemamba demo` runs an example, `slicemamba data check FOLDER` checks your images")


def list_configs() -> None:
    """List the configurations that come with the package."""
    from slicemamba.presets import list_presets

    table = Table("name", "for")
    for name, heading in list_presets().items():
        table.add_row(name, heading)
    Console().print(table)


def show_config(
    config: Annotated[
        Path, typer.Argument(help="YAML file, or a name from `config list`.", autocompletion=complete_preset)
    ],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override an option.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as the service takes it.")] = False,
) -> None:
    """Print a configuration, as a start for your own: slicemamba config show laptop > mine.yaml."""
    import yaml

    from slicemamba.documents import override, read_yaml
    from slicemamba.presets import find_config
    from slicemamba.text import to_json

    values = override(read_yaml(config), assignments or [])
    if as_json:
        typer.echo(to_json(values, indent=2))
    elif assignments:
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)
    else:  # comments and all
        typer.echo(find_config(config).read_text(encoding="utf-8"), nl=False)


@dataclass(frozen=True)
class _OnSplit:
    """A network and the split it is to be scored on."""

    segmenter: Segmenter
    images: SegmentationData

    def score(self) -> Evaluation:
        from slicemamba.evaluation.evaluate import evaluate as run
        from slicemamba.progress import bar

        made = self.segmenter
        with bar(f"Evaluate on {self.images.split}", "images") as on_progress:
            return run(
                made.network,
                self.images,
                batch_size=made.options.batch_size,
                device=made.device,
                on_progress=on_progress,
            )

    def score_volumes(self, out: Path | None) -> VolumeScores | None:
        """Of the test split of a set that has volumes; their predictions go to ``out``/volumes."""
        from slicemamba.data.volumes import find_volumes
        from slicemamba.evaluation.volumes import evaluate_volumes
        from slicemamba.progress import bar

        paths = find_volumes(self.segmenter.config) if self.images.split == "test" else []
        if not paths:
            return None
        with bar("Evaluate volumes", "volumes") as on_progress:
            destination = None if out is None else out / "volumes"
            return evaluate_volumes(self.segmenter, paths, destination=destination, on_progress=on_progress)


def _open(folder: Path, split: str, data: Path | None, batch_size: int, device: str | None) -> _OnSplit:
    """A network, and a checked split of its data or of the set in ``data``; all of that where it has no splits."""
    from slicemamba.data.base import load_folders, load_split
    from slicemamba.data.cache import default_cache_dir
    from slicemamba.data.catalog import DATA_ROOT_VARIABLE, list_datasets, resolve_root
    from slicemamba.data.checks import check_dataset
    from slicemamba.data.pairs import plain_folders
    from slicemamba.data.splits import check_split_name
    from slicemamba.errors import InputError
    from slicemamba.evaluation.inference import InferenceOptions, Segmenter

    segmenter = Segmenter.load(folder, _device(device), InferenceOptions(batch_size=batch_size))
    trained = segmenter.config
    config = trained if data is None else trained.model_copy(update={"name": data.name or "data", "root": data})
    if config.root is None and config.name not in list_datasets():  # as of a network that a service has handed out
        raise InputError(
            f"{folder} was trained on {config.name!r}, whose folder is not known here; give it with --data, "
            f"or set {DATA_ROOT_VARIABLE} to the folder that holds it"
        )
    config = resolve_root(config)
    if config.num_classes != trained.num_classes:
        raise InputError(
            f"{folder} tells {trained.num_classes} classes apart, but dataset.yaml in {config.root} has "
            f"{config.num_classes}; give masks of the network's classes"
        )
    check_split_name(split)
    cache_dir = default_cache_dir()
    plain = None if data is None else plain_folders(data)
    if plain is None:
        check_dataset(config, cache_dir=cache_dir)
        images = load_split(config, split, cache_dir)
    else:
        images = load_folders(config, plain, split, cache_dir)
    segmenter.config = config
    return _OnSplit(segmenter, images)


def _boundaries(images: SegmentationData, scored: Evaluation, tolerance: float) -> dict[str, float | int]:
    from slicemamba.evaluation.boundaries import boundary_scores

    return boundary_scores(images.own(scored.labels), images.own(images.masks), images.num_classes, tolerance)


def _write_evaluation(out: Path, values: dict[str, Any], images: SegmentationData, scored: Evaluation) -> None:
    from slicemamba.evaluation.figures import save_predictions
    from slicemamba.evaluation.per_image import image_rows, write_csv
    from slicemamba.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", values)
    write_csv(out / "per_image.csv", image_rows(images.names, scored))
    save_predictions(out / "predictions", images, scored)


def _class_table(classes: Any) -> Table:
    """Scores of each class: their mean would hide one that was never found."""
    table = Table("class", "images with it", "Dice", "IoU", "sensitivity", title="by class, pooled over all images")
    for name, row in classes.items():
        table.add_row(
            escape(name), str(row["images"]), *(f"{row[score]:.4f}" for score in ("dice", "iou", "sensitivity"))
        )
    return table


def _volume_table(scores: VolumeScores) -> Table:
    """Cases × classes, each cell Dice over HD95; means in the last row and column. Narrow, for many classes."""
    title = f"volumes by class: Dice, and below it HD95 in {scores.unit}"
    table = Table(
        Column("case", overflow="fold"), *map(str, scores.classes), "mean", title=title, box=box.SIMPLE, pad_edge=False
    )

    def cells(dice: Any, distance: Any) -> list[str]:
        pairs = zip([*dice, dice.mean()], [*distance, distance.mean()], strict=True)
        return [f"{one:.3f}\n{other:.2f}" for one, other in pairs]

    for name, dice, distance in zip(scores.cases, scores.dice, scores.hd95, strict=True):
        table.add_row(escape(name), *cells(dice, distance))
    table.add_section()
    table.add_row("mean", *cells(scores.dice.mean(axis=0), scores.hd95.mean(axis=0)))
    return table


def _parse_window(text: str | None) -> tuple[float, float] | None:
    from slicemamba.errors import InputError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise InputError(f"--window must be two numbers, the lower one first, such as --window=-125,275; got {text!r}")
    return low, high


def _device(name: str | None) -> torch.device:
    """The device of this name, or the fastest there is. Raises InputError where it is unknown or absent."""
    import torch

    from slicemamba.errors import InputError

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if count else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"--device must be cpu, cuda or cuda:N; got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and count <= (device.index or 0):
        raise InputError(f"{name} is not usable here ({count} CUDA devices); leave out --device, or give --device cpu")
    return device
