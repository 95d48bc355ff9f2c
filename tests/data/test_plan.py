"""A proposed configuration is a valid job, fits the images, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import app
from cluster.config import SearchJob
from slicemamba.config import DataConfig, validate
from slicemamba.data.plan import as_yaml, propose
from slicemamba.data.reports import DatasetReport
from slicemamba.documents import read_yaml


def report(size: tuple[int, int], train: int, values: tuple[float, float] | None = None) -> DatasetReport:
    return DatasetReport(
        name="set",
        num_images={"train": train, "val": 9, "search": 9, "test": 9},
        smallest_size=size,
        largest_size=size,
        median_size=size,
        foreground_share={},
        value_range=values,
        fingerprint="x",
    )


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((1080, 1920), 256, [144, 256]),
        ((40, 50), 256, [32, 48]),
        ((3000, 20), 96, [96, 32]),
        ((500, 500), 96, [96, 96]),
    ],
)
def test_image_size_keeps_the_aspect(size: tuple[int, int], longest: int, expected: list[int]) -> None:
    found = {one.option: one.value for one in propose(DataConfig(name="set"), report(size, 100), longest)}
    assert found["data.image_size"] == expected


def test_small_sets_are_seen_more_often() -> None:
    few, many = (
        {one.option: one.value for one in propose(DataConfig(name="set"), report((64, 64), train), 64)}
        for train in (20, 4000)
    )
    assert few["retrain.epochs"] == 300
    assert many["retrain.epochs"] == 30
    assert few["retrain.batch_size"] == 2
    assert many["retrain.batch_size"] == 16


def test_hounsfield_units_get_a_window() -> None:
    proposals = propose(DataConfig(name="set"), report((64, 64), 100, (-1000, 900)), 64)
    found = {one.option: one.value for one in proposals}
    assert found["data.window"] == [-125, 275]
    assert "# values from -1000 are Hounsfield units" in as_yaml(proposals)


def test_written_plan_is_a_job(folder: DataConfig, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "plan", str(folder.root), "--out", str(tmp_path / "plan.yaml")])
    assert done.exit_code == 0, done.output
    job = validate(SearchJob, read_yaml(tmp_path / "plan.yaml"), source="plan")
    assert job.data.root == folder.root
    assert job.search.searcher == "nsga2"
    assert "# small networks learn faster" in (tmp_path / "plan.yaml").read_text()
