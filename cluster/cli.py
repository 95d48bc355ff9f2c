"""Commands that run jobs on Ray from this terminal: on a cluster by its address, or on a Ray of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from slicemamba.cli import TRAIN, USE
from slicemamba.commands import command_line
from slicemamba.presets import complete_preset

if TYPE_CHECKING:
    from cluster.config import Job
    from cluster.run_folder import RunFolder

ConfigFile = Annotated[
    Path,
    typer.Argument(help="Job as YAML, or a name from `config list`, such as kvasir.", autocompletion=complete_preset),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; default: runs/NAME-OF-CONFIG.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override an option; may be repeated.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray address; `local` starts Ray on this machine, `none` does all in this process. Default: RAY_ADDRESS, "
        "otherwise `none` for jobs of one worker at a time, else `local`."
    ),
]

INTERRUPTED = 130  # exit code
Kind = Literal["search", "supernet", "retrain", "pretrain"]
_COMMANDS = {"search": "search", "supernet": "train-supernet", "retrain": "retrain", "pretrain": "pretrain"}
_ALSO_TAKEN: dict[str, tuple[str, ...]] = {  # kinds that hold all that the other needs
    "search": (),
    "supernet": ("search",),
    "retrain": ("search", "supernet"),
    "pretrain": (),
}

ArchitectureText = Annotated[
    str | None,
    typer.Option(help="Slicing, as printed by search and status: 's1:2x2,4x4|s2:…'; or 2x2 for every block."),
]
NetworkKind = Annotated[
    str | None, typer.Option(help="slicemamba (with --architecture), or for comparison vm_unet, unet, attention_unet.")
]


def register(app: typer.Typer) -> None:
    """Adds this package's commands."""
    app.command(rich_help_panel=TRAIN)(plan)
    app.command(rich_help_panel=TRAIN)(search)
    app.command(rich_help_panel=TRAIN)(retrain)
    app.command("train-supernet", rich_help_panel=TRAIN)(train_supernet)
    app.command(rich_help_panel=TRAIN)(pretrain)
    app.command("cross-validate", rich_help_panel=TRAIN)(cross_validate)
    for command in (report, audit, pick, compare, restore, repair):
        app.command(rich_help_panel=USE)(command)


