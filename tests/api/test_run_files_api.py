"""Results, artifacts, logs and events: what is read from the run folder and from Ray."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.responses import FileResponse
from service_helpers import Bench

from api.client.sse import ServerEvent, parse_events
from api.server.driver_output import DriversLog, LogPlace
from cluster.driver_log import kept_log
from cluster.jobs import JobState


def events(bench: Bench, search_id: str, after: str | None = None) -> list[ServerEvent]:
    headers = {"Last-Event-ID": after} if after else {}
    with bench.http.stream("GET", f"/v1/searches/{search_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parse_events(response.iter_lines()))


def test_result_is_there_when_the_search_has_ended(bench: Bench) -> None:
    search_id = bench.running()
    missing = bench.http.get(f"/v1/searches/{search_id}/result")
    assert missing.status_code == 404
    assert "RUNNING" in missing.json()["detail"]
    bench.folder(search_id).write_json("result.json", {"hd95": float("nan")})
    assert bench.http.get(f"/v1/searches/{search_id}/result").json() == {"hd95": None}


def test_artifacts_are_listed_and_served_whole_or_in_part(bench: Bench) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    folder.write_json("predictions/a.json", {"x": 1})
    (folder.path / ".result.json.123").write_text("half")
    listed = bench.http.get(f"/v1/searches/{search_id}/artifacts").json()["artifacts"]
    assert [item["path"] for item in listed] == ["config.json", "predictions/a.json", "result.json", "status.json"]
    url = f"/v1/searches/{search_id}/artifacts/predictions/a.json"
    assert bench.http.get(url).json() == {"x": 1}
    part = bench.http.get(url, headers={"Range": "bytes=0-0"})
    assert (part.status_code, part.text) == (206, "{")


def test_file_that_grows_meanwhile_is_served_as_long_as_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.succeeded()
    bench.folder(search_id).emit("phase", phase="search")
    path = bench.folder(search_id).path / "events.jsonl"
    before, look = path.read_bytes(), FileResponse.set_stat_headers

    def look_and_grow(answer: FileResponse, facts: os.stat_result) -> None:
        look(answer, facts)
        with path.open("ab") as file:
            file.write(b"x" * 200_000)

    monkeypatch.setattr(FileResponse, "set_stat_headers", look_and_grow)
    answer = bench.http.get(f"/v1/searches/{search_id}/artifacts/events.jsonl")
    assert answer.content == before
    assert answer.headers["Content-Length"] == str(len(before))


def test_files_that_are_gone_meanwhile_are_not_listed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    folder.write_json("checkpoint/a.json", {})
    folder.write_json(".ray/checkpoint/b.json", {})
    scandir = os.scandir

    def move_and_scan(path: Any) -> Any:
        if Path(path).name == "checkpoint":
            Path(path).rename(tmp_path / "elsewhere")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", move_and_scan)
    listed = bench.http.get(f"/v1/searches/{search_id}/artifacts").json()["artifacts"]
    assert [item["path"] for item in listed] == ["config.json", "result.json", "status.json"]


def test_report_and_audit_are_artifacts(bench: Bench) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    folder.write_json("audit.json", {"verdict": {"word": "weak"}})
    folder.write_json("audit/retrained/00/config.json", {})
    (folder.path / "report.html").write_text("<!doctype html><title>x</title>")
    url = f"/v1/searches/{search_id}/artifacts"
    listed = {item["path"] for item in bench.http.get(url).json()["artifacts"]}
    assert {"audit.json", "report.html", "audit/retrained/00/config.json"} <= listed
    assert bench.http.get(f"{url}/audit.json").json()["verdict"]["word"] == "weak"
    page = bench.http.get(f"{url}/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-disposition"].startswith("inline")


@pytest.mark.parametrize(
    "path",
    [
        "../searches.db",
        "%2e%2e/searches.db",
        "..%2fsearches.db",
        "predictions/../../searches.db",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "link.txt",
        "linked/secret.txt",
        "loop",
        ".hidden",
        "predictions",
        "a%00b",
        "none.png",
        "",
    ],
)
def test_nothing_outside_the_run_folder_is_served(bench: Bench, tmp_path: Path, path: str) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id).path
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("not for you")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "loop").symlink_to("loop")
    (folder / ".hidden").write_text("not for you")
    (folder / "predictions").mkdir()
    answer = bench.http.get(f"/v1/searches/{search_id}/artifacts/{path}", follow_redirects=False)
    assert answer.status_code in (307, 404)
    assert "not for you" not in answer.text
    listed = bench.http.get(f"/v1/searches/{search_id}/artifacts").json()["artifacts"]
    assert [item["path"] for item in listed] == ["config.json", "result.json", "status.json"]


def test_logs_come_from_ray(bench: Bench) -> None:
    search_id = bench.running()
    url = f"/v1/searches/{search_id}/logs"
    assert bench.http.get(url).status_code == 404
    bench.jobs.logs[search_id] = "one\ntwo\nthree\n"
    assert bench.http.get(url).text == "one\ntwo\nthree\n"
    assert bench.http.get(url, params={"tail": 2}).text == "two\nthree\n"
    bench.jobs.down = True
    down = bench.http.get(url)
    assert down.status_code == 503
    assert bench.settings.ray_address not in down.text


def keep_log(bench: Bench, search_id: str, text: str) -> None:
    """As the driver of a search does."""
    with kept_log(bench.folder(search_id).path, search_id):
        print(text, end="")


def test_log_outlives_ray_and_its_job(bench: Bench) -> None:
    search_id = bench.succeeded()
    keep_log(bench, search_id, "one\ntwo\n")
    bench.jobs.logs[search_id] = "what Ray says is not asked for\n"
    bench.jobs.down = True
    assert bench.http.get(f"/v1/searches/{search_id}/logs", params={"tail": 1}).text == "two\n"
    found = lines(bench, f"searches/{search_id}")
    assert [event.data.get("line") for event in found] == ["one", "two", None]
    assert lines(bench, f"searches/{search_id}", found[0].id)[0].data == {"line": "two"}


def test_log_does_not_tell_where_things_are_on_the_server(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/ada")
    search_id = bench.succeeded()
    told = f"run folder: {bench.folder(search_id).path}\nat 10.2.0.7:6379 (ip=10.2.0.8)\nray 2.60.0 in /srv/ada/.venv\n"
    keep_log(bench, search_id, told + "/home/bob/x /root/y\n")
    shown = f"run folder: <runs>/{search_id}\nat <address> (ip=<address>)\nray 2.60.0 in ~/.venv\n~/x ~/y\n"
    assert bench.http.get(f"/v1/searches/{search_id}/logs").text == shown
    followed = [event.data["line"] for event in lines(bench, f"searches/{search_id}")[:-1]]
    assert followed == shown.splitlines()
    assert not any(
        "logs" in one["path"] for one in bench.http.get(f"/v1/searches/{search_id}/artifacts").json()["artifacts"]
    )


def lines(bench: Bench, path: str, after: str | None = None, **params: object) -> list[ServerEvent]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    with bench.http.stream("GET", f"/v1/{path}/logs", headers=headers, params=params) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parse_events(response.iter_lines()))


def test_followed_log_ends_with_the_search_and_resumes_after_any_line(bench: Bench) -> None:
    search_id = bench.succeeded()
    bench.jobs.logs[search_id] = "one\ntwo\x85\r\nthree"
    path = f"searches/{search_id}"
    found = lines(bench, path)
    assert [event.data for event in found] == [
        {"line": "one"}, {"line": "two\x85"}, {"line": "three"}, {"state": "SUCCEEDED"},
    ]  # fmt: skip
    assert [event.kind for event in found] == ["log", "log", "log", "end"]
    assert [event.data for event in lines(bench, path, found[0].id)] == [event.data for event in found[1:]]
    assert [event.kind for event in lines(bench, path, found[2].id)] == ["end"]
    assert [event.data.get("line") for event in lines(bench, path, tail=1)] == ["three", None]
    followed = bench.http.get(f"/v1/{path}/logs", params={"follow": "true"})
    assert followed.headers["content-type"].startswith("text/event-stream")
    assert followed.text.count("event: log") == 3


def test_followed_log_goes_on_with_the_next_attempt(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "one\ntwo\n"
    bench.http.post(f"/v1/searches/{search_id}/pause")
    bench.round()
    bench.http.post(f"/v1/searches/{search_id}/resume")
    bench.round()
    bench.jobs.logs[f"{search_id}-2"] = "three\n"
    bench.drive(search_id, "FAILED", error="x")
    bench.jobs.states[f"{search_id}-2"] = JobState.FAILED
    bench.round()
    assert bench.state(search_id) == "FAILED"
    assert [event.data.get("line") for event in lines(bench, f"searches/{search_id}")] == ["three", None]
    assert [event.data.get("line") for event in lines(bench, f"searches/{search_id}", "1-4")] == ["two", "three", None]


def test_half_a_line_waits_for_its_end(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "one\nhal"
    log = DriversLog(bench.context.service, bench.jobs, bench.settings, bench.context.service.get(search_id))
    place = log.place_of_tail(10)
    assert place == LogPlace(1, 0)

    def more() -> list[str]:
        nonlocal place
        batch = log.read(place)
        if batch.pieces:
            place = cast(LogPlace, batch.pieces[-1].after)
        events = parse_events("".join([*(piece.text for piece in batch.pieces), batch.end or ""]).splitlines())
        return [event.data.get("line", event.kind) for event in events]

    assert more() == ["one"]
    assert more() == []
    bench.jobs.logs[search_id] += "f\nth"
    bench.jobs.down = True  # a moment without Ray costs nothing
    assert more() == []
    bench.jobs.down = False
    assert more() == ["half"]
    bench.jobs.logs[search_id] += "e end"
    bench.drive(search_id, "FAILED", error="x")
    bench.round()
    assert more() == ["the end", "end"]
    bench.http.delete(f"/v1/searches/{search_id}")
    assert more() == ["end"]


def test_log_that_is_yet_to_come_is_waited_for(bench: Bench) -> None:
    search_id = bench.running()
    log = DriversLog(bench.context.service, bench.jobs, bench.settings, bench.context.service.get(search_id))
    assert log.place_of_tail(1) is None
    bench.jobs.logs[search_id] = "one\ntwo\n"
    assert log.place_of_tail(1) == LogPlace(1, 4)
    del bench.jobs.logs[search_id]
    bench.drive(search_id, "FAILED", error="x")
    bench.round()
    assert log.place_of_tail(1) == LogPlace(1, 0)
    assert [event.kind for event in lines(bench, f"searches/{search_id}")] == ["end"]


@pytest.mark.parametrize("place", ["3", "0-0", "2-0", "-1", "1-x", "1-\u00b2"])
def test_log_event_id_that_was_never_given_is_refused(bench: Bench, place: str) -> None:
    search_id = bench.succeeded()
    headers = {"Last-Event-ID": place.encode(), "Accept": "text/event-stream"}
    answer = bench.http.get(f"/v1/searches/{search_id}/logs", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_events_end_with_the_search_and_resume_after_any_of_them(bench: Bench) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    folder.emit("phase", phase="supernet")
    folder.emit("progress", phase="supernet", done=1, loss=float("nan"))
    found = events(bench, search_id)
    assert [event.kind for event in found] == ["phase", "progress", "end"]
    assert found[1].data["loss"] is None
    assert found[-1].data == {"state": "SUCCEEDED"}
    assert [event.kind for event in events(bench, search_id, found[0].id)] == ["progress", "end"]
    assert [event.kind for event in events(bench, search_id, found[1].id)] == ["end"]


def test_half_written_event_is_left_for_later(bench: Bench) -> None:
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    folder.emit("phase", phase="search")
    with (folder.path / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "late"}))
    assert [event.kind for event in events(bench, search_id)] == ["phase", "end"]


@pytest.mark.parametrize("place", ["3", "99999", "-1", "x", "²", "9" * 400, "1-" + "9" * 300, "9" * 400 + "-1"])
def test_event_id_that_was_never_given_is_refused(bench: Bench, place: str) -> None:
    search_id = bench.succeeded()
    bench.folder(search_id).emit("phase", phase="search")
    answer = bench.http.get(f"/v1/searches/{search_id}/events", headers={"Last-Event-ID": place.encode()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_parse_events_skips_comments_and_unfinished_events() -> None:
    lines = [": hello", "", "id: 4", "event: phase", 'data: {"a": 1}', "", "event: half", "data: {}"]
    assert list(parse_events(lines)) == [ServerEvent("4", "phase", {"a": 1})]


def test_no_file_tells_where_data_lies_on_the_server(bench: Bench) -> None:
    search_id = bench.submit()
    folder = bench.folder(search_id)
    folder.write_json("config.json", {"data": {"name": "kvasir", "root": "/srv/secret"}, "search": {}})
    folder.write_json("retrained/config.json", {"data": {"name": "kvasir", "root": "/srv/secret"}, "num_classes": 1})
    folder.write_json("supernet/config.json", {"data": None, "num_classes": 1})
    for name in ("config.json", "retrained/config.json", "supernet/config.json"):
        answer = bench.http.get(f"/v1/searches/{search_id}/artifacts/{name}")
        assert answer.status_code == 200
        assert "secret" not in answer.text
        assert answer.json()["data"] in (None, {"name": "kvasir"})


def test_report_is_served_where_its_scripts_reach_nothing(bench: Bench) -> None:
    search_id = bench.submit()
    missing = bench.http.get(f"/v1/searches/{search_id}/report")
    assert (missing.status_code, "no report yet" in missing.text) == (404, True)
    folder = bench.folder(search_id).path
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>ä</h1>", encoding="utf-8")
    for path in ("report", "artifacts/report.html"):
        answer = bench.http.get(f"/v1/searches/{search_id}/{path}")
        assert answer.text == "<h1>ä</h1>"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")


def test_audit_is_served_once_there_is_one(bench: Bench) -> None:
    search_id = bench.submit()
    missing = bench.http.get(f"/v1/searches/{search_id}/audit")
    assert (missing.status_code, "POST" in missing.json()["detail"]) == (404, True)
    bench.folder(search_id).write_json("audit.json", {"verdict": "weak", "tau": float("nan")})
    assert bench.http.get(f"/v1/searches/{search_id}/audit").json() == {"verdict": "weak", "tau": None}
