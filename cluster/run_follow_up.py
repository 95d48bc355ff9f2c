"""Runs a job that follows a search, in its own folder (see ``cluster.follow_up``). A job that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.attempts import only_driver
from cluster.capacity import needs_of
from cluster.cluster_health import cluster_with_room
from cluster.config import SearchJob, parse_job
from cluster.follow_up import AuditJob, ExportJob, FiguresJob, OwnJob, is_follow_up, run_of
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from cluster.status import StatusWriter
from cluster.storage import bring, mirrored
from nas.config import AuditConfig
from slicemamba.architecture import Architecture
from slicemamba.data.cache import default_cache_dir
from slicemamba.errors import InputError, RunFailedError

FIGURES = "figures.json"
_TOLD = {"done", "total", "unit", "metrics"}


def run_follow_up(
    job: OwnJob,
    folder: RunFolder,
    *,
    address: str | None = None,
    on_status: Callable[[RunStatus], None] | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Does what the job asks for and returns what ``result.json`` holds; nothing is done for a finished one.

    Args:
        job: what to do. folder: its own, inside that of its run.
        address: of the Ray cluster, as for ``ray_cluster``. on_status: called with each new status.
        store: ``s3://bucket/prefix`` that keeps a copy of the folder and of its run, which are brought from there where
            they are newer.

    Raises:
        InputError: the run has not got as far as the job needs, or a package is missing.
        RunFailedError: a program that was exported differs from its network.
    """
    with mirrored(folder, store):
        return _run(job, folder, address, on_status, store)


def _run(
    job: OwnJob,
    folder: RunFolder,
    address: str | None,
    on_status: Callable[[RunStatus], None] | None,
    store: str | None,
) -> dict[str, Any]:
    done = folder.read_json("result.json")  # written last
    if done is not None:
        return done
    run = run_of(folder)
    with only_driver(folder), StatusWriter(folder, on_status):
        if isinstance(job, AuditJob):
            with mirrored(run, store):
                result = _audit(job.audit, run, folder, address)
        elif isinstance(job, ExportJob):
            result = _export(job, run, folder, store)
        else:
            result = _draw(job, run, folder, address)
        folder.write_json("result.json", {"kind": job.kind, **result})
        return result


def _audit(settings: AuditConfig, run: RunFolder, folder: RunFolder, address: str | None) -> dict[str, Any]:
    """An audit works in the run's folder, so that what one job has measured the next one need not; its status is told
    in the job's folder too."""
    from cluster.audit import run_audit, set_aside_other_audit

    set_aside_other_audit(run, settings)
    told: dict[str, Any] = {}

    def forward(status: RunStatus) -> None:
        if status.phase is not None and status.phase != told.get("phase"):
            folder.emit("phase", phase=status.phase)
        step = status.progress.get(status.phase or "")
        if step is not None and step != told.get("step"):
            folder.emit("progress", phase=status.phase, **step.model_dump(include=_TOLD))
        told.update(phase=status.phase, step=step)

    found = run_audit(run, settings, address=address, on_status=forward)
    return {"verdict": found.get("verdict")}


def _export(job: ExportJob, run: RunFolder, folder: RunFolder, store: str | None) -> dict[str, Any]:
    """Needs no worker: programs are made and compared on the CPU."""
    from slicemamba.evaluation.bundle import export_bundle
    from slicemamba.evaluation.export import check_formats
    from slicemamba.models.checkpoints import load_network, read_card

    source, target = run.path / job.network, folder.path / "bundle"
    trained_by = RunFolder(source.parent)
    if is_follow_up(trained_by):
        bring(trained_by, store)
    card = read_card(source)
    if card.architecture != job.architecture:  # another winner was trained meanwhile
        raise InputError(f"{job.network} holds a network of another slicing; export the trial again")
    formats = check_formats(_formats(job.format))
    steps = 0

    def tell(text: str) -> None:
        nonlocal steps
        folder.emit("progress", phase="export", done=steps, total=len(formats), unit="programs", metrics={})
        steps += 1
        print(text, flush=True)

    folder.emit("phase", phase="export")
    artifacts = export_bundle(source, load_network(source), card, target, formats, on_step=tell)
    folder.emit("progress", phase="export", done=len(formats), total=len(formats), unit="programs", metrics={})
    programs = [
        {"path": f"bundle/{made.file.name}", "largest_difference": made.error, "seconds": made.seconds}
        for made in artifacts
    ]
    return {"architecture": job.architecture, "bundle": "bundle", "programs": programs}


def _formats(wanted: str) -> list[str]:
    """Programs of a job's format; ``bundle`` leaves out ONNX where its packages are not installed."""
    if wanted == "onnx":
        return ["onnx"]
    can_onnx = all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))
    return ["pt2", "portable", *(["onnx"] if wanted == "bundle" and can_onnx else [])]


def _draw(job: FiguresJob, run: RunFolder, folder: RunFolder, address: str | None) -> dict[str, Any]:
    """On a worker with the resources of one that evaluates candidates: the driver may be on a node without a GPU."""
    from cluster.workers import run_on_worker

    values = run.read_json("config.json")
    search = None if values is None else parse_job(values, source=str(run.config_path))
    if not isinstance(search, SearchJob):
        raise InputError(f"{run.path} is not the folder of a search")
    folder.emit("phase", phase="figures")
    needs = needs_of(search.resources, trains=False, searches=True)
    with cluster_with_room(address, needs, search.resources.wait_seconds, folder.warn):
        given = (search, job, run.path, folder, default_cache_dir())
        rows = run_on_worker(_draw_predictions, search.resources.search, "figures", *given)
    return {"architecture": job.architecture, "figures": rows}


def _draw_predictions(
    search: SearchJob, job: FiguresJob, run: Path, place: RunFolder, cache_dir: Path
) -> list[dict[str, Any]]:
    """Writes the pictures and ``figures.json``, the worst image first."""
    from cluster.workers import device_for
    from slicemamba.data.base import load_split
    from slicemamba.evaluation.evaluate import evaluate
    from slicemamba.evaluation.figures import save_predictions
    from slicemamba.evaluation.per_image import foreground_dice
    from slicemamba.models.checkpoints import load_network
    from slicemamba.models.supernet import Supernet

    device = device_for(search.resources.search)
    supernet, architecture = load_network(run / "supernet").to(device), Architecture.parse(job.architecture)
    assert isinstance(supernet, Supernet)
    data = load_split(search.data, "search", cache_dir)
    scored = evaluate(
        lambda images: supernet(images, architecture),
        data,
        batch_size=search.search.batch_size,
        device=device,
        with_hd95=False,
        on_progress=lambda done, total: place.emit(
            "progress", phase="figures", done=done, total=total, unit="images", metrics={}
        ),
    )
    if not scored.is_finite:
        raise RunFailedError("the network's output is not finite on some image, so there is nothing to draw")
    files = save_predictions(place.path, data, scored, job.images)[:-1]  # the last is all of them on one page
    dice = dict(zip(data.names, foreground_dice(scored.counts).tolist(), strict=True))
    rows = []
    for file in files:
        name = file.name.split("_", 1)[1].rsplit("_dice", 1)[0]
        rows.append({"image": name, "dice": dice[name], "path": file.relative_to(run).as_posix()})
    place.write_json(FIGURES, rows)
    return rows