def pretrain(
    config: ConfigFile,
    architecture: ArchitectureText = None,
    out: Out = None,
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Train an encoder as an image classifier; retrain from it with --set init=RUN/pretrained."""
    values = _read(config, overrides, "pretrain")
    run = _run(_with_architecture(values, config, architecture), config, out, address)
    best = (run.read_json("result.json") or {})["pretrained"]["best_epoch"]
    typer.echo(f"top-1 {best['val_top1']:.4f}, top-5 {best['val_top5']:.4f} on val, in epoch {best['epoch']}")
    typer.echo(f"encoder: {run.path / 'pretrained'}")


def train_supernet(config: ConfigFile, out: Out = None, overrides: Overrides = None, address: Address = None) -> None:
    """Train only the supernet. Repeat the command to resume."""
    run = _run(_read(config, overrides, "supernet"), config, out, address)
    typer.echo(f"supernet: {run.path / 'supernet'}")


def search(
    config: ConfigFile,
    out: Out = None,
    overrides: Overrides = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Take the folder of a data set in place of a job, and plan one for it.")
    ] = False,
    address: Address = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only check, plan, and try one training step; --auto keeps the plan."),
    ] = False,
) -> None:
    """Train the supernet, search, retrain the winner and evaluate it. Repeat the command to resume."""
    from cluster.summary import print_summary

    if auto:
        config = _planned(config, out)
    values = _read(config, overrides, "search")
    if dry_run:
        _dry_run(values, config, address)
        return
    run = _run(values, config, out, address)
    print_summary(Console(), run.read_json("result.json") or {})
    typer.echo(f"report: {run.path / 'report.html'}")
    typer.echo(f"next, how far to trust it: {command_line('audit', str(run.path))}")


def retrain(
    config: ConfigFile,
    architecture: ArchitectureText = None,
    network: NetworkKind = None,
    out: Out = None,
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Train one network, from scratch or from the weights named by init, and evaluate it on test."""
    from cluster.summary import print_retrained

    run = _run(_retrain_values(config, overrides, architecture, network), config, out, address)
    print_retrained(Console(), run.read_json("result.json") or {})
    typer.echo(f"network: {run.path / 'retrained'}")


def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished search.")],
    num_retrained: Annotated[int, typer.Option(min=2, help="Sampled slicings to train from scratch.")] = 8,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of each training; default: as in the run's retrain.")
    ] = None,
    retrain_seeds: Annotated[int, typer.Option(min=1, help="Seeds from which the best and its rival are trained.")] = 3,
    random_seeds: Annotated[int, typer.Option(min=1, help="Random searches with the search's budget.")] = 3,
    margin: Annotated[float, typer.Option(help="Loss of score that counts as none for a cheaper network.")] = 0.01,
    cheaper_members: Annotated[int, typer.Option(min=0, help="Cheaper members of the frontier to judge.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the resampling.")] = 0,
    address: Address = None,
) -> None:
    """Say how far to trust a search: retrain a sample, repeat random search, judge by fixed rules."""
    from cluster.audit import run_audit
    from cluster.progress import progress_view, show_status
    from cluster.run_folder import RunFolder
    from cluster.storage import bring, mirrored
    from cluster.summary import print_audit
    from nas.audit import foresight
    from nas.config import AuditConfig
    from slicemamba.config import validate

    values: dict[str, Any] = {
        "random_seeds": random_seeds,
        "margin": margin,
        "cheaper_members": cheaper_members,
        "seed": seed,
    }
    values |= {"num_retrained": num_retrained, "epochs": epochs, "retrain_seeds": retrain_seeds}
    settings = validate(AuditConfig, values, source="audit")
    folder = RunFolder(run)
    typer.echo(foresight(retrain_seeds, margin), err=True)
    bring(folder, _store())  # as it is, finished: who audits it does not go on with it
    with _resumable(), mirrored(folder, _store()), progress_view(Console(stderr=True)) as view:
        found = run_audit(folder, settings, address=address, on_status=partial(show_status, view))
    print_audit(Console(), found)
    typer.echo(f"audit: {folder.path / 'audit.json'}\nreport: {folder.path / 'report.html'}")


def pick(
    run: Annotated[Path, typer.Argument(help="Folder of a finished search.")],
    at_most: Annotated[
        list[str] | None, typer.Option("--max", metavar="NAME=VALUE", help="Upper limit: latency_ms=20, params=2M.")
    ] = None,
    at_least: Annotated[
        list[str] | None, typer.Option("--min", metavar="NAME=VALUE", help="Lower limit: dice=0.8.")
    ] = None,
    members: Annotated[
        str | None, typer.Option(help="In place of limits: knee, all, or how many, spread over the frontier.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the network; of several, a folder each in it.")
    ] = None,
    retrain: Annotated[bool, typer.Option(help="Train as the search's winner was, and evaluate on test.")] = False,
    address: Address = None,
) -> None:
    """Choose a network of the frontier for a budget, and save it with weights."""
    from cluster.config import retraining
    from cluster.initial import init_source
    from cluster.pick import network_of, print_pick
    from cluster.report import finished_search
    from cluster.run_folder import RunFolder
    from nas.pick import chosen_members, parse_bounds
    from nas.pick import pick as pick_member
    from slicemamba.config import TrainConfig
    from slicemamba.errors import InputError

    folder = RunFolder(run)
    job, result = finished_search(folder), folder.read_json("result.json") or {}
    front, objectives = result["pareto"], result["objectives"]
    if members is None:
        found = pick_member(front, objectives, parse_bounds(at_most or [], at_least or []))
        print_pick(Console(), found, objectives)
        chosen = [found.row]
    else:
        if at_most or at_least:
            raise InputError("give limits (--max, --min) or --members, not both")
        chosen = chosen_members(front, objectives, members)
    target = out or run / "picked"
    if retrain:
        _warn_not_stored(target)
    for row in chosen:
        place = target if out is not None and len(chosen) == 1 else target / f"{row['number']:05d}"
        if retrain:
            chosen_one = {"architecture": row["architecture"], "init": init_source(job, folder)}
            one = retraining(job, job.retrain or TrainConfig(), **chosen_one)
            _run_job(one, RunFolder(place), address)
            typer.echo(f"trial {row['number']}: retrained, in {place / 'retrained'}")
        else:
            typer.echo(f"trial {row['number']}: {network_of(folder, row, place)}, in {place}")


