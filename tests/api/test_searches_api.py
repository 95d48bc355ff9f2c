"""Submitting, finding, cancelling and deleting searches over HTTP."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service_helpers import BODY, Bench, write_study
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.server.dependencies import page_token
from api.server.models import Search
from cluster import disk
from cluster.capacity import Node
from cluster.run_folder import STUDY_KINDS, STUDY_VARIABLE
from nas.study import open_storage

JSON = {"Content-Type": "application/json"}


def problem(response: Any, status: int) -> dict[str, Any]:
    """The body of an error, after a check that it is what RFC 9457 asks for."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "instance", "errors"} <= body.keys()
    return body


def test_submitted_search_is_queued_and_found_at_its_location(bench: Bench) -> None:
    response = bench.http.post("/v1/searches", json={**BODY, "labels": {"team": "skin"}})
    assert response.status_code == 202
    search = bench.http.get(response.headers["location"]).json()
    assert search["state"] == "QUEUED"
    assert search["labels"] == {"team": "skin"}
    assert search["spec"]["search"]["num_trials"] == 8
    assert "root" not in search["spec"]["data"]
    assert [change["new_state"] for change in search["history"]] == ["QUEUED"]


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"kind": "retrain"}, "/kind", "must be of kind 'search'"),
        ({"kind": "pretrain"}, "/kind", "must be of kind 'search'"),
        ({"kind": "nonsense"}, "/kind", "kind must be one of"),
        ({"data": {"name": "kvasir"}}, "/data/name", "known: synthetic"),
        ({"data": {"name": "x", "root": "/etc"}}, "/data/root", "/v1/datasets"),
        ({"init": "/etc/passwd"}, "/init", "'supernet' or null only"),
        ({"search": {"objectives": ["beauty"]}}, "/search/objectives/0", "must be one of dice"),
        ({"space": {"choices": ["0x2", "2x2"]}}, "/space/choices/0", "1 or more"),
        ({"serach": {}}, "/serach", "unknown field"),
        ({"search": {"num_trials": 10**9}, "space": {"choices": ["1x1", "2x2"]}}, "", "none is evaluated twice"),
    ],
)
def test_bad_job_is_refused_with_a_pointer(
    bench: Bench, change: dict[str, Any], pointer: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLICEMAMBA_DATA", raising=False)  # else sets are known by name that are not the service's
    body = {key: value for key, value in {**BODY, **change}.items() if key != "labels"}
    for path in ("/v1/searches", "/v1/searches/validate"):
        found = problem(bench.http.post(path, json=body), 422)
        assert any(pointer in (item["pointer"] or "") for item in found["errors"]), found
        assert words in json.dumps(found, ensure_ascii=False)
    assert bench.http.get("/v1/searches").json()["searches"] == []


def test_warm_start_names_an_earlier_search_and_shows_no_folder(bench: Bench) -> None:
    earlier = bench.http.post("/v1/searches", json=BODY).json()["id"]
    body = {**BODY, "search": {**BODY["search"], "warm_start": {"study": earlier, "top": 3}}}
    answer = bench.http.post("/v1/searches", json=body).json()
    assert answer["spec"]["search"]["warm_start"] == {"study": earlier, "top": 3}
    assert str(bench.settings.runs_dir) not in json.dumps(answer)
    kept = bench.context.service.get(answer["id"]).spec["search"]["warm_start"]
    assert Path(kept["study"]) == bench.context.service.run_folder(earlier).path


@pytest.mark.parametrize("study", ["/etc", "../other", "s-00000000000000000000000000"])
def test_warm_start_from_what_is_no_search_here_is_refused(bench: Bench, study: str) -> None:
    body = {**BODY, "search": {**BODY["search"], "warm_start": {"study": study}}}
    found = problem(bench.http.post("/v1/searches", json=body), 422)
    assert found["errors"][0]["pointer"] == "/search/warm_start/study"
    assert "names an earlier search by its id" in json.dumps(found)


def test_infinite_number_is_refused(bench: Bench) -> None:
    text = json.dumps({**BODY, "supernet": {"learning_rate": float("inf")}})
    response = bench.http.post("/v1/searches", content=text, headers={"content-type": "application/json"})
    assert problem(response, 422)["errors"][0]["pointer"] == "/supernet/learning_rate"


def test_faulty_data_set_is_refused_by_file_name(tmp_path: Path) -> None:
    images = tmp_path / "data" / "broken" / "train" / "images"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(b"this is no picture")
    bench = Bench(tmp_path / "runs", data_root=tmp_path / "data")
    assert bench.http.get("/v1/datasets").json() == {"datasets": ["synthetic", "broken"]}
    found = problem(bench.http.post("/v1/searches", json={**BODY, "data": {"name": "broken"}}), 422)
    assert found["errors"][0]["pointer"] == "/data/name"
    assert found["detail"].startswith("data folder broken is not laid out as expected")
    for split in ("train", "val", "test"):
        for part in ("images", "masks"):
            (images.parents[1] / split / part).mkdir(parents=True, exist_ok=True)
    found = problem(bench.http.post("/v1/searches", json={**BODY, "data": {"name": "broken"}}), 422)
    assert found["detail"] == "data set 'broken' has 3 faults"
    assert str(tmp_path) not in json.dumps(found)


def test_body_that_is_no_job(bench: Bench) -> None:
    headers = {"content-type": "application/json"}
    assert "valid JSON" in problem(bench.http.post("/v1/searches", content="{", headers=headers), 422)["detail"]
    assert "mapping of options" in problem(bench.http.post("/v1/searches", json=[1]), 422)["detail"]
    assert "mapping of options" in problem(bench.http.post("/v1/searches"), 422)["detail"]


def test_validate_tells_what_a_search_takes(bench: Bench) -> None:
    search = {**BODY["search"], "random_baseline": True}
    found = bench.http.post("/v1/searches/validate", json={**BODY, "search": search}).json()
    assert found["evaluations"] == 16
    assert found["space_size"] == 4**4
    assert (found["images_trained"], found["images_evaluated"]) == ((300 + 300 + 300) * 4, 16 * 2), (
        "supernet, winner and U-Net"
    )
    assert found["data"]["num_images"]["train"] == 4


def test_validate_tells_what_the_cluster_has_no_room_for(bench: Bench) -> None:
    body = {**BODY, "resources": {"train": {"gpus": 1}}}
    url = "/v1/searches/validate"
    without = bench.http.post(url, json=body).json()["advice"]
    bench.jobs.nodes = [Node("10.0.0.7", 4, 0)]
    told = [one for one in bench.http.post(url, json=body).json()["advice"] if one not in without]
    assert len(told) == 1
    assert told[0].startswith("no node of the cluster has a GPU")
    told = bench.http.post(url, json={**BODY, "resources": {"train": {"cpus": 9}}}).json()["advice"]
    assert "there is room for 0, on <address> with 4 CPUs" in told[-1]
    assert bench.http.post(url, json=BODY).json()["advice"] == without


def test_last_warning_is_shown_while_a_search_runs_and_with_it_afterwards(bench: Bench) -> None:
    search_id = bench.running()
    assert bench.get(search_id)["warning"] is None
    bench.drive(search_id, warning="Ray's head at 10.0.0.7:6379 does not answer")
    shown = "Ray's head at <address> does not answer"
    assert bench.get(search_id)["warning"] == shown
    assert bench.http.get("/v1/searches").json()["searches"][0]["warning"] == shown
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    bench.drive(search_id, "FAILED", error="x", warning="few steps")
    bench.round()
    assert bench.get(search_id)["warning"] == "few steps"
    assert bench.http.get("/v1/searches").json()["searches"][0]["warning"] is None
    bench.http.post(f"/v1/searches/{search_id}/resume")
    assert bench.get(search_id)["warning"] is None, "it was that of an attempt before"


def test_same_key_and_body_give_the_same_search(bench: Bench) -> None:
    first = bench.submit(**{"Idempotency-Key": "k"})
    again = bench.http.post("/v1/searches", json=BODY, headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == first
    assert again.headers["idempotent-replayed"] == "true"
    other = bench.http.post("/v1/searches", json={**BODY, "name": "other"}, headers={"Idempotency-Key": "k"})
    assert first in problem(other, 409)["detail"]
    assert bench.submit() != bench.submit()


def test_concurrent_submits_make_one_search_a_key(bench: Bench) -> None:
    with ThreadPoolExecutor(50) as pool:
        ids = list(pool.map(lambda i: bench.submit(**{"Idempotency-Key": f"key-{i % 10}"}), range(50)))
    assert len(set(ids)) == 10
    assert all(ids[i] == ids[i % 10] for i in range(50))
    assert len(bench.http.get("/v1/searches").json()["searches"]) == 10


def all_pages(bench: Bench, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = bench.http.get("/v1/searches", params={"page_size": 2, **params}).json()
        found += page["searches"]
        if page["next_page_token"] is None:
            return found
        params["page_token"] = page["next_page_token"]


def test_list_pages_through_all_newest_first(bench: Bench) -> None:
    made = [bench.submit() for _ in range(5)]
    found = [search["id"] for search in all_pages(bench)]
    assert sorted(found) == sorted(made)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("sort", ["name", "-name", "state", "-state", "dataset", "-created_at", "created_at"])
def test_list_pages_through_all_in_the_order_asked_for(bench: Bench, sort: str) -> None:
    """Several with the same value stand on both sides of a page's end."""
    made = [bench.submit({**BODY, "name": name}) for name in ("b", "ü ö", "b", "B", "b", "a")]
    bench.http.post(f"/v1/searches/{made[1]}/cancel")
    found = all_pages(bench, sort=sort)
    assert sorted(search["id"] for search in found) == sorted(made)
    keys = [(search[sort.removeprefix("-")], search["id"]) for search in found]
    assert keys == sorted(keys, reverse=sort.startswith("-"))


def test_list_filters_by_state_and_label(bench: Bench) -> None:
    skin = bench.submit({**BODY, "labels": {"team": "skin", "it's": 'a "label"=x'}})
    gut = bench.submit({**BODY, "labels": {"team": "gut"}})
    bench.http.post(f"/v1/searches/{gut}/cancel")

    def ids(**params: Any) -> list[str]:
        return [search["id"] for search in bench.http.get("/v1/searches", params=params).json()["searches"]]

    assert ids(label="team=skin") == [skin]
    assert ids(label=["team=skin", 'it\'s=a "label"=x']) == [skin]
    assert ids(label=["team=skin", "team=gut"]) == []
    assert ids(state="CANCELLING") == [gut]
    assert set(ids(state=["CANCELLING", "QUEUED"])) == {skin, gut}


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"page_token": "%%%"}, "page_token"),
        ({"page_token": "aGVsbG8"}, "page_token"),
        ({"page_token": page_token('["name", "a", "a"]')}, "page_token"),  # of another order
        ({"page_token": page_token('["name", "\\ud800", "a"]'), "sort": "name"}, "page_token"),
        ({"page_token": page_token('["-created_at", "then", "a"]')}, "page_token"),
        ({"page_token": page_token("[" * 20_000)}, "page_token"),
        ({"page_token": page_token("7")}, "page_token"),
        ({"sort": "colour"}, "sort"),
        ({"page_size": 0}, "page_size"),
        ({"state": "LOST"}, "state.0"),
        ({"label": "team"}, "label"),
    ],
)
def test_bad_list_parameter_is_named(bench: Bench, params: dict[str, Any], parameter: str) -> None:
    found = problem(bench.http.get("/v1/searches", params=params), 422)
    assert found["errors"][0]["parameter"] == parameter


