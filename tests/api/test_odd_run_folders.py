"""Run folders into which others have put what is no file of a run: links that lead out, pipes, devices, huge files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from service_helpers import Bench, write_study

from cluster import run_folder
from slicemamba.errors import InputError
from slicemamba.files import open_inside

SECRET = "root:x:0:0"


def link_out(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def link_in_a_circle(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, Callable[[Path], None]] = {
    "link": link_out,
    "loop": link_in_a_circle,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.timeout(60)  # a reader that waits for a pipe would wait for ever
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["config.json", "status.json", "result.json", "events.jsonl", "report.html"])
def test_file_that_is_none_is_as_if_it_were_not_there(bench: Bench, name: str, kind: str) -> None:
    search_id = bench.succeeded()
    path = bench.folder(search_id).path / name
    path.unlink(missing_ok=True)
    ODD[kind](path)
    bench.round()
    assert bench.state(search_id) == "SUCCEEDED"
    for route in ("result", "report", "events", "artifacts", f"artifacts/{name}", "trials", "pareto"):
        answer = bench.http.get(f"/v1/searches/{search_id}/{route}")
        assert answer.status_code in (200, 404, 422), (route, answer.text)
        assert SECRET not in answer.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ODD)
def test_folder_with_such_a_file_is_not_adopted_and_holds_nothing_up(bench: Bench, kind: str) -> None:
    folder = bench.settings.runs_dir / "odd"
    folder.mkdir(parents=True)
    ODD[kind](folder / "config.json")
    search_id = bench.submit()
    bench.round()
    assert bench.jobs.submitted == [search_id]
    assert bench.http.get("/v1/searches/odd").status_code == 404


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ODD)
def test_trials_and_scores_that_are_no_files(bench: Bench, kind: str) -> None:
    search_id = bench.running()
    folder = bench.folder(search_id)
    write_study(folder, [{"dice": 0.5, "hd95": 3.0}])
    scores = folder.counts_path("search", 0)
    scores.parent.mkdir(parents=True)
    ODD[kind](scores)
    assert bench.http.get(f"/v1/searches/{search_id}/trials/0/images").status_code == 404
    record = folder.path / ".trials" / "search.jsonl"
    record.unlink()
    ODD[kind](record)
    answer = bench.http.get(f"/v1/searches/{search_id}/trials")
    assert answer.status_code == 200
    assert SECRET not in answer.text


def test_damaged_scores_are_told(bench: Bench) -> None:
    search_id = bench.running()
    folder = bench.folder(search_id)
    write_study(folder, [{"dice": 0.5, "hd95": 3.0}])
    folder.counts_path("search", 0).parent.mkdir(parents=True)
    folder.counts_path("search", 0).write_bytes(b"PK half")
    answer = bench.http.get(f"/v1/searches/{search_id}/trials/0/images")
    assert (answer.status_code, "damaged" in answer.json()["detail"]) == (404, True)


def test_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    (folder / "real.json").write_text("{}")
    (folder / "link.json").symlink_to("real.json")
    with open_inside(folder, folder / "link.json") as file:
        assert file.read() == b"{}"


def test_huge_file_is_not_read_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.folder(bench.succeeded())
    monkeypatch.setattr(run_folder, "MAX_JSON_BYTES", 100)
    (folder.path / "result.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(InputError, match="is damaged"):
        folder.read_json("result.json")
