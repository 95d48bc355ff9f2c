"""The commands ``slicemamba data check`` and ``slicemamba data prepare``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slicemamba.commands import command_line
from slicemamba.errors import InputError
from slicemamba.text import to_json

if TYPE_CHECKING:
    from slicemamba.config import DataConfig
    from slicemamba.data.prepare import Kind, Prepared
    from slicemamba.data.reports import DatasetReport

FAULTS = 2  # exit code, as for all bad input
_FEW_VALUES = 10  # of masks with labels; those of grey borders are far more

data = typer.Typer(name="data", help="Check a data set, or create one from a raw download.", no_args_is_help=True)


CheckRest = Callable[[Mapping[str, Any], str], object]
_checks: list[CheckRest] = []


def register(app: typer.Typer, panel: str, check_rest: CheckRest | None = None) -> None:
    """Adds ``data`` and its commands to a panel of the help.

    Args:
        check_rest: checks a whole job's document, of which this package knows ``data`` alone, and where it comes from.
    """
    _checks[:] = [] if check_rest is None else [check_rest]
    app.add_typer(data, rich_help_panel=panel)


@data.command()
def check(
    target: Annotated[Path, typer.Argument(help="A job as YAML, whose `data` is used, or a folder of images.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override an option: --set data.num_classes=9.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="File of the contact sheet; default: contact-sheet-NAME.png.")
    ] = None,
    with_sheet: Annotated[bool, typer.Option("--with-sheet/--no-sheet", help="Draw the contact sheet.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode every file of a data set and report on it. If there are faults, the exit code is 2."""
    from slicemamba.data.checks import check_dataset
    from slicemamba.data.sheet import write_contact_sheet
    from slicemamba.progress import bar

    try:
        config = _data_config(target, overrides or [])
        with bar("Check", "images") as on_progress:
            report = check_dataset(config, on_progress=on_progress)
    except InputError as error:
        if not as_json:
            raise
        typer.echo(to_json({"ok": False, "message": error.message, "faults": error.details}, indent=2))
        raise typer.Exit(FAULTS) from None
    _keep_measured(config, report)
    path = write_contact_sheet(config, sheet or Path(f"contact-sheet-{config.name}.png")) if with_sheet else None
    if as_json:
        drawn = None if path is None else str(path)
        typer.echo(to_json({"ok": True, "contact_sheet": drawn, **report.model_dump(mode="json")}, indent=2))
        return
    _print_report(Console(), report)
    if path is not None:
        typer.echo(f"contact sheet: {path}  (look at it: no rule detects a shifted mask)")
    if target.is_dir():
        options = [f"data.name={config.name}", f"data.root={target}", *(overrides or [])]
        _print_next(["search", "laptop", *(part for option in options for part in ("--set", option))])
    else:
        _print_next(["search", str(target), *(part for option in overrides or [] for part in ("--set", option))])


