"""Run folders without a record become searches, and what is no whole run does not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from service_helpers import BODY, Bench, write_study

from api.server import adoption
from api.server.service import SearchService
from cluster.config import parse_job
from cluster.jobs import JobState
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunState, RunStatus


def write_run(bench: Bench, name: str, state: RunState = "RUNNING", age: float = 0, **fields: Any) -> RunFolder:
    """What a driver that was started without the service has written so far."""
    folder = RunFolder(bench.settings.runs_dir / name)
    folder.write_json("config.json", parse_job({**BODY, "labels": {"team": "x"}}).model_dump(mode="json"))
    folder.emit("phase", phase="check")
    moment = datetime.now(timezone.utc) - timedelta(seconds=age)
    progress = {"search": Progress(done=1, total=8, unit="trials", metrics={"dice": float("nan")})}
    folder.write_status(RunStatus(state=state, updated_at=moment, phase="search", progress=progress, **fields))
    return folder


def ids(bench: Bench) -> list[str]:
    return [item["id"] for item in bench.http.get("/v1/searches").json()["searches"]]


def test_running_job_is_adopted_followed_and_stopped(bench: Bench) -> None:
    folder = write_run(bench, "kvasir.v2", job_id="raysubmit_1")
    write_study(folder, [{"dice": 0.5, "hd95": 3.0}])
    bench.jobs.states["raysubmit_1"] = JobState.RUNNING
    bench.round()
    found = bench.get("kvasir.v2")
    assert (found["state"], found["job_id"], found["job_status"]) == ("RUNNING", "raysubmit_1", "RUNNING")
    assert (found["name"], found["labels"]) == ("small", {"team": "x"})
    assert found["progress"]["search"]["metrics"] == {}  # what is not finite is written as null, and is no figure
    assert [(row["old_state"], row["new_state"]) for row in found["history"]] == [(None, "RUNNING")]
    assert "adopted" in found["history"][0]["message"]
    assert bench.http.get("/v1/searches/kvasir.v2/trials").json()["total"] == 1
    bench.http.post("/v1/searches/kvasir.v2/cancel")
    bench.round()
    bench.round()
    assert bench.state("kvasir.v2") == "CANCELLED"
    assert bench.jobs.stopped == ["raysubmit_1"]
    bench.http.post("/v1/searches/kvasir.v2/resume")
    bench.round()
    assert bench.jobs.submitted == ["kvasir.v2-2"]
    assert json.loads(folder.config_path.read_text()) == bench.context.service.get("kvasir.v2").spec


@pytest.mark.parametrize(
    ("state", "fields", "becomes", "error"),
    [
        ("SUCCEEDED", {}, "SUCCEEDED", None),
        ("FAILED", {"error": "disk full"}, "FAILED", "disk full"),
        ("CANCELLED", {"error": "stopped"}, "CANCELLED", None),
        ("RUNNING", {"age": 3600.0}, "FAILED", "fallen silent"),
    ],
)
def test_ended_run_is_adopted_as_it_ended(
    bench: Bench, state: RunState, fields: dict[str, Any], becomes: str, error: str | None
) -> None:
    folder = write_run(bench, "old", state, **fields)
    folder.write_json("result.json", {"best": 1})
    bench.round()
    found = bench.get("old")
    assert found["state"] == becomes
    assert (error is None) == (found["error"] is None)
    assert error is None or error in found["error"]
    assert found["ended_at"] is not None
    assert bench.jobs.submitted == []  # nothing is started that nobody asked for
    bench.round()
    assert len(bench.get("old")["history"]) == 1


def test_lost_database_is_made_anew_from_the_folders(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.states[search_id] = JobState.STOPPED
    bench.drive(search_id, "CANCELLED", job_id=f"{search_id}-2")  # its second attempt
    bench.http.close()
    for path in bench.settings.runs_dir.glob("searches.db*"):
        path.unlink()
    other = bench.restart()
    other.round()
    assert ids(other) == [search_id]
    assert other.get(search_id)["job_id"] == f"{search_id}-2"
    other.http.post(f"/v1/searches/{search_id}/resume")
    other.round()
    assert other.jobs.submitted[-1] == f"{search_id}-3"


def test_database_is_asked_about_new_folders_alone_and_one_that_comes_back_is_adopted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(bench, "first", "SUCCEEDED").write_json("result.json", {})
    bench.round()
    asked: list[set[str]] = []
    known = SearchService.known_among

    def note(service: SearchService, names: set[str]) -> set[str]:
        asked.append(set(names))
        return known(service, names)

    monkeypatch.setattr(SearchService, "known_among", note)
    bench.round()
    bench.round()
    write_run(bench, "second", "SUCCEEDED").write_json("result.json", {})
    bench.round()
    assert asked == [{"first"}, {"second"}]  # once more after it was adopted, and never again
    assert bench.http.delete("/v1/searches/first").status_code == 204
    bench.round()
    assert ids(bench) == ["second"]
    write_run(bench, "first", "SUCCEEDED").write_json("result.json", {})
    bench.round()
    assert sorted(ids(bench)) == ["first", "second"]


def test_folder_that_is_no_search_is_read_again_only_when_it_has_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read, asked = write_run(bench, "late"), list[str](), list[set[str]]()
    status = (folder.path / "status.json").read_bytes()
    (folder.path / "status.json").unlink()
    see, known = adoption.as_search, SearchService.known_among

    def note(folder: RunFolder, stale_seconds: float) -> Any:
        read.append(folder.path.name)
        return see(folder, stale_seconds)

    def ask(service: SearchService, names: set[str]) -> set[str]:
        asked.append(set(names))
        return known(service, names)

    monkeypatch.setattr(adoption, "as_search", note)
    monkeypatch.setattr(SearchService, "known_among", ask)
    for _ in range(3):
        bench.round()
    assert (read, asked) == (["late"], [{"late"}])
    (folder.path / "status.json").write_bytes(status)
    bench.round()
    assert ids(bench) == ["late"]


def test_two_services_adopt_once(bench: Bench) -> None:
    write_run(bench, "shared")
    other = bench.restart()
    other.round()
    bench.round()
    assert ids(bench) == ["shared"]
    assert len(bench.get("shared")["history"]) == 1


def test_what_is_no_whole_run_of_a_search_is_left_alone(bench: Bench) -> None:
    runs = bench.settings.runs_dir
    (write_run(bench, "no-status").path / "status.json").unlink()
    (write_run(bench, "no-config").path / "config.json").unlink()
    (write_run(bench, "half").path / "status.json").write_text('{"state": "RUN')
    (write_run(bench, "list").path / "config.json").write_text("[]")
    (write_run(bench, "other").path / "config.json").write_text('{"kind": "search", "from": "a newer version"}')
    retrain = {"kind": "retrain", "architecture": None, "network": "unet"}
    (write_run(bench, "retrain").path / "config.json").write_text(json.dumps(retrain))
    write_run(bench, "a name with spaces")
    write_run(bench, ".hidden")
    write_run(bench, "x" * 41)
    write_run(bench, "run.older-1")  # set aside by a driver, as the store had something newer
    (runs / "file").write_text("")
    before = {path: path.stat().st_mtime_ns for path in sorted(runs.rglob("*")) if "searches.db" not in path.name}
    bench.round()
    assert ids(bench) == []
    after = {path: path.stat().st_mtime_ns for path in sorted(runs.rglob("*")) if "searches.db" not in path.name}
    assert after == before


def test_adopted_searches_are_listed_by_their_time(bench: Bench) -> None:
    write_run(bench, "zz-first")
    bench.round()
    second = bench.submit()
    write_run(bench, "aa-third")
    bench.round()
    found: list[str] = []
    token: str | None = None
    while token is not None or not found:
        page = bench.http.get(
            "/v1/searches", params={"page_size": 1, **({"page_token": token} if token else {})}
        ).json()
        found += [item["id"] for item in page["searches"]]
        token = page["next_page_token"]
    assert found == ["aa-third", second, "zz-first"]


def test_runs_folder_that_is_away_stops_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.submit()

    def away(_: Path) -> Any:
        raise OSError("stale file handle")

    monkeypatch.setattr(Path, "iterdir", away)
    bench.round()
    assert bench.state(search_id) == "STARTING"
