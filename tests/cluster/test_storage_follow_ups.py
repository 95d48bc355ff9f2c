"""Jobs that follow a search, of runs that are kept in a store: stored with it, and gone on with on another node."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cluster import audit, cli, driver, entrypoint
from cluster import run_follow_up as follow_up_run
from cluster.attempts import Attempts
from cluster.cli import restore
from cluster.config import SearchJob, parse_job
from cluster.follow_up import AuditJob, ExportJob, FollowUp, job_folder
from cluster.object_store import Store, open_store
from cluster.run_folder import RunFolder
from cluster.run_follow_up import run_follow_up
from cluster.storage import bring, bring_all, mirrored
from nas.config import AuditConfig
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.errors import InputError
from slicemamba.evaluation import bundle
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet

URL = "s3://runs/team"
MODEL = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,))
SLICING, OTHER = (Architecture.uniform(size, MODEL.depths) for size in ((2, 2), (4, 4)))
pytestmark = pytest.mark.usefixtures("bucket")


def save(folder: Path, slicing: Architecture = SLICING) -> None:
    save_network(folder, SliceMambaUNet(MODEL, 1, slicing), DataConfig(image_size=(32, 32)))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A stored run that has ended, with a trained winner."""
    folder = RunFolder(tmp_path / "node" / "s-1")
    with mirrored(folder, URL):
        save(folder.path / "retrained")
        folder.write_json("config.json", {"kind": "search"})
        folder.write_json("result.json", {"best": 0.9})
        folder.write_json("status.json", {"state": "SUCCEEDED", "updated_at": "2024-01-01T00:00:00Z"})
    return folder