@data.command()
def prepare(
    kind: Annotated[str, typer.Argument(help="isic, kvasir, clinicdb, synapse, or folder for any images and masks.")],
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked download.")],
    destination: Annotated[Path, typer.Argument(help="New folder for the data set.")],
    fractions: Annotated[str, typer.Option(help="Shares of train, val, search and test.")] = "0.5,0.15,0.15,0.2",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose group is the patient in a file's name.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV with name,group: images of a group stay together.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the images below SOURCE, if not the usual one.")] = None,
    masks: Annotated[str | None, typer.Option(help="Folder of the masks below SOURCE, if not the usual one.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Masks hold class labels: keep them as they are.")] = False,
    marked: Annotated[
        bool, typer.Option("--marked", help="Whatever is not 0 in a mask is marked, as where masks number objects.")
    ] = False,
    colours: Annotated[
        str | None,
        typer.Option(help="Classes of masks in colour, background first: '#000000=background,#ff0000=polyp'."),
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="Values that masks mean, 0,128,255; others become the nearest.")
    ] = None,
    resize_masks: Annotated[
        bool, typer.Option("--resize-masks", help="Bring masks of another size to that of their image.")
    ] = False,
    pairs: Annotated[
        Path | None, typer.Option(help="CSV or JSON with the files of each image and mask, relative to SOURCE.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns of --pairs: image,mask or image,mask,group.")] = None,
    ignore: Annotated[
        int | None, typer.Option(min=0, help="Value of mask pixels to be left out of training and scores.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=16, help="Channels of an image: 4 for RGBA, 1 for grey.")
    ] = None,
    per_channel: Annotated[
        bool | None,
        typer.Option("--per-channel/--together", help="Scale channels on their own, or all together like colours."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Values of volumes that become 0 and 1: --window=-125,275 for abdominal CT.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes for tables and reports: background,polyp.")
    ] = None,
    published_test: Annotated[
        bool, typer.Option("--published-test", help="Synapse: test on the 12 published cases.")
    ] = False,
) -> None:
    """Create split folders from a raw download, keeping each patient in one split."""
    from slicemamba.data.colours import parse_colours
    from slicemamba.data.convert import Reading
    from slicemamba.data.description import read_description
    from slicemamba.data.prepare import SplitPlan, read_groups
    from slicemamba.data.prepare_pictures import prepare_pictures
    from slicemamba.data.prepare_synapse import prepare_synapse
    from slicemamba.progress import bar

    chosen = _kind(kind)
    if groups and patient_pattern:
        raise InputError("--groups and --patient-pattern both tell the patients; give one of them")
    if labels and marked:
        raise InputError("--labels keeps the values of masks and --marked does not; give one of them")
    plan = SplitPlan(_shares(fractions), seed, _pattern(patient_pattern), read_groups(groups) if groups else None)
    given: dict[str, object] = {
        "--images": images,
        "--masks": masks,
        "--patient-pattern": patient_pattern,
        "--classes": classes,
        "--marked": marked,
        "--ignore": ignore is not None,
        "--channels": channels,
        "--colours": colours,
        "--values": values,
        "--resize-masks": resize_masks,
        "--pairs": pairs,
        "--columns": columns,
        "--window": window,
        "--per-channel": per_channel is not None,
    }
    _refuse_unused(chosen, given | {"--published-test": published_test})
    with bar("Prepare", "volumes" if chosen == "synapse" else "images") as on_progress:
        if chosen == "synapse":
            made = prepare_synapse(
                source, destination, plan, published_test=published_test, keep_labels=labels, on_progress=on_progress
            )
        else:
            made = prepare_pictures(
                chosen,
                source,
                destination,
                plan,
                folders=(images, masks),
                reading=Reading(
                    threshold=not labels and colours is None,
                    any_value=marked,
                    ignore_label=ignore,
                    colours=None if colours is None else parse_colours(colours),
                    values=_numbers(values),
                    resize_masks=resize_masks,
                    channels=channels or 3,
                    per_channel=per_channel,
                    window=_window(window),
                ),
                class_names=None if classes is None else tuple(name.strip() for name in classes.split(",")),
                table=pairs,
                columns=[] if columns is None else columns.split(","),
                on_progress=on_progress,
            )
    described = read_description(destination)
    told = labels or marked or colours is not None or ignore is not None
    kept = told or (described.num_classes, described.label_map) != (1, None)
    _print_prepared(Console(), made, destination, labels=labels, asks=not kept)


@data.command("export-nnunet")
def export_to_nnunet(
    target: Annotated[Path, typer.Argument(help="A job as YAML, whose `data` is used, or a folder of images.")],
    destination: Annotated[Path, typer.Argument(help="New folder, named as nnU-Net asks: Dataset027_Polyps.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override an option: --set data.num_classes=9.")
    ] = None,
) -> None:
    """Write a data set of pictures as an nnU-Net raw data set, with the same splits."""
    from slicemamba.data.export_nnunet import SPLITS_FILE, export_nnunet
    from slicemamba.progress import bar

    with bar("Export", "images") as on_progress:
        written = export_nnunet(_data_config(target, overrides or []), destination, on_progress)
    counts = ", ".join(f"{name} {count}" for name, count in written.items())
    typer.echo(f"{destination}: {counts}; copy {SPLITS_FILE} into nnU-Net's preprocessed folder of the set")


def _kind(text: str) -> Kind:
    from slicemamba.data.prepare import Kind

    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if kind == text:
            return kind
    raise InputError(f"kind must be one of {', '.join(kinds)}; got {text!r}")


def _refuse_unused(kind: Kind, given: dict[str, object]) -> None:
    """An option that would do nothing is told, not passed over."""
    for option, value in given.items():
        if value and (option == "--published-test") != (kind == "synapse"):
            raise InputError(f"{option} has no effect for {kind}; leave it out")


def _shares(text: str) -> tuple[float, float, float, float]:
    try:
        train, val, search, test = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"fractions must look like 0.5,0.15,0.15,0.2; got {text!r}") from None
    return train, val, search, test


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"values must look like 0,128,255; got {text!r}") from None
    if len(set(found)) < 2 or min(found) < 0 or max(found) > 65535:
        raise InputError(f"values must be at least two of 0 to 65535; got {text!r}")
    return found


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"window must look like --window=-125,275; got {text!r}") from None
    if not low < high:
        raise InputError(f"window must be (low, high) with low below high; got {text!r}")
    return low, high


def _pattern(text: str | None) -> str | None:
    """Checked as in a config."""
    from slicemamba.config import DataConfig, validate

    config: DataConfig = validate(DataConfig, {"patient_pattern": text}, source="--patient-pattern")
    return config.patient_pattern


