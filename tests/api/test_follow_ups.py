"""Jobs that follow a search over HTTP: what starts them, what refuses them, and how they live and end."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from service_helpers import BODY, Bench, write_study

from api.server.models import Search
from api.server.tokens import Scope
from cluster.config import RetrainJob
from cluster.follow_up import AuditJob, ExportJob, FiguresJob, parse_follow_up
from cluster.jobs import JobState
from cluster.run_folder import RunFolder
from cluster.run_view import RunState, RunStatus

ROWS: list[dict[str, float] | None] = [{"dice": 0.8, "hd95": 5.0}, {"dice": 0.9, "hd95": 9.0}, None]


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    return body


@pytest.fixture
def search_id(bench: Bench) -> str:
    """A search that has SUCCEEDED, with a study, a supernet and a trained winner: trial 1."""
    made = bench.succeeded()
    study = write_study(bench.folder(made), ROWS)
    folder = bench.folder(made)
    folder.write_json("supernet/config.json", {"architecture": None})
    folder.write_json("retrained/config.json", {"architecture": study.trials()[1].architecture})
    return made


def start(bench: Bench, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
    response = bench.http.post(f"/v1/searches/{path}", json=body, headers=headers)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def job_folder(bench: Bench, job: dict[str, Any]) -> RunFolder:
    return RunFolder(bench.folder(job["search_id"]).path / job["folder"])


def say(folder: RunFolder, state: RunState, age_seconds: float = 0, **fields: Any) -> None:
    """Writes the status of a job's driver, as it was ``age_seconds`` ago."""
    moment = datetime.now(timezone.utc) - timedelta(seconds=age_seconds)
    folder.write_status(RunStatus(state=state, updated_at=moment, phase="retrain", **fields))


