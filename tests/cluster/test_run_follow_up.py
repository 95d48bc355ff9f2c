"""Jobs that follow a search, run without Ray: what they write, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cluster import audit, entrypoint
from cluster import capacity as room
from cluster import cluster_health as watch
from cluster import run_follow_up as follow_up_run
from cluster.config import parse_job
from cluster.follow_up import AuditJob, ExportJob, FiguresJob, job_folder, parse_follow_up, run_of
from cluster.run_folder import RunFolder
from cluster.run_follow_up import run_follow_up
from cluster.run_view import Progress, RunStatus
from nas.config import AuditConfig
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import load_network, save_network
from slicemamba.models.unet import SliceMambaUNet

MODEL = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,))
SLICING = Architecture.uniform((2, 2), MODEL.depths)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a trained winner."""
    folder = RunFolder(tmp_path / "run")
    save_network(folder.path / "retrained", SliceMambaUNet(MODEL, 1, SLICING), DataConfig(image_size=(32, 32)))
    return folder


def test_folders_of_a_run_and_of_its_jobs_lead_to_each_other(run: RunFolder) -> None:
    assert run_of(job_folder(run, "j-1")).path == run.path


def test_export_writes_a_bundle_once(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job_folder(run, "j-1")
    job = ExportJob(architecture=str(SLICING), network="retrained", format="torch")
    folder.write_json("config.json", job.model_dump(mode="json"))
    assert entrypoint.main(["--run-dir", str(folder.path)]) == 0
    result = folder.read_json("result.json") or {}
    assert [row["path"] for row in result["programs"]] == ["bundle/model.pt2", "bundle/model_portable.pt2"]
    assert all((folder.path / row["path"]).exists() for row in result["programs"])
    assert (
        load_network(folder.path / "bundle").state_dict().keys()
        == load_network(run.path / "retrained").state_dict().keys()
    )
    status = folder.read_status()
    assert status is not None
    assert (status.state, status.phase) == ("SUCCEEDED", "export")
    exported = status.progress["export"]
    assert (exported.done, exported.total, exported.unit) == (2, 2, "programs")

    def again(*_: object) -> Any:
        raise AssertionError("a finished job is not done again")

    monkeypatch.setattr(follow_up_run, "_export", again)
    assert run_follow_up(job, folder) == result


def test_export_of_another_network_than_was_asked_for_fails(run: RunFolder) -> None:
    other = Architecture.uniform((4, 4), MODEL.depths)
    with pytest.raises(InputError, match="another slicing"):
        run_follow_up(ExportJob(architecture=str(other), network="retrained"), job_folder(run, "j-1"))
    status = job_folder(run, "j-1").read_status()
    assert status is not None
    assert status.state == "FAILED"
    assert "another slicing" in (status.error or "")


@pytest.mark.parametrize("kind", ["figures", "audit"])
def test_refused_where_there_is_no_room_for_its_workers(
    run: RunFolder, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would let it wait for ever, without a word."""
    search = parse_job({"resources": {"search": {"gpus": 1}}})
    run.write_json("config.json", search.model_dump(mode="json"))
    monkeypatch.setattr(watch, "ray_cluster", lambda _: nullcontext(True))
    monkeypatch.setattr(room, "live_nodes", lambda: [room.Node("here", 2, 0)])
    monkeypatch.setattr(audit, "finished_search", lambda _: search)
    monkeypatch.setattr(audit, "digest_splits", lambda *_: ({}, []))
    job = FiguresJob(architecture=str(SLICING)) if kind == "figures" else AuditJob()
    with pytest.raises(InputError, match="this machine has too few CPUs or GPUs") as caught:
        run_follow_up(job, job_folder(run, "j-1"))
    assert caught.value.details[0].startswith("resources.search needs a worker with 1 CPUs and 1 GPUs")


def test_formats_are_what_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow_up_run._formats("torch") == ["pt2", "portable"]
    assert follow_up_run._formats("onnx") == ["onnx"]
    monkeypatch.setattr(follow_up_run, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert follow_up_run._formats("bundle") == ["pt2", "portable"]
    monkeypatch.setattr(follow_up_run, "find_spec", lambda _: object())
    assert follow_up_run._formats("bundle") == ["pt2", "portable", "onnx"]


def test_audit_is_the_runs_and_tells_its_progress_in_the_job(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(
        where: RunFolder, settings: AuditConfig, *, address: str | None, on_status: Callable[[RunStatus], None]
    ) -> dict[str, Any]:
        assert (where.path, settings.epochs, address) == (run.path, 2, "auto")
        before = RunStatus.model_validate({"state": "RUNNING", "updated_at": "2024-01-01T00:00:00Z"})
        on_status(before)
        step = Progress(done=1, total=3, unit="trials", moved_at=before.updated_at)
        now = before.model_copy(update={"phase": "audit_search", "progress": {"audit_search": step}})
        for _ in range(3):  # a status is told twice a second, new or not
            on_status(now)
        return {"verdict": {"word": "weak"}, "more": 1}

    monkeypatch.setattr(audit, "run_audit", judge)
    folder = job_folder(run, "j-1")
    found = run_follow_up(AuditJob(audit=AuditConfig(epochs=2)), folder, address="auto")
    assert found["verdict"] == {"word": "weak"}
    assert [event["event"] for _, event in folder.events()] == ["started", "phase", "progress", "ended"]


def test_figures_need_the_folder_of_a_search(run: RunFolder) -> None:
    with pytest.raises(InputError, match="not the folder of a search"):
        run_follow_up(FiguresJob(architecture=str(SLICING)), job_folder(run, "j-1"))


def test_jobs_of_other_kinds_are_none_of_ours_and_faulty_ones_are_refused() -> None:
    assert parse_follow_up({"kind": "search"}) is None
    assert parse_follow_up({}) is None
    with pytest.raises(InputError):
        parse_follow_up({"kind": "export", "format": "exe"})