def _data_config(target: Path, overrides: list[str]) -> DataConfig:
    """The ``data`` of a job file, or one made for a folder; Synapse folders have nine classes unless told otherwise."""
    from slicemamba.config import DataConfig, validate
    from slicemamba.data.catalog import resolve_root
    from slicemamba.data.description import Description, read_description
    from slicemamba.data.synapse import is_synapse
    from slicemamba.documents import override, read_yaml

    if target.is_dir():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", target.resolve().name).strip("-._")[:64] or "data"
        values: dict[str, Any] = {"data": {"name": name, "root": str(target)}}
        described = read_description(target).model_copy(update={"measured": {}})
        if is_synapse(target) and described == Description():
            values["data"] |= {"num_classes": 9, "intensity": "unit"}
    else:
        values = read_yaml(target)
    values = override(values, overrides)
    for check_rest in _checks:
        check_rest(values, str(target))
    config: DataConfig = validate(DataConfig, values.get("data", {}), source=f"data of {target}")
    return resolve_root(config)


def measured_folder(target: Path) -> tuple[DataConfig, DatasetReport]:
    """A folder's data and its report: of the last check, or of one now where there was none or something has changed.

    Raises:
        InputError: faults of the data.
    """
    from slicemamba.data.checks import check_dataset, measured_before
    from slicemamba.progress import bar

    config = _data_config(target, [])
    report = measured_before(config)
    if report is None:
        with bar("Check", "images") as on_progress:
            report = check_dataset(config, on_progress=on_progress)
        _keep_measured(config, report)
    return config, report


def _keep_measured(config: DataConfig, report: DatasetReport) -> None:
    """In the folder's ``dataset.yaml``, where it can be written."""
    from slicemamba.data.description import FILE, write_measured

    if config.root is None:
        return
    try:
        write_measured(config.root, report.model_dump(mode="json", exclude_defaults=True))
    except OSError as error:
        typer.echo(f"{config.root / FILE} was not written ({error.strerror}); nothing else depends on it", err=True)


def _print_prepared(console: Console, made: Prepared, destination: Path, *, labels: bool, asks: bool) -> None:
    from slicemamba.data.description import read_description
    from slicemamba.data.dicom import TELL
    from slicemamba.data.prepare_pictures import VOID, is_void

    table = Table("split", "images", "groups", title=escape(str(destination)))
    for split, count in made.num_images.items():
        table.add_row(split, str(count), str(made.num_groups[split]))
    console.print(table)
    if made.most_intermediate is not None:
        name, share = made.most_intermediate
        console.print(
            f"{made.num_intermediate_pixels} mask pixels were neither black nor white and were thresholded at half "
            f"scale; most in {escape(name)} ({share:.2%})",
            highlight=False,
        )
    values = made.mask_values or []
    if asks and 2 < len(values) <= _FEW_VALUES:
        console.print(
            f"[yellow]the masks contain only the values {', '.join(f'{value:g}' for value in values)}; if these are "
            "class labels, prepare them again with --labels[/]",
            highlight=False,
        )
    if labels and is_void(values) and read_description(destination).ignore_label == VOID:
        console.print(
            "[yellow]255 is taken for pixels without a label, as in VOC, which are left out of training and scores; if "
            "it is a class, give it a number of its own in label_map and num_classes of dataset.yaml[/]",
            highlight=False,
            soft_wrap=True,
        )
    if made.num_united:
        console.print(f"{made.num_united} images have several masks, which were united", highlight=False)
    if made.num_alike:
        console.print(f"{made.num_alike} pairs of images look alike and were kept together", highlight=False)
    if made.from_dicom:
        console.print(TELL, highlight=False, soft_wrap=True)
    if made.num_left_out:
        console.print(f"{made.num_left_out} volumes have no labels and were left out")
    _print_next(["data", "check", str(destination)])


def _print_next(arguments: list[str]) -> None:
    """The command to go on with, to be copied whole."""
    typer.echo(f"next: {command_line(*arguments)}")


def _class_name(report: DatasetReport, label: int, classes: int) -> str:
    if report.class_names is not None:
        return report.class_names[label]
    return "marked" if classes == 2 else f"class {label}"


def _print_report(console: Console, report: DatasetReport) -> None:
    splits = list(report.num_images)
    table = Table("", *splits, title=report.name)
    table.add_row("images", *(str(report.num_images[split]) for split in splits))
    if report.num_patients:
        table.add_row("patients", *(str(report.num_patients.get(split, "-")) for split in splits))
    classes = len(report.class_share["train"])
    for label in range(1, classes):
        shares = (f"{report.class_share[split][label]:.2%}" for split in splits)
        table.add_row(escape(_class_name(report, label, classes)), *shares)
    console.print(table)
    sizes = ["×".join(map(str, size)) for size in (report.smallest_size, report.largest_size)]
    console.print(f"height×width: {sizes[0]}" + (f" to {sizes[1]}" if sizes[0] != sizes[1] else ""))
    if report.value_range is not None:
        console.print(f"values: {report.value_range[0]:g} to {report.value_range[1]:g}")
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    console.print("no faults" if not report.warnings else f"no faults, {len(report.warnings)} warnings")