def test_cancelled_before_it_started(bench: Bench) -> None:
    search_id = bench.submit()
    assert bench.http.post(f"/v1/searches/{search_id}/cancel").json()["state"] == "CANCELLING"
    assert bench.http.post(f"/v1/searches/{search_id}/cancel").status_code == 202
    bench.round()
    assert bench.state(search_id) == "CANCELLED"
    assert bench.jobs.submitted == []
    assert "CANCELLED already" in problem(bench.http.post(f"/v1/searches/{search_id}/cancel"), 409)["detail"]


def test_delete_takes_ended_searches_only(bench: Bench) -> None:
    search_id = bench.submit(**{"Idempotency-Key": "k"})
    assert "cancel it" in problem(bench.http.delete(f"/v1/searches/{search_id}"), 409)["detail"]
    done = bench.succeeded()
    assert bench.http.delete(f"/v1/searches/{done}").status_code == 204
    assert not bench.folder(done).path.exists()
    problem(bench.http.get(f"/v1/searches/{done}"), 404)
    assert [s["id"] for s in bench.http.get("/v1/searches").json()["searches"]] == [search_id]


def test_search_that_goes_on_while_it_is_deleted_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id, other = bench.succeeded(), bench.restart()
    delete = bench.context.service._delete

    def go_on_meanwhile(*seen: Any) -> bool:
        other.http.post(f"/v1/searches/{search_id}/extend", json={"num_trials": 12})
        return delete(*seen)

    monkeypatch.setattr(bench.context.service, "_delete", go_on_meanwhile)
    assert "QUEUED" in problem(bench.http.delete(f"/v1/searches/{search_id}"), 409)["detail"]
    assert bench.folder(search_id).config_path.exists()
    bench.round()
    assert bench.state(search_id) == "STARTING"