def report(run: Annotated[Path, typer.Argument(help="Folder of a finished search.")]) -> None:
    """Rewrite report.html and the figures of a finished search."""
    from cluster.report import write_report
    from cluster.run_folder import RunFolder

    typer.echo(f"report: {write_report(RunFolder(run))}")


def restore(
    run: Annotated[Path, typer.Argument(help="Folder of the run; in the store it has the same name.")],
    store: Annotated[str | None, typer.Option(help="s3://BUCKET/PREFIX.", envvar="SLICEMAMBA_STORE")] = None,
) -> None:
    """Download a run and its follow-up jobs from the object store if local folders are missing or older."""
    from cluster.run_folder import RunFolder
    from cluster.storage import bring_all
    from slicemamba.errors import InputError

    if store is None:
        raise InputError("no object store is given; use --store or set SLICEMAMBA_STORE")
    brought = bring_all(RunFolder(run), store)
    typer.echo(f"downloaded: {', '.join(brought)}" if brought else f"the store has nothing newer than {run}")


def repair(run: Annotated[Path, typer.Argument(help="Folder of the run.")]) -> None:
    """Cut a damaged study off behind its last whole record; repeat the run's command to evaluate the rest anew."""
    from cluster.attempts import check_no_audit, only_driver
    from cluster.run_folder import JOURNAL, RunFolder
    from nas.damage import cut_damage
    from slicemamba.errors import InputError

    folder = RunFolder(run)
    journal = folder.path / JOURNAL
    if not journal.is_file():
        raise InputError(f"{journal} does not exist: give the folder of a search, whose trials are kept in a file")
    with only_driver(folder):  # no driver writes to it meanwhile
        check_no_audit(folder)
        cut = cut_damage(journal)
        if cut is not None and folder.result_path.exists():
            folder.set_aside_result()  # else the run would count as finished without the trials that were lost
    if cut is None:
        typer.echo(f"{journal} is whole; nothing was changed")
        return
    damage, aside = cut
    typer.echo(f"{damage}\nthe damaged file is now {aside.name}; repeat the run's command to evaluate the rest anew")


