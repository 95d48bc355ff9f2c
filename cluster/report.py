"""Writes the report of a finished search into its folder: ``report.html`` and the figures as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.config import SearchJob, parse_job, public_spec
from cluster.costs import search_costs
from cluster.run_folder import RunFolder
from cluster.studies import studies_of
from nas.report import plot_effects, plot_hypervolume, plot_pareto, plot_ranking, plot_slicing
from nas.report_choices import effects
from nas.report_html import Picture, ReportInput, front_members, hypervolume_of, render_report
from slicemamba.errors import InputError
from slicemamba.files import write_text

_NUM_PICTURES, _PICTURE_WIDTH = 8, 720
_PICTURE = re.compile(r"(?P<rank>\d+)_(?P<name>.*)_dice(?P<dice>\d\.\d+)\.png", re.DOTALL)


def write_report(run: RunFolder) -> Path:
    """Writes the report of a finished search from what its folder holds; what is absent is said to be absent.

    Raises:
        InputError: the folder holds no finished search.
    """
    return write_report_of(run, finished_search(run), run.read_json("result.json") or {})


def write_report_of(run: RunFolder, job: SearchJob, result: Mapping[str, Any]) -> Path:
    """The same for a search that is about to end, whose result is not in its folder yet."""
    source = _read_input(run, job, result)
    _write_figures(run, source)
    target = run.path / "report.html"
    write_text(target, render_report(source))
    return target


def finished_search(run: RunFolder) -> SearchJob:
    """The job of a finished search run. Raises InputError when the folder holds none."""
    values = run.read_json("config.json")
    if values is None or run.read_json("result.json") is None:
        raise InputError(f"{run.path} holds no finished run; give the folder of a search that has ended")
    job = parse_job(values, source=str(run.config_path))
    if not isinstance(job, SearchJob):
        raise InputError(f"{run.path} is a {job.kind} run; give the folder of a search")
    return job


def _read_input(run: RunFolder, job: SearchJob, result: Mapping[str, Any]) -> ReportInput:
    studies = studies_of(run)
    return ReportInput(
        job=public_spec(job.model_dump(mode="json")),
        result=result,
        space=job.search_space,
        trials=studies["search"],
        random=studies["random"],
        audit=run.read_json("audit.json"),
        costs=search_costs(job, run, studies) if any(True for _ in run.events()) else {},
        pictures=_pictures(run.path / "predictions"),
        written_at=datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
    )


def _pictures(folder: Path) -> list[Picture]:
    """The worst predictions on test, made small enough to be embedded."""
    found = [(file, match) for file in sorted(folder.glob("*.png")) if (match := _PICTURE.fullmatch(file.name))]
    pictures = []
    for file, match in found[:_NUM_PICTURES]:
        with Image.open(file) as image:
            small = image.convert("RGB")
        small.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH))
        buffer = io.BytesIO()
        small.quantize(64).save(buffer, "PNG", optimize=True)
        pictures.append(Picture(buffer.getvalue(), f"{match['name']}, Dice {match['dice']}"))
    return pictures


def _write_figures(run: RunFolder, source: ReportInput) -> None:
    objectives = tuple(source.job["search"]["objectives"])
    front = front_members(source)
    if not front:
        return
    plot_pareto(run.path / "pareto.png", source.trials, objectives, random=source.random, front=front)
    plot_slicing(run.path / "slicing.png", front, source.space)
    plot_hypervolume(run.path / "hypervolume.png", hypervolume_of(source, objectives))
    found = effects(source.trials, source.space, objectives[0])
    plot_effects(run.path / "effects.png", found, source.space, objectives[0])
    if source.audit is not None:
        plot_ranking(run.path / "ranking.png", source.audit["retrained"], source.audit["metric"])