def test_folder_is_back_when_the_record_could_not_be_deleted(bench: Bench) -> None:
    search_id = bench.succeeded()

    def fail(_: Session) -> None:
        raise RuntimeError("the database went away")

    event.listen(Session, "before_commit", fail)
    try:
        problem(bench.http.delete(f"/v1/searches/{search_id}"), 500)
    finally:
        event.remove(Session, "before_commit", fail)
    assert bench.state(search_id) == "SUCCEEDED"
    assert bench.folder(search_id).result_path.exists()
    assert bench.http.delete(f"/v1/searches/{search_id}").status_code == 204


def test_what_a_killed_process_left_of_a_deleted_search_is_removed_at_the_next_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = bench.succeeded()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_: None)
        assert bench.http.delete(f"/v1/searches/{search_id}").status_code == 204
    bench.round()
    assert bench.http.get("/v1/searches").json()["searches"] == []
    assert len(list(bench.settings.runs_dir.glob(".deleted-*"))) == 1
    with bench.restart().http:
        deadline = time.monotonic() + 20
        while list(bench.settings.runs_dir.glob(".deleted-*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_link_in_the_place_of_a_run_is_removed_and_not_what_it_leads_to(bench: Bench, tmp_path: Path) -> None:
    search_id = bench.succeeded()
    bench.folder(search_id).path.rename(tmp_path / "elsewhere")
    (bench.settings.runs_dir / search_id).symlink_to(tmp_path / "elsewhere")
    assert bench.http.delete(f"/v1/searches/{search_id}").status_code == 204
    assert not (bench.settings.runs_dir / search_id).is_symlink()
    assert (tmp_path / "elsewhere" / "result.json").exists()


def test_deleted_search_leaves_no_trials_in_a_database(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{bench.settings.runs_dir / 'studies.db'}"
    monkeypatch.setenv(STUDY_VARIABLE, url)
    kept, deleted = bench.succeeded(), bench.succeeded()
    for search_id in (kept, deleted):
        for kind in STUDY_KINDS:
            write_study(bench.folder(search_id), [{"dice": 0.5, "hd95": 4.0}], kind)
    assert bench.http.delete(f"/v1/searches/{deleted}").status_code == 204
    assert {study.study_name for study in open_storage(url).get_all_studies()} == {
        bench.folder(kept).study_name(kind) for kind in STUDY_KINDS
    }


def test_unknown_places_and_methods_are_problems(bench: Bench) -> None:
    assert "/docs" in problem(bench.http.get("/v1/nothing"), 404)["detail"]
    assert "/v1/searches" in problem(bench.http.get("/v1/searches/s-none"), 404)["detail"]
    found = bench.http.put("/v1/searches")
    assert "PUT" in problem(found, 405)["detail"]
    assert found.headers["allow"] == "GET, POST"
    assert bench.http.put("/v1/searches/s-1/artifacts/a/b").headers["allow"] == "GET"


def test_fault_of_the_service_is_a_problem_without_its_cause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(type(bench.context.service), "get", fail)
    found = problem(bench.http.get("/v1/searches/s-1"), 500)
    assert "secret" not in json.dumps(found)


def test_health_and_readiness(bench: Bench) -> None:
    assert bench.http.get("/healthz").json() == {"status": "ok"}
    assert bench.http.get("/readyz").status_code == 200
    bench.jobs.down = True
    found = problem(bench.http.get("/readyz"), 503)
    assert "Ray" in found["detail"]
    assert bench.settings.ray_address not in json.dumps(found)


def test_service_whose_disk_is_full_or_that_stands_still_is_not_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 1 << 62)
    found = problem(bench.http.get("/readyz"), 503)
    assert "disk" in found["detail"]
    assert str(bench.settings.runs_dir) not in json.dumps(found)
    monkeypatch.undo()
    monkeypatch.setattr(bench.context.reconciler, "seconds_since_round", lambda: 61.0)
    assert "61 seconds ago" in problem(bench.http.get("/readyz"), 503)["detail"]
    monkeypatch.setattr(bench.context.reconciler, "seconds_since_round", lambda: 59.0)
    assert bench.http.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
    ],
)
def test_submission_to_a_full_disk_gives_507_and_leaves_nothing(
    bench: Bench, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(bench.context.service, "enqueue", fail)
    found = problem(bench.http.post("/v1/searches", json=BODY), 507)
    assert "disk is full" in found["detail"]
    monkeypatch.undo()
    assert bench.http.get("/v1/searches").json()["searches"] == []


def test_openapi_documents_job_and_problems(bench: Bench) -> None:
    document = bench.http.get("/openapi.json").json()
    submit = document["paths"]["/v1/searches"]["post"]
    schemas = document["components"]["schemas"]
    body = submit["requestBody"]["content"]["application/json"]
    job = body["schema"]
    data = schemas[job["properties"]["data"]["$ref"].rpartition("/")[2]]
    assert {"search", "supernet", "retrain"} <= job["properties"].keys()
    assert "root" not in data["properties"]
    assert "application/problem+json" in submit["responses"]["422"]["content"]
    assert "HTTPValidationError" not in json.dumps(document)
    example = next(iter(body["examples"].values()))["value"]
    assert bench.http.post("/v1/searches/validate", json=example).status_code == 200


@pytest.mark.parametrize(
    ("section", "values", "pointer"),
    [
        ("data", {"name": "synthetic", "synthetic": {"num_train": 10**12}}, "/data/synthetic/num_train"),
        ("data", {"name": "synthetic", "image_size": [10**6, 10**6]}, "/data/image_size/0"),
        ("model", {"encoder_depths": [10**9], "decoder_depths": [1]}, "/model/encoder_depths/0"),
        ("space", {"choices": [f"1x{i}" for i in range(1, 100)]}, "/space/choices"),
    ],
)
def test_requests_that_would_cost_too_much_to_check_are_refused(
    bench: Bench, section: str, values: dict[str, Any], pointer: str
) -> None:
    answer = bench.http.post("/v1/searches/validate", json={**BODY, section: values})
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


def test_largest_synthetic_set_is_checked_at_once(bench: Bench) -> None:
    largest = {"num_train": 100_000, "num_val": 100_000, "num_search": 100_000, "num_test": 100_000}
    body = {**BODY, "data": {"name": "synthetic", "image_size": [8192, 8192], "synthetic": largest}}
    answer = bench.http.post("/v1/searches/validate", json=body).json()
    assert answer["data"]["num_images"]["train"] == 100_000
    assert all(0 < share < 1 for share in answer["data"]["foreground_share"].values())


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"data": {"name": "synthetic", "test_set": "\ud800"}}, "/data/test_set"),
        ({"data": {"name": "synthetic", "class_names": ["a", "\udfff"]}}, "/data/class_names"),
        ({"data": {"name": "synthetic", "patient_pattern": "(a\0)"}}, "/data/patient_pattern"),
        ({"labels": {"\ud800": "x"}}, "/labels"),
        ({"\ud800": 1}, "/"),
    ],
)
def test_text_that_cannot_be_written_is_refused_and_not_stored(
    bench: Bench, change: dict[str, Any], pointer: str
) -> None:
    refused = bench.http.post("/v1/searches", content=json.dumps({**BODY, **change}), headers=JSON)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    assert bench.http.get("/v1/searches").json()["searches"] == []