def get(bench: Bench, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bench.http.get(f"/v1/jobs/{job['id']}").json()
    return found


def finish(bench: Bench, job: dict[str, Any]) -> None:
    """A driver that does the job between two looks."""
    bench.round()
    job_folder(bench, job).write_json("result.json", {})
    say(job_folder(bench, job), "SUCCEEDED")
    bench.jobs.states[job["id"]] = JobState.SUCCEEDED
    bench.round()
    assert get(bench, job)["state"] == "SUCCEEDED"


def test_retrain_goes_its_way_as_a_search_does(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/0/retrain", {"retrain": {"epochs": 3}})
    assert (job["kind"], job["search_id"], job["trial"], job["study"]) == ("retrain", search_id, 0, "search")
    assert (job["state"], job["folder"]) == ("QUEUED", f"jobs/{job['id']}")
    bench.round()
    folder = job_folder(bench, job)
    spec = RetrainJob.model_validate(folder.read_json("config.json"))
    trial = bench.http.get(f"/v1/searches/{search_id}/trials/0").json()
    assert (spec.architecture, spec.retrain.epochs, spec.init) == (trial["architecture"], 3, None)
    assert spec.retrain.learning_rate == bench.get(search_id)["spec"]["retrain"]["learning_rate"]
    assert get(bench, job)["state"] == "STARTING"
    bench.jobs.states[job["id"]] = JobState.RUNNING
    say(folder, "RUNNING")
    bench.round()
    assert (get(bench, job)["state"], get(bench, job)["phase"]) == ("RUNNING", "retrain")
    folder.write_json("result.json", {"retrained": {}})
    say(folder, "SUCCEEDED")
    bench.jobs.states[job["id"]] = JobState.SUCCEEDED
    bench.round()
    states = [change["new_state"] for change in get(bench, job)["history"]]
    assert states == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    listed = bench.http.get(f"/v1/searches/{search_id}/artifacts").json()["artifacts"]
    assert f"{job['folder']}/result.json" in {item["path"] for item in listed}


def test_jobs_are_listed_with_their_search_alone(bench: Bench, search_id: str) -> None:
    first = start(bench, f"{search_id}/trials/0/retrain")
    second = start(bench, f"{search_id}/trials/1/figures", {"images": 3})
    other = bench.submit()
    jobs = bench.http.get(f"/v1/searches/{search_id}/jobs").json()["jobs"]
    assert [job["id"] for job in jobs] == [second["id"], first["id"]]
    assert bench.http.get(f"/v1/searches/{other}/jobs").json()["jobs"] == []
    assert {item["id"] for item in bench.http.get("/v1/searches").json()["searches"]} == {search_id, other}
    assert "slicemamba_searches" in bench.http.get("/metrics").text
    problem(bench.http.get(f"/v1/searches/{first['id']}"), 404)
    problem(bench.http.get(f"/v1/jobs/{search_id}"), 404)


def test_no_path_of_the_server_is_told(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/0/retrain", {"init": "supernet"})
    assert get(bench, job)["spec"]["init"] == "supernet"
    assert str(bench.settings.runs_dir) not in json.dumps(get(bench, job))
    bench.round()
    shown = bench.http.get(f"/v1/searches/{search_id}/artifacts/{job['folder']}/config.json")
    assert str(bench.settings.runs_dir) not in shown.text
    kept = RetrainJob.model_validate(job_folder(bench, job).read_json("config.json"))
    assert kept.init == bench.folder(search_id).path / "supernet"


def test_init_left_out_is_that_of_the_search(bench: Bench) -> None:
    bench_id = bench.submit({**BODY, "init": "supernet"})
    write_study(bench.folder(bench_id), ROWS)
    path = f"{bench_id}/trials/0/retrain"
    found = problem(bench.http.post(f"/v1/searches/{path}"), 409)
    assert "supernet" in found["detail"]
    assert start(bench, path, {"init": None})["spec"]["init"] is None
    bench.folder(bench_id).write_json("supernet/config.json", {})
    assert start(bench, path)["spec"]["init"] == "supernet"


def test_trial_of_a_search_whose_files_are_gone_is_refused_with_the_mend(bench: Bench, search_id: str) -> None:
    shutil.rmtree(bench.folder(search_id).path)
    for what in ("retrain", "export", "figures"):
        found = problem(bench.http.post(f"/v1/searches/{search_id}/trials/0/{what}"), 409)
        assert f"download them with `slicemamba restore` on the server (run {search_id})" in found["detail"]
    assert start(bench, f"{search_id}/audit")["state"] == "QUEUED", "its driver brings them"
    running = bench.submit()
    problem(bench.http.post(f"/v1/searches/{running}/trials/0/retrain"), 404)


def test_same_key_gives_the_same_job(bench: Bench, search_id: str) -> None:
    path, headers = f"{search_id}/trials/1/export", {"Idempotency-Key": "k"}
    first = start(bench, path, {"format": "torch"}, **headers)
    again = bench.http.post(f"/v1/searches/{path}", json={"format": "torch"}, headers=headers)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
    others = [
        bench.http.post(f"/v1/searches/{path}", json={"format": "onnx"}, headers=headers),
        bench.http.post(f"/v1/searches/{search_id}/trials/0/export", json={"format": "torch"}, headers=headers),
        bench.http.post(f"/v1/searches/{search_id}/trials/1/figures", headers=headers),
        bench.http.post(f"/v1/searches/{search_id}/audit", headers=headers),
        bench.http.post("/v1/searches", json=BODY, headers=headers),
    ]
    for response in others:
        assert first["id"] in problem(response, 409)["detail"]


def test_export_takes_the_winners_network_or_that_of_a_retraining(bench: Bench, search_id: str) -> None:
    assert start(bench, f"{search_id}/trials/1/export")["spec"]["network"] == "retrained"
    found = problem(bench.http.post(f"/v1/searches/{search_id}/trials/0/export"), 409)
    assert "not trained yet" in found["detail"]
    assert f"/v1/searches/{search_id}/trials/0/retrain" in found["detail"]
    job = start(bench, f"{search_id}/trials/0/retrain")
    problem(bench.http.post(f"/v1/searches/{search_id}/trials/0/export"), 409)
    job_folder(bench, job).write_json("retrained/config.json", {"architecture": job["spec"]["architecture"]})
    finish(bench, job)
    export = start(bench, f"{search_id}/trials/0/export", {"format": "onnx"})
    assert export["spec"]["network"] == f"jobs/{job['id']}/retrained"
    bench.round()
    kept = parse_follow_up(job_folder(bench, export).read_json("config.json") or {})
    assert isinstance(kept, ExportJob)
    assert kept.format == "onnx"


def test_figures_and_audit_are_written_down_for_the_driver(bench: Bench, search_id: str) -> None:
    figures = start(bench, f"{search_id}/trials/0/figures", {"images": 4})
    audit = start(bench, f"{search_id}/audit", {"num_retrained": 3, "epochs": 2})
    assert (audit["trial"], audit["study"]) == (None, None)
    bench.round()
    drawn = parse_follow_up(job_folder(bench, figures).read_json("config.json") or {})
    judged = parse_follow_up(job_folder(bench, audit).read_json("config.json") or {})
    assert isinstance(drawn, FiguresJob)
    assert drawn.images == 4
    assert isinstance(judged, AuditJob)
    assert (judged.audit.num_retrained, judged.audit.epochs, judged.audit.retrain_seeds) == (3, 2, 3)


def test_random_baseline_has_trials_of_its_own(bench: Bench, search_id: str) -> None:
    problem(bench.http.post(f"/v1/searches/{search_id}/trials/0/retrain?study=random"), 404)
    write_study(bench.folder(search_id), ROWS[:1], name="random")
    assert start(bench, f"{search_id}/trials/0/retrain?study=random")["study"] == "random"


@pytest.mark.parametrize("kind", ["retrain", "export", "figures"])
def test_unknown_search_or_trial_is_not_found(bench: Bench, search_id: str, kind: str) -> None:
    assert "3 so far" in problem(bench.http.post(f"/v1/searches/{search_id}/trials/3/{kind}"), 404)["detail"]
    problem(bench.http.post(f"/v1/searches/s-none/trials/0/{kind}"), 404)
    problem(bench.http.post(f"/v1/searches/{search_id}/trials/-1/{kind}"), 422)


def test_unknown_search_and_job_are_not_found(bench: Bench) -> None:
    problem(bench.http.post("/v1/searches/s-none/audit"), 404)
    problem(bench.http.get("/v1/searches/s-none/jobs"), 404)
    for call in (bench.http.get("/v1/jobs/j-none"), bench.http.post("/v1/jobs/j-none/cancel")):
        assert "'j-none'" in problem(call, 404)["detail"]
    problem(bench.http.get("/v1/jobs/j-none/logs"), 404)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("trials/0/retrain", {"retrain": {"epochs": 0}}, "/retrain/epochs"),
        ("trials/0/retrain", {"retrain": {"epoch": 5}}, "/retrain/epoch"),
        ("trials/0/retrain", {"retrain": {"batch_size": 8, "precision": "fp16"}}, ""),
        ("trials/0/retrain", {"retrain": json.loads('{"a":' * 300 + "1" + "}" * 300)}, "/retrain"),
        ("trials/0/retrain", {"init": "/etc/passwd"}, "/init"),
        ("trials/0/retrain", {"data": {"root": "/etc"}}, "/data"),
        ("trials/1/export", {"format": "exe"}, "/format"),
        ("trials/1/export", {"network": "/etc"}, "/network"),
        ("trials/0/figures", {"images": 0}, "/images"),
        ("trials/0/figures", {"images": 65}, "/images"),
        ("audit", {"num_retrained": 1}, "/num_retrained"),
        ("audit", {"seed": -1}, "/seed"),
        ("audit", [1], ""),
    ],
)
def test_bad_body_is_refused_with_a_pointer(bench: Bench, search_id: str, path: str, body: Any, pointer: str) -> None:
    found = problem(bench.http.post(f"/v1/searches/{search_id}/{path}", json=body), 422)
    assert any((item["pointer"] or "").startswith(pointer) for item in found["errors"]), found
    assert bench.http.get(f"/v1/searches/{search_id}/jobs").json()["jobs"] == []


def test_infinite_option_is_refused(bench: Bench, search_id: str) -> None:
    text = json.dumps({"retrain": {"learning_rate": float("inf")}})
    headers = {"content-type": "application/json"}
    response = bench.http.post(f"/v1/searches/{search_id}/trials/0/retrain", content=text, headers=headers)
    assert problem(response, 422)["errors"][0]["pointer"] == "/retrain/learning_rate"


def test_what_is_not_there_yet_is_a_conflict(bench: Bench) -> None:
    running = bench.running()
    write_study(bench.folder(running), ROWS)
    assert "RUNNING" in problem(bench.http.post(f"/v1/searches/{running}/audit"), 409)["detail"]
    assert "supernet" in problem(bench.http.post(f"/v1/searches/{running}/trials/0/figures"), 409)["detail"]
    problem(bench.http.post(f"/v1/searches/{running}/trials/0/retrain", json={"init": "supernet"}), 409)
    problem(bench.http.post(f"/v1/searches/{running}/trials/0/export"), 409)
    assert start(bench, f"{running}/trials/0/retrain")["state"] == "QUEUED"  # from scratch, it needs nothing


def test_search_is_not_deleted_while_a_job_begins(
    bench: Bench, search_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, delete = bench.restart(), bench.context.service._delete

    def begin_meanwhile(*seen: Any) -> bool:
        start(other, f"{search_id}/trials/0/retrain")
        return delete(*seen)

    monkeypatch.setattr(bench.context.service, "_delete", begin_meanwhile)
    assert "retrain job" in problem(bench.http.delete(f"/v1/searches/{search_id}"), 409)["detail"]
    assert bench.folder(search_id).config_path.exists()


def test_a_search_has_one_audit_at_a_time(bench: Bench, search_id: str) -> None:
    first = start(bench, f"{search_id}/audit")
    assert first["id"] in problem(bench.http.post(f"/v1/searches/{search_id}/audit"), 409)["detail"]
    extension = bench.http.post(f"/v1/searches/{search_id}/extend", json={"num_trials": 12})
    assert first["id"] in problem(extension, 409)["detail"]
    finish(bench, first)
    assert start(bench, f"{search_id}/audit")["id"] != first["id"]


@pytest.fixture(params=["delete", "audit", "extend"])
def faster(request: pytest.FixtureRequest, bench: Bench, search_id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What somebody asks of another process between the checks of a request and its record."""
    what, other, enqueue = str(request.param), bench.restart(), bench.context.service.enqueue

    def meanwhile(row: Search) -> tuple[Search, bool]:
        if what == "delete":
            assert other.http.delete(f"/v1/searches/{search_id}").status_code == 204
        else:
            body = {"num_trials": 12} if what == "extend" else {}
            assert other.http.post(f"/v1/searches/{search_id}/{what}", json=body).status_code == 202
        return enqueue(row)

    monkeypatch.setattr(bench.context.service, "enqueue", meanwhile)
    return what


def test_audit_is_not_made_of_what_changed_meanwhile(bench: Bench, search_id: str, faster: str) -> None:
    answer = bench.http.post(f"/v1/searches/{search_id}/audit")
    problem(answer, 404 if faster == "delete" else 409)
    assert len(bench.context.service.jobs_of(search_id)) == (faster == "audit")


def test_cancelled_job_stops(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/0/retrain")
    bench.round()
    tag = bench.http.get(f"/v1/jobs/{job['id']}").headers["etag"]
    stale = bench.http.post(f"/v1/jobs/{job['id']}/cancel", headers={"If-Match": '"other"'})
    assert job["id"] in problem(stale, 412)["detail"]
    answer = bench.http.post(f"/v1/jobs/{job['id']}/cancel", headers={"If-Match": tag})
    assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLING")
    bench.round()
    bench.round()
    assert get(bench, job)["state"] == "CANCELLED"
    assert bench.jobs.stopped == [job["id"]]
    assert "CANCELLED already" in problem(bench.http.post(f"/v1/jobs/{job['id']}/cancel"), 409)["detail"]
    assert bench.state(search_id) == "SUCCEEDED"


def test_search_is_not_deleted_under_a_job_and_takes_its_jobs_along(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/0/retrain")
    found = problem(bench.http.delete(f"/v1/searches/{search_id}"), 409)
    assert job["id"] in found["detail"]
    finish(bench, job)
    assert bench.http.delete(f"/v1/searches/{search_id}").status_code == 204
    problem(bench.http.get(f"/v1/jobs/{job['id']}"), 404)
    assert not bench.folder(search_id).path.exists()


def test_vanished_job_is_started_once_more_after_a_restart(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/0/retrain")
    bench.round()
    bench.jobs.states[job["id"]] = JobState.RUNNING
    say(job_folder(bench, job), "RUNNING", age_seconds=3600)
    bench.round()
    bench.settings = bench.settings.model_copy(update={"stale_seconds": 1e-6})
    other = bench.restart()
    other.jobs.states.clear()
    other.round()
    assert get(other, job)["state"] == "STARTING"
    assert other.jobs.submitted[-2:] == [job["id"], f"{job['id']}-2"]


def test_failed_job_tells_why_and_has_a_log(bench: Bench, search_id: str) -> None:
    job = start(bench, f"{search_id}/trials/1/export")
    bench.round()
    problem(bench.http.get(f"/v1/jobs/{job['id']}/logs"), 404)
    bench.jobs.logs[job["id"]] = "one\ntwo\n"
    say(job_folder(bench, job), "FAILED", error="the format onnx needs onnxruntime")
    bench.jobs.states[job["id"]] = JobState.FAILED
    bench.round()
    assert get(bench, job)["error"] == "the format onnx needs onnxruntime"
    assert bench.http.get(f"/v1/jobs/{job['id']}/logs", params={"tail": 1}).text == "two\n"


def test_scope_that_starts_nothing_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", require_tokens=True)
    headers = {scope: {"Authorization": f"Bearer {bench.context.tokens.create('x', scope)[1]}"} for scope in Scope}
    made = bench.http.post("/v1/searches", json=BODY, headers=headers[Scope.SUBMIT]).json()["id"]
    write_study(bench.folder(made), ROWS)
    paths = ["audit", *(f"trials/0/{kind}" for kind in ("retrain", "export", "figures"))]
    for path in paths:
        problem(bench.http.post(f"/v1/searches/{made}/{path}", headers=headers[Scope.READ]), 403)
        problem(bench.http.post(f"/v1/searches/{made}/{path}"), 401)
    job = bench.http.post(f"/v1/searches/{made}/trials/0/retrain", headers=headers[Scope.SUBMIT]).json()
    problem(bench.http.post(f"/v1/jobs/{job['id']}/cancel", headers=headers[Scope.READ]), 403)
    assert bench.http.get(f"/v1/jobs/{job['id']}", headers=headers[Scope.READ]).status_code == 200