@pytest.fixture(autouse=True)
def _quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are not made here; ``test_follow_up_run`` makes them."""

    def write(source: Path, network: Any, card: Any, target: Path, *_: Any, **__: Any) -> list[Any]:
        target.mkdir(parents=True, exist_ok=True)
        (target / "model.pt2").write_text(str(card.architecture))
        return []

    monkeypatch.setattr(bundle, "export_bundle", write)


def ordered(run: RunFolder, job_id: str, job: FollowUp) -> RunFolder:
    """The folder of a job as a service has made it ready."""
    folder = job_folder(run, job_id)
    folder.write_json("config.json", job.model_dump(mode="json"))
    return folder


def start(folder: RunFolder) -> int:
    return entrypoint.main(["--run-dir", str(folder.path), "--store", URL])


def stored(name: str) -> set[str]:
    return open_store(URL, name).names()


def test_job_is_stored_under_its_run_and_each_driver_leaves_the_others_files_alone(run: RunFolder) -> None:
    folder = ordered(run, "j-1", ExportJob(architecture=str(SLICING), network="retrained", format="torch"))
    assert start(folder) == 0
    assert {"result.json", "status.json", "config.json", "attempts/1/driver.json", "attempts/1/events.jsonl"} <= stored(
        "s-1/jobs/j-1"
    )
    assert "bundle/model.pt2" in stored("s-1/jobs/j-1")
    with mirrored(run, URL):  # as when the search is extended: what is not of its own it neither stores nor removes
        (folder.path / "later.txt").write_text("of the job")
    assert "bundle/model.pt2" in stored("s-1/jobs/j-1")
    assert "later.txt" not in stored("s-1/jobs/j-1")


def test_run_and_job_have_drivers_at_the_same_time(run: RunFolder) -> None:
    with mirrored(run, URL), mirrored(job_folder(run, "j-1"), URL), mirrored(job_folder(run, "j-2"), URL):
        job_folder(run, "j-1").write_json("result.json", {})
        run.write_json("more.json", {})
    assert "more.json" in stored("s-1")
    assert "result.json" in stored("s-1/jobs/j-1")
    job = job_folder(run, "j-1")
    with (
        mirrored(job, URL),
        pytest.raises(InputError, match="has a running driver"),
        mirrored(RunFolder(job.path), URL),
    ):
        pass


def test_job_of_a_run_whose_folder_is_gone_brings_it_and_what_another_job_has_trained(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = job_folder(run, "j-1")
    with mirrored(trained, URL):
        save(trained.path / "retrained", OTHER)
    shutil.rmtree(run.path)
    export = ordered(run, "j-2", ExportJob(architecture=str(OTHER), network="jobs/j-1/retrained", format="torch"))
    assert start(export) == 0, capsys.readouterr().err
    assert (export.path / "bundle" / "model.pt2").read_text() == str(OTHER)
    assert run.read_json("result.json") == {"best": 0.9}
    status = run.read_status()
    assert status is not None
    assert status.state == "SUCCEEDED", "nobody goes on with the run itself"
    assert [path.name for path in run.path.parent.iterdir()] == ["s-1"], "there was nothing to set aside"
    told = capsys.readouterr().out
    assert start(ordered(run, "j-3", ExportJob(architecture=str(SLICING), network="retrained", format="torch"))) == 0
    assert "files of s-1 from the store" in told
    assert "from the store" not in capsys.readouterr().out, "it is as new as the store by now"


def test_killed_job_goes_on_where_its_node_is_lost(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had done is there again, and its old last word is not taken for the new driver's."""
    job = ExportJob(architecture=str(SLICING), network="retrained", format="torch")
    folder = ordered(run, "j-1", job)
    end = Attempts.end
    monkeypatch.setattr(Attempts, "end", lambda *_: None)  # neither a word nor a sign of life
    with mirrored(folder, URL):
        (folder.path / "bundle").mkdir()
        (folder.path / "bundle" / "half.txt").write_text("done so far")
        folder.emit("progress", phase="export", done=1, total=2, unit="programs", metrics={})
        folder.write_json("status.json", {"state": "FAILED", "error": "x", "updated_at": "2024-01-01T00:00:00Z"})
    monkeypatch.setattr(Attempts, "end", end)

    shutil.rmtree(run.path)
    ordered(run, "j-1", job)
    seen: list[Any] = []
    export = follow_up_run._export

    def going_on(*given: Any) -> dict[str, Any]:
        seen.append((folder.path / "bundle" / "half.txt").read_text())
        seen.append([event["event"] for _, event in folder.events()][:1])
        return export(*given)

    monkeypatch.setattr(follow_up_run, "_export", going_on)
    states = watch_states(folder)
    assert start(folder) == 0
    assert seen == ["done so far", ["progress"]]
    assert "FAILED" not in states()
    assert "result.json" in stored("s-1/jobs/j-1")
    shutil.rmtree(run.path)
    monkeypatch.setattr(follow_up_run, "_export", None)
    assert start(folder) == 0, "a finished job is not done again, and its config.json comes from the store"


def watch_states(folder: RunFolder) -> Callable[[], set[str]]:
    """States that a reader of the folder's status sees from now on; to be asked for once."""
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            status = folder.read_status()
            if status is not None:
                seen.add(status.state)
            time.sleep(0.001)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def end() -> set[str]:
        stop.set()
        thread.join()
        return seen

    return end


