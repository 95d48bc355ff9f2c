"""A search that is only looked at: what it would do and take, and what it cannot do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cluster import cli, dry_run
from cluster.capacity import Node
from cluster.config import SearchJob, parse_job
from cluster.connect import NO_RAY
from cluster.work import work_by_phase
from slicemamba.errors import InputError, RunFailedError

JOB: dict[str, Any] = {
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 9, "num_val": 2, "num_search": 3, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "search": {"searcher": "nsga2", "objectives": ["dice", "params"], "num_trials": 7},
    "retrain": {"epochs": 11},
    "baselines": [],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def job(**parts: Any) -> SearchJob:
    made = parse_job(JOB | parts)
    assert isinstance(made, SearchJob)
    return made


def said(wanted: SearchJob, address: str | None = NO_RAY) -> str:
    text = io.StringIO()
    dry_run.dry_run(wanted, address, Console(file=text, width=200))
    return text.getvalue()


def test_step_of_windows_is_tried_with_fewer_images_than_there_are() -> None:
    data = {**JOB["data"], "fit": "patch", "image_size": [32, 32]}
    assert "It can run" in said(job(data=data, supernet={"batch_size": 4}))


def test_work_of_each_phase_is_told_and_a_step_tried() -> None:
    text = said(job())
    planned = work_by_phase(job(), {"train": 9, "val": 2, "search": 3, "test": 2})
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") == 5}
    assert list(rows) == ["Train supernet", "Search", "Retrain", "Evaluate on test", "all"]
    assert f"{planned['supernet'].trained:,}" in rows["Train supernet"]
    assert " 99 " in rows["Retrain"]
    assert " … " in rows["all"]
    assert "GiB for a training worker" in text
    assert text.endswith("It can run. Nothing was started.\n")


def test_what_cannot_be_done_is_told() -> None:
    with pytest.raises(InputError, match="this machine has too few CPUs or GPUs"):
        said(job(resources={"train": {"cpus": 4096}}))
    diverging = {"learning_rate": 1e30, "clip_grad_norm": None, "batch_size": 4}
    with pytest.raises(RunFailedError, match=r"a training step failed: the (loss|gradient)"):
        dry_run.dry_run(job(supernet=diverging), NO_RAY, Console(file=io.StringIO()))
    with pytest.raises(InputError, match="nowhere"):
        said(job(data={"name": "nowhere"}))


def test_cluster_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(address: str) -> Iterator[bool]:
        assert address == "head:6379"
        yield False

    monkeypatch.setattr(dry_run, "ray_cluster", connected)
    monkeypatch.setattr(dry_run, "live_nodes", lambda: [Node("n1", 4, 0)])
    assert "no node of the cluster has a GPU" in said(job(resources={"train": {"gpus": 1}}), "head:6379")
    assert "no node" not in said(job(), "head:6379")


def test_nothing_is_left_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(str(JOB))
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    cli.register(app)
    done = CliRunner().invoke(app, ["search", str(config), "--dry-run"], catch_exceptions=False)
    assert "Nothing was started" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"job.yaml", "cache"}
