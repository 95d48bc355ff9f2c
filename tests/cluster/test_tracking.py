"""What an MLflow server is told of a run, and that the run does not depend on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Job, parse_job
from cluster.connect import NO_RAY
from cluster.driver import run_job
from cluster.run_folder import RunFolder
from cluster.tracking import URI_VARIABLE, curves
from cluster.training_place import Place

JOB: dict[str, Any] = {
    "name": "tracked",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 2, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "supernet": {"epochs": 2, "batch_size": 4, "num_val_architectures": 0},
    "search": {"searcher": "random", "objectives": ["dice", "params"], "num_trials": 5},
    "finals": None,
    "retrain": {"epochs": 2, "batch_size": 4},
    "baselines": [],
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # where MLflow keeps files by default


def job() -> Job:
    return parse_job(JOB)


def warnings(run: RunFolder) -> list[str]:
    return [event["message"] for _, event in run.events() if event["event"] == "warning"]


def of_mlflow(run: RunFolder) -> list[str]:
    return [message for message in warnings(run) if "MLflow" in message]


def test_a_run_stopped_and_continued_is_one_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip(
        "mlflow", reason="mlflow-skinny is not installed: pip install 'slicemamba-nas[mlflow]'"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv(URI_VARIABLE, uri)
    run, client = RunFolder(tmp_path / "run"), mlflow.MlflowClient(uri)
    keep = Place.keep

    def interrupted(place: Place, report: Any, state: Any) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt
        keep(place, report, state)

    monkeypatch.setattr(Place, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_job(job(), run, address=NO_RAY)
    experiment = client.get_experiment_by_name("slicemamba")
    (stopped,) = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    monkeypatch.setattr(Place, "keep", keep)
    result = run_job(job(), run, address=NO_RAY)

    assert of_mlflow(run) == []
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == stopped.info.run_id
    assert found.info.status == "FINISHED"
    assert found.data.params["search.num_trials"] == "5"
    assert found.data.tags["slicemamba.architecture"] == result["retrained"]["architecture"]
    assert found.data.metrics["test/dice"] == pytest.approx(result["retrained"]["scores"]["test"]["dice"])
    curve = client.get_metric_history(found.info.run_id, "search/dice")
    assert sorted(point.step for point in curve) == list(range(5))
    losses = client.get_metric_history(found.info.run_id, "supernet/loss")
    assert sorted(point.step for point in losses) == [1, 2, 2], "the second epoch was done again"
    files = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert files == {"result.json", "report.html", "retrained"}
    assert "retrained/weights.safetensors" in {
        one.path for one in client.list_artifacts(found.info.run_id, "retrained")
    }


def test_a_server_that_is_away_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'slicemamba-nas[mlflow]'")
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:9")
    run = RunFolder(tmp_path / "run")
    assert "best" in run_job(job(), run, address=NO_RAY)
    (warning,) = of_mlflow(run)
    assert "127.0.0.1" in warning


def test_a_package_that_is_missing_is_told_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = RunFolder(tmp_path / "run")
    assert "best" in run_job(job(), run, address=NO_RAY)
    (warning,) = of_mlflow(run)
    assert "pip install 'slicemamba-nas[mlflow]'" in warning


def test_without_a_server_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = RunFolder(tmp_path / "run")
    run_job(job(), run, address=NO_RAY)
    assert of_mlflow(run) == []
    assert run.read_json("mlflow.json") is None


def test_curves_are_of_epochs_and_trials() -> None:
    epoch = {
        "event": "epoch",
        "phase": "retrain",
        "epoch": 3,
        "epochs": 9,
        "loss": 0.5,
        "val_dice": 0.8,
        "seconds": 1.0,
    }
    assert list(curves(epoch)) == [("retrain/loss", 0.5, 3), ("retrain/val_dice", 0.8, 3)]
    trial = {
        "event": "trial",
        "phase": "search",
        "number": 7,
        "state": "COMPLETED",
        "metrics": {"dice": 0.7, "hd95": None},
    }
    assert list(curves(trial)) == [("search/dice", 0.7, 7)]
    assert list(curves({"event": "trial", "phase": "search", "number": 8, "state": "FAILED", "metrics": None})) == []
    assert list(curves({"event": "phase", "phase": "search"})) == []