def test_audit_is_stored_with_the_run_also_where_its_folder_was_gone(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(where: RunFolder, settings: AuditConfig, **_: Any) -> dict[str, Any]:
        assert where.read_json("result.json") == {"best": 0.9}
        where.write_json("audit.json", {"verdict": {"word": "weak"}})
        return {"verdict": {"word": "weak"}}

    monkeypatch.setattr(audit, "run_audit", judge)
    shutil.rmtree(run.path)
    run_follow_up(AuditJob(), ordered(run, "j-1", AuditJob()), store=URL)
    assert "audit.json" in stored("s-1")
    assert "result.json" in stored("s-1/jobs/j-1")


def test_jobs_that_begin_at_once_bring_the_run_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    download = Store.download

    def slowly(store: Store, name: str, file: Path) -> None:
        time.sleep(0.02)
        download(store, name, file)

    monkeypatch.setattr(Store, "download", slowly)
    shutil.rmtree(run.path)
    with ThreadPoolExecutor(3) as pool:
        brought = list(pool.map(lambda _: bring(run, URL), range(3)))
    assert sorted(brought) == [False, False, True]
    assert run.read_json("result.json") == {"best": 0.9}
    assert capsys.readouterr().out.count("from the store") == 1


def test_run_that_is_at_work_elsewhere_is_not_brought(run: RunFolder, tmp_path: Path) -> None:
    elsewhere = RunFolder(tmp_path / "other" / "s-1")
    with mirrored(elsewhere, URL), pytest.raises(InputError, match="has a running driver"):
        bring(run, URL)
    assert bring(run, URL), "its driver has ended, and what it has written is newer"
    assert (run.path.parent / "s-1.older-1" / "result.json").exists()


def test_cut_off_while_the_run_is_brought_it_is_brought_anew(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run.path)
    download, left = Store.download, iter(range(3))

    def dies(store: Store, name: str, file: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        download(store, name, file)

    monkeypatch.setattr(Store, "download", dies)
    with pytest.raises(KeyboardInterrupt):
        bring(run, URL)
    monkeypatch.setattr(Store, "download", download)
    assert run.path.exists()
    assert not (run.path / "status.json").exists()
    assert bring(run, URL)
    assert {path.name for path in run.path.iterdir()} >= {"config.json", "result.json", "retrained", "status.json"}
    assert [path.name for path in run.path.parent.iterdir()] == ["s-1"]


def test_search_that_is_audited_from_the_store_stays_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = RunFolder(tmp_path / "there" / "run")
    done = {"state": "SUCCEEDED", "error": None, "updated_at": "2024-01-01T00:00:00Z"}
    with mirrored(there, URL):
        there.write_json("config.json", {"kind": "search"})
        there.write_json("status.json", done)
    monkeypatch.setattr("cluster.audit.run_audit", lambda *_, **__: {})
    monkeypatch.setattr("cluster.summary.print_audit", lambda *_: None)
    monkeypatch.setenv("SLICEMAMBA_STORE", URL)
    app = typer.Typer()
    cli.register(app)
    here = RunFolder(tmp_path / "here" / "run")
    CliRunner().invoke(app, ["audit", str(here.path)], catch_exceptions=False)
    found = here.read_status()
    assert found is not None
    assert found.state == "SUCCEEDED"


def test_search_that_is_extended_goes_on_where_its_folder_was_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has put the new configuration into an empty folder; the store has the old one, and its result."""
    run = RunFolder(tmp_path / "s-1")
    search = {"num_trials": 8, "population_size": 4, "num_parents": 2, "num_mutations": 1, "num_crossovers": 1}
    values = {"data": {"name": "synthetic"}, "model": {"embed_dim": 8}, "search": search}
    before, after = (parse_job({**values, "search": {**search, "num_trials": n}}) for n in (8, 12))
    monkeypatch.setattr(driver, "_phases", lambda job, *_: {"trials": job.search.num_trials})
    monkeypatch.setattr(driver, "_check_input", lambda *_: {})
    monkeypatch.setattr(driver, "cluster_with_room", lambda *_: nullcontext())
    assert isinstance(after, SearchJob)
    assert driver.run_job(before, run, store=URL) == {"trials": 8}
    shutil.rmtree(run.path)
    run.write_json("config.json", after.model_dump(mode="json"))
    assert driver.run_job(after, run, store=URL) == {"trials": 12}
    assert run.read_json("result-1.json") == {"trials": 8}
    assert json.loads(open_store(URL, "s-1").read("result.json") or b"") == {"trials": 12}
    with pytest.raises(InputError, match="another configuration"):
        driver.run_job(before, run, store=URL)  # fewer is no extension


def test_restore_brings_a_run_with_its_jobs(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with mirrored(job_folder(run, "j-1"), URL):
        job_folder(run, "j-1").write_json("result.json", {"kind": "export"})
    shutil.rmtree(run.path)
    assert bring_all(run, URL) == ["s-1", "s-1/jobs/j-1"]
    assert job_folder(run, "j-1").read_json("result.json") == {"kind": "export"}
    assert bring_all(run, URL) == []
    shutil.rmtree(run.path)
    restore(run.path, URL)
    assert "downloaded: s-1, s-1/jobs/j-1" in capsys.readouterr().out
    restore(run.path, URL)
    assert "the store has nothing newer" in capsys.readouterr().out