def test_field_that_is_given_twice_is_refused(bench: Bench) -> None:
    body = json.dumps(BODY)[:-1] + ', "data": {"name": "synthetic"}}'
    refused = bench.http.post("/v1/searches", content=body, headers=JSON)
    assert refused.status_code == 422
    assert "'data' is given twice" in refused.json()["detail"]


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"kind": "search", "data": {"test_set": "\ud800"}}},
        {"spec": {"of_an_older_version": True}, "progress": {"search": {"percent": 3}}},
        {"state": "WAITING_FOR_BETTER_TIMES"},
        {"kind": "search", "progress": {"search": "3/8"}, "state": "RUNNING"},
    ],
)
def test_row_of_another_version_breaks_no_list(bench: Bench, change: dict[str, Any]) -> None:
    good, bad = (bench.http.post("/v1/searches", json=BODY).json()["id"] for _ in range(2))
    with bench.context.service._sessions.begin() as session:
        session.execute(update(Search).where(Search.id == bad).values(**change))
    listed = bench.http.get("/v1/searches")
    assert listed.status_code == 200
    assert good in [row["id"] for row in listed.json()["searches"]]
    expected = 409 if change.get("state") == "WAITING_FOR_BETTER_TIMES" else 200
    assert bench.http.get(f"/v1/searches/{bad}").status_code == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("one", ["Number One"]),
        ("LAB-", ["other", "Number One"]),
        ("owner", ["other"]),
        ("synthetic", ["other", "Number One"]),
        ("%", []),
        ("_", []),
        ("", ["other", "Number One"]),
    ],
)
def test_searches_are_found_by_a_text(bench: Bench, text: str, names: list[str]) -> None:
    bench.submit({**BODY, "name": "Number One", "labels": {"team": "lab-a"}})
    bench.submit({**BODY, "name": "other", "labels": {"owner": "lab-b"}})
    found = bench.http.get("/v1/searches", params={"text": text}).json()["searches"]
    assert [one["name"] for one in found] == names
    assert {one["dataset"] for one in found} <= {"synthetic"}
    if found:
        assert bench.http.get(f"/v1/searches/{found[0]['id']}").json()["dataset"] == "synthetic"


def test_text_with_nul_is_refused(bench: Bench) -> None:
    assert bench.http.get("/v1/searches", params={"text": "a\0"}).status_code == 422
