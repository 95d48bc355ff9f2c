"""The run database on SQLite and on PostgreSQL: its schema, and several processes on one database."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from service_helpers import BODY, Bench, write_study
from sqlalchemy import create_engine, inspect, text

from api.server.database import open_database
from api.server.migrations import VERSION_TABLE, make_config
from api.server.models import Base
from cluster.jobs import JobState
from cluster.run_folder import STUDY_VARIABLE
from slicemamba.errors import InputError


def test_migrations_give_the_tables_of_the_models(database_url: str) -> None:
    open_database(database_url)
    with create_engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_all_steps_go_back_too(database_url: str) -> None:
    open_database(database_url)
    with create_engine(database_url).begin() as connection:
        command.downgrade(make_config(connection), "base")
        assert set(inspect(connection).get_table_names()) == {VERSION_TABLE}
    open_database(database_url)


def test_database_of_before_attempts_were_numbered_is_brought_up_with_all_that_is_in_it(
    database_url: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "runs", database_url=database_url)
    search_id = bench.running()
    with create_engine(database_url).begin() as connection:
        command.downgrade(make_config(connection), "0004")
        connection.execute(text("UPDATE searches SET left_status_at = updated_at"))
    later = bench.restart()
    assert [change["new_state"] for change in later.get(search_id)["history"]] == ["QUEUED", "STARTING", "RUNNING"]
    later.drive(search_id, "FAILED", error="disk full", attempt=0)  # by a driver of that version
    later.round()
    assert (later.get(search_id)["state"], later.get(search_id)["error"]) == ("FAILED", "disk full")
    later.http.post(f"/v1/searches/{search_id}/resume")
    later.round()
    later.round()
    assert later.state(search_id) == "STARTING", "that was the word of the attempt before"


def test_database_of_a_newer_version_is_refused(database_url: str) -> None:
    open_database(database_url)
    with create_engine(database_url).begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"schema that this version does not know.*9999"):
        open_database(database_url)


def test_processes_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for sessions in pool.map(open_database, [database_url] * 8):
            with sessions() as session:
                assert session.execute(text("SELECT count(*) FROM searches")).scalar() == 0


def test_search_goes_its_way_over_two_processes(database_url: str, tmp_path: Path) -> None:
    first = Bench(tmp_path / "runs", database_url=database_url)
    second = first.restart()
    search_id = first.submit({**BODY, "labels": {"team": "a", "site": "b"}})
    second.round()
    first.round()
    assert first.jobs.submitted == [search_id]
    first.jobs.states[search_id] = JobState.RUNNING
    first.drive(search_id)
    second.round()
    first.folder(search_id).write_json("result.json", {"best": 0.9})
    first.drive(search_id, "SUCCEEDED")
    first.round()
    second.round()
    history = second.get(search_id)["history"]
    assert [change["new_state"] for change in history] == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    listed = second.http.get("/v1/searches", params={"label": ["team=a", "site=b"], "state": "SUCCEEDED"}).json()
    assert [item["id"] for item in listed["searches"]] == [search_id]
    assert second.http.get("/v1/searches", params={"label": "team=b"}).json()["searches"] == []
    assert second.http.delete(f"/v1/searches/{search_id}").status_code == 204
    assert first.http.get(f"/v1/searches/{search_id}").status_code == 404


@pytest.mark.parametrize(
    "labels",
    [{"a\0": "b"}, {"a": "b\0"}, {"\ud800": "b"}, {"": "b"}, {"a": "b" * 201}, {str(i): "" for i in range(65)}],
)
def test_what_a_database_cannot_keep_is_refused(database_url: str, tmp_path: Path, labels: dict[str, str]) -> None:
    bench = Bench(tmp_path / "runs", database_url=database_url)
    answer = bench.http.post(
        "/v1/searches", content=json.dumps({**BODY, "labels": labels}), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/labels")


def test_labels_of_full_length_are_kept_and_found(database_url: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", database_url=database_url)
    key, value = "".join(map(chr, range(0x10000, 0x10064))), "".join(map(chr, range(0x20000, 0x200C8)))
    search_id = bench.submit({**BODY, "labels": {key: value}})
    found = bench.http.get("/v1/searches", params={"label": f"{key}={value}"}).json()["searches"]
    assert [item["id"] for item in found] == [search_id]


def test_what_no_id_and_no_label_can_be_is_not_asked_for(database_url: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", database_url=database_url)
    assert bench.http.get("/v1/searches/s-%00").status_code == 404
    assert bench.http.get("/v1/jobs/%00").status_code == 404
    assert bench.http.get("/v1/searches", params={"label": "a=\0"}).status_code == 422
    warm = {**BODY, "search": {**BODY["search"], "warm_start": {"study": "s-\0"}}}
    assert bench.http.post("/v1/searches", json=warm).status_code == 422


def test_error_of_a_driver_is_kept_whatever_is_in_it(database_url: str, tmp_path: Path) -> None:
    """A log with holes, as a crash leaves them, holds NUL; names of files may hold what is no UTF-8."""
    bench = Bench(tmp_path / "runs", database_url=database_url)
    search_id = bench.running()
    bench.drive(search_id)
    bench.jobs.states[search_id] = JobState.SUCCEEDED
    bench.jobs.logs[search_id] = "killed\0here \udce4"
    bench.round()
    found = bench.get(search_id)
    assert found["state"] == "FAILED"
    assert found["error"].endswith("killed\ufffdhere ?")


def test_many_submissions_at_once_make_one_search_a_key(database_url: str, tmp_path: Path) -> None:
    benches = [Bench(tmp_path / "runs", database_url=database_url)]
    benches.append(benches[0].restart())

    def submit(i: int) -> tuple[str, str]:
        key = f"key-{i % 10}"
        return key, benches[i % 2].submit({**BODY, "name": key}, **{"Idempotency-Key": key})

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(submit, range(50)))
    assert len(set(made)) == len({search_id for _, search_id in made}) == 10
    assert len(benches[0].http.get("/v1/searches").json()["searches"]) == 10
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Bench.round, benches))
    assert set(benches[0].jobs.submitted) == {search_id for _, search_id in made}  # Ray takes each id once
    for search_id in set(benches[0].jobs.submitted):
        assert [change["new_state"] for change in benches[0].get(search_id)["history"]] == ["QUEUED", "STARTING"]


def test_studies_may_be_kept_in_the_database_too(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STUDY_VARIABLE, database_url)
    bench = Bench(tmp_path / "runs", database_url=database_url)
    one, other = bench.running(), bench.running()
    write_study(bench.folder(one), [{"dice": 0.5, "hd95": 4.0}, None, {"dice": 0.7, "hd95": 2.0}])
    write_study(bench.folder(other), [{"dice": 0.1, "hd95": 9.0}])
    assert bench.http.get(f"/v1/searches/{one}/trials").json()["total"] == 3
    assert bench.http.get(f"/v1/searches/{other}/trials").json()["total"] == 1
    front = bench.http.get(f"/v1/searches/{one}/pareto").json()["trials"]
    assert [trial["metrics"] for trial in front] == [{"dice": 0.7, "hd95": 2.0}]