def cross_validate(
    config: ConfigFile,
    folds: Annotated[int, typer.Option(min=2, help="Parts of train and val; each is held out once.")] = 5,
    architecture: ArchitectureText = None,
    network: NetworkKind = None,
    last_epoch: Annotated[
        bool, typer.Option("--last-epoch", help="Keep each fold's last epoch, not the best on its held-out images.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the folds; default: runs/NAME-OF-CONFIG-folds.")
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
) -> None:
    """Train one network per fold; score all held-out images together, and the folds' ensemble on test."""
    from cluster.config import RetrainJob, parse_job
    from cluster.cross_validate import conclude, fold_jobs, print_cross_validation
    from cluster.run_folder import RunFolder

    values = _retrain_values(config, overrides, architecture, network)
    job = parse_job(values, source=str(config))
    assert isinstance(job, RetrainJob)
    if last_epoch:
        job = job.model_copy(update={"retrain": job.retrain.model_copy(update={"validate_every": job.retrain.epochs})})
    run = RunFolder(out or Path("runs") / f"{config.stem}-folds")
    _warn_not_stored(run.path)
    for fold, (part, folder) in enumerate(fold_jobs(job, folds, run), 1):
        typer.echo(f"Fold {fold} of {folds}: {folder.path}", err=True)
        _run_job(part, folder, address)
    print_cross_validation(Console(), conclude(job, folds, run, address or _default_address(job)))
    typer.echo(f"ensemble: {run.path / 'ensemble'}")


def compare(
    networks: Annotated[
        list[str],
        typer.Argument(
            help="Runs or networks; trainings of one from several seeds joined by commas. The first is compared with."
        ),
    ],
    split: Annotated[str, typer.Option(help="train, val, search or test.")] = "test",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write OUT.md and OUT.csv.")] = None,
) -> None:
    """Compare trained networks on the same images, with intervals and published figures."""
    import torch
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from slicemamba.data.cache import default_cache_dir
    from slicemamba.data.splits import check_split_name
    from slicemamba.evaluation.compare import comparison_tables, enter_trainings, write_tables
    from slicemamba.progress import bar

    check_split_name(split)
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    groups = [[Path(text)] if Path(text).exists() else [*map(Path, text.split(","))] for text in networks]
    entrants = [
        enter_trainings(paths, split, default_cache_dir(), on, progress=partial(bar, f"Evaluate {text}", "images"))
        for text, paths in zip(networks, groups, strict=True)
    ]
    console = Console()
    for text in comparison_tables(entrants):
        header, *lines = zip(text.header, *text.rows, strict=True)  # a column a network, which is narrow enough
        table = Table(*map(escape, header), show_lines=True)
        for line in lines:
            table.add_row(*(escape(cell.replace(" [", "\n[")) for cell in line))
        console.print(Text(text.title, "italic"), table, Text(text.note, "dim"))
    if out is not None:
        typer.echo("written: " + ", ".join(map(str, write_tables(entrants, out))))


def _retrain_values(
    config: Path, overrides: list[str] | None, architecture: str | None, network: str | None
) -> dict[str, Any]:
    """A retrain job out of any job's file."""
    from slicemamba.errors import InputError

    values = _read(config, overrides, "retrain")
    if network is not None:
        values["network"] = network
    if values.get("init") == "supernet":
        raise InputError(
            f"init in {config} means the supernet of the search's own run, and a training by itself has none: give its "
            "folder (--set init=runs/NAME/supernet), or start from scratch (--set init=null)",
            pointer="/init",
        )
    return _with_architecture(values, config, architecture)


def _with_architecture(values: dict[str, Any], config: Path, architecture: str | None) -> dict[str, Any]:
    """The job with the architecture, where one is given; a slice size alone stands for the same in every block."""
    from slicemamba.architecture import parse_block
    from slicemamba.config import ModelConfig, validate

    if architecture is not None and ":" not in architecture:
        model: ModelConfig = validate(ModelConfig, values.get("model", {}), source=f"{config}: model")
        architecture = str(model.uniform(parse_block(architecture)))
    return values if architecture is None else values | {"architecture": architecture}


def _read(config: Path, overrides: list[str] | None, kind: Kind) -> dict[str, Any]:
    """A file's document as a job of this kind; says which parts of it are not used."""
    from cluster.config import check_document, fields_of
    from slicemamba.documents import override, read_yaml

    values = override(read_yaml(config), overrides or [])
    fields = fields_of(kind)
    aside = check_document(values, str(config), used=fields)
    _check_kind(config, values.get("kind", kind), kind)
    if aside:
        typer.echo(f"not used of {config}: {', '.join(aside)}", err=True)
    return {name: value for name, value in values.items() if name in fields} | {"kind": kind}


def plan(
    target: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New YAML file of the job.")] = Path("plan.yaml"),
    longest_side: Annotated[int, typer.Option(min=32, help="Longest side of images in the network, in pixels.")] = 96,
    base: Annotated[str, typer.Option(help="Configuration that gives the other options.")] = "laptop",
    hours: Annotated[float, typer.Option(min=0.01, help="That the whole search may take on this machine.")] = 1.0,
) -> None:
    """Propose a search for a data set from its images and this machine, as YAML with a reason for each option."""
    from cluster.plan import write_plan
    from slicemamba.errors import InputError

    if out.exists():
        raise InputError(f"{out} exists; remove it or give another --out")
    write_plan(target, out, longest_side, base, hours)
    typer.echo(f"written: {out}")
    typer.echo(f"next: {command_line('search', str(out))}")


def _planned(target: Path, out: Path | None) -> Path:
    """The plan for a data set, ``runs/NAME.yaml`` beside its run; one that is there is taken as it is."""
    from cluster.plan import write_plan
    from slicemamba.documents import read_yaml
    from slicemamba.errors import InputError

    if not target.is_dir():
        raise InputError(f"--auto plans a search on the folder of a data set, and {target} is none; leave it out")
    run = out or Path("runs") / target.resolve().name
    plan = run.with_name(f"{run.name}.yaml")
    if plan.exists():
        of = read_yaml(plan).get("data", {}).get("root")
        if of is None or Path(of).expanduser().resolve() != target.resolve():
            raise InputError(
                f"{plan} is a plan for {of}, not for {target.resolve()}: give another folder for the run (--out), or "
                "remove it"
            )
        typer.echo(f"plan: {plan}, which is there; remove it for a new one", err=True)
        return plan
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_plan(target, plan)
    typer.echo(f"plan: {plan}; edit it and repeat the command to change it", err=True)
    return plan


def _check_kind(config: Path, given: str, wanted: Kind) -> None:
    """Raises InputError where a file is of a kind that cannot be taken for the wanted one."""
    from slicemamba.errors import InputError

    if given == wanted or given in _ALSO_TAKEN[wanted]:
        return
    needed = f"`slicemamba {_COMMANDS[wanted]}` needs a job of kind {' or '.join((wanted, *_ALSO_TAKEN[wanted]))}"
    if given == "pretrain":
        needed = "only `slicemamba pretrain` accepts jobs of kind pretrain"
    raise InputError(
        f"{config} is a job of kind {given}; {needed}. `slicemamba {_COMMANDS[given]} {config}` runs this one, "
        "`slicemamba config list` lists others",
        pointer="/kind",
    )


def _run(values: dict[str, Any], config: Path, out: Path | None, address: str | None) -> RunFolder:
    """Runs a job in this process, showing its progress."""
    from cluster.config import parse_job
    from cluster.run_folder import RunFolder

    job = parse_job(values, source=str(config))
    run = RunFolder(out or Path("runs") / config.stem)
    _run_job(job, run, address, store=_store())
    return run


@contextmanager
def _resumable() -> Iterator[None]:
    """Tells after an interrupt with what command the run goes on. Ray ends a process that trains by SystemExit."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        typer.echo(f"  {command_line(*sys.argv[1:])}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _run_job(job: Job, run: RunFolder, address: str | None, store: str | None = None) -> None:
    from cluster.driver import run_job
    from cluster.progress import progress_view, show_status
    from slicemamba.errors import InputError

    with _resumable(), progress_view(Console(stderr=True)) as view:
        try:
            run_job(
                job, run, address=address or _default_address(job), on_status=partial(show_status, view), store=store
            )
        except InputError as error:
            if error.pointer != "/resources" or address or os.environ.get("RAY_ADDRESS"):
                raise
            raise InputError(error.message, pointer=error.pointer, details=[*error.details, *_would_run(job)]) from None


def _dry_run(values: dict[str, Any], config: Path, address: str | None) -> None:
    from cluster.config import SearchJob, parse_job
    from cluster.dry_run import dry_run

    job = parse_job(values, source=str(config))
    assert isinstance(job, SearchJob)
    dry_run(job, address or os.environ.get("RAY_ADDRESS") or _default_address(job), Console())


def _default_address(job: Job) -> str | None:
    """Where a job of one worker at a time runs: to start a Ray for it would take longer than many such jobs do."""
    from cluster.config import SearchJob
    from cluster.connect import NO_RAY

    alone = job.resources.train.num_workers == 1
    if isinstance(job, SearchJob):
        alone = alone and job.resources.search.num_workers == 1
    return NO_RAY if alone and not os.environ.get("RAY_ADDRESS") else None


def _would_run(job: Job) -> list[str]:
    """The whole command that this machine has room for."""
    import torch

    from cluster.fit import to_fit

    changes = to_fit(job, os.cpu_count() or 1, torch.cuda.device_count())
    options = [part for change in changes for part in ("--set", change)]
    given = _without(sys.argv[1:], {change.partition("=")[0] for change in changes})
    return [f"this runs here: {command_line(*given, *options)}"] if options else []


def _without(arguments: list[str], changed: set[str]) -> list[str]:
    """A command's arguments less what it sets of these options, as none may be set twice."""
    kept: list[str] = []
    for argument in arguments:
        follows = kept[-1:] == ["--set"]
        setting = argument if follows else argument.removeprefix("--set=")
        if (follows or setting != argument) and setting.partition("=")[0] in changed:
            kept = kept[:-1] if follows else kept
        else:
            kept.append(argument)
    return kept


def _warn_not_stored(folder: Path) -> None:
    """The store's places are named after runs, and several trainings of one command have none of their own there."""
    if _store() is not None:
        typer.echo(f"warning: the object store keeps no copy of what this trains; it is in {folder} alone", err=True)


def _store() -> str | None:
    """Of runs, where the environment names one."""
    from cluster.object_store import STORE_VARIABLE

    return os.environ.get(STORE_VARIABLE)
