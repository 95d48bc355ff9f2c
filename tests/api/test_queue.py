"""The queue: how many searches run at once, in which order the others follow, and who asked for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from service_helpers import BODY, Bench, FakeJobs, write_study

from api.server.queue import UNKNOWN_SIZE, places
from api.server.tokens import Scope
from cluster.capacity import Node
from cluster.jobs import JobState


def small(priority: int = 0) -> dict[str, Any]:
    return {**BODY, "priority": priority}


def end(bench: Bench, search_id: str) -> None:
    bench.drive(search_id, "FAILED", error="enough")
    bench.round()
    bench.round()
    assert bench.state(search_id) == "FAILED"


def positions(bench: Bench) -> dict[str, int]:
    found = bench.http.get("/v1/searches", params={"page_size": 100}).json()["searches"]
    return {item["id"]: item["queue_position"] for item in found if item["queue_position"] is not None}


@pytest.fixture
def narrow(database_url: str, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs", database_url=database_url, max_running=2)


def test_no_more_run_than_there_are_places_and_the_rest_follow_by_priority_and_time(narrow: Bench) -> None:
    low, first, second = (narrow.submit(small(priority)) for priority in (-1, 0, 0))
    urgent = narrow.submit(small(5))
    assert positions(narrow) == {urgent: 1, first: 2, second: 3, low: 4}
    narrow.round()
    assert narrow.jobs.submitted == [first, urgent] or narrow.jobs.submitted == [urgent, first]
    assert positions(narrow) == {second: 1, low: 2}
    assert narrow.get(second)["message"] == "waiting in the queue for a place on the cluster"
    narrow.round()
    assert len(narrow.jobs.submitted) == 2
    end(narrow, urgent)
    assert narrow.jobs.submitted[2:] == [second]
    end(narrow, first)
    assert narrow.jobs.submitted[3:] == [low]
    assert positions(narrow) == {}


def test_two_services_on_one_database_keep_one_limit(narrow: Bench) -> None:
    ids = [narrow.submit() for _ in range(6)]
    other = narrow.restart()
    for _ in range(3):
        narrow.round()
        other.round()
    assert sorted(narrow.jobs.submitted) == ids[:2]


def test_paused_search_gives_its_place_away_and_queues_again_when_resumed(narrow: Bench) -> None:
    ids = [narrow.submit() for _ in range(3)]
    narrow.round()
    narrow.http.post(f"/v1/searches/{ids[0]}/pause")
    narrow.round()  # asks the driver to stop
    assert narrow.jobs.submitted == ids[:2], "its driver may still be at work"
    narrow.round()
    narrow.round()
    assert narrow.jobs.submitted == ids
    narrow.http.post(f"/v1/searches/{ids[0]}/resume")
    narrow.round()
    assert positions(narrow) == {ids[0]: 1}


def test_search_that_waits_can_be_cancelled_and_paused(narrow: Bench) -> None:
    ids = [narrow.submit() for _ in range(4)]
    narrow.round()
    narrow.http.post(f"/v1/searches/{ids[2]}/cancel")
    narrow.http.post(f"/v1/searches/{ids[3]}/pause")
    narrow.round()
    assert [narrow.state(search_id) for search_id in ids[2:]] == ["CANCELLED", "PAUSED"]
    assert narrow.jobs.submitted == ids[:2]


def test_search_whose_driver_was_lost_keeps_its_place(narrow: Bench) -> None:
    ids = [narrow.submit() for _ in range(3)]
    narrow.round()
    narrow.drive(ids[0])
    narrow.jobs.states[ids[0]] = JobState.RUNNING
    narrow.round()
    narrow.drive(ids[0])
    narrow.jobs.states[ids[0]] = JobState.FAILED
    for _ in range(3):
        narrow.round()
    assert narrow.jobs.submitted == [*ids[:2], f"{ids[0]}-2"]


def test_figures_do_not_wait_for_a_place_and_a_retraining_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", max_running=1)
    done = bench.succeeded()
    write_study(bench.folder(done), [{"dice": 0.8, "hd95": 5.0}])
    bench.folder(done).write_json("supernet/config.json", {"architecture": None})
    occupying = bench.submit()
    bench.round()
    trial = f"/v1/searches/{done}/trials/0"
    retrain, figures = (bench.http.post(f"{trial}/{kind}").json()["id"] for kind in ("retrain", "figures"))
    bench.round()
    assert bench.jobs.submitted == [done, occupying, figures]
    assert bench.http.get(f"/v1/jobs/{retrain}").json()["queue_position"] == 1
    end(bench, occupying)
    assert bench.jobs.submitted[3:] == [retrain]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([Node("a", 2, 0)], 1),
        ([Node("a", 16, 0), Node("b", 16, 0)], 8),
        ([Node("a", 64, 1), Node("b", 64, 2)], 3),
        ([Node("a", 0, 0)], 1),
        ([], UNKNOWN_SIZE),
    ],
)
def test_places_follow_from_the_cluster(nodes: list[Node], expected: int, tmp_path: Path) -> None:
    assert places(nodes) == expected
    bench = Bench(tmp_path / "runs", FakeJobs(nodes=nodes), max_running=None)
    for _ in range(expected + 2):
        bench.submit()
    bench.round()
    assert len(bench.jobs.submitted) == expected


@pytest.fixture
def guarded(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs", require_tokens=True, max_unfinished_per_token=2)


def bearer(bench: Bench, name: str, scope: Scope = Scope.SUBMIT) -> dict[str, str]:
    return {"Authorization": f"Bearer {bench.context.tokens.create(name, scope)[1]}"}


def test_one_owner_cannot_fill_the_queue(guarded: Bench) -> None:
    ada, grace = bearer(guarded, "Ada"), bearer(guarded, "Grace")
    mine = [guarded.submit(**ada) for _ in range(2)]
    refused = guarded.http.post("/v1/searches", json=BODY, headers=ada)
    assert refused.status_code == 429
    assert "Ada has 2 searches" in refused.json()["detail"]
    guarded.submit(**grace)
    assert guarded.http.post(f"/v1/searches/{mine[0]}/pause", headers=ada).status_code == 202
    guarded.submit(**ada)


def test_one_owner_cannot_fill_the_queue_by_what_goes_on(guarded: Bench) -> None:
    ada, admin = bearer(guarded, "Ada"), bearer(guarded, "root", Scope.ADMIN)
    paused = guarded.submit(**ada)
    guarded.http.post(f"/v1/searches/{paused}/pause", headers=ada)
    mine = [guarded.submit(**ada) for _ in range(2)]
    for asked in (ada, admin):  # whoever asks, it is Ada's
        for what, body in (("resume", None), ("extend", {"num_trials": 20})):
            refused = guarded.http.post(f"/v1/searches/{paused}/{what}", json=body, headers=asked)
            assert refused.status_code == 429
            assert "Ada has 2 searches" in refused.json()["detail"]
    assert guarded.http.post(f"/v1/searches/{mine[0]}/resume", headers=ada).status_code == 202, "it goes on anyway"
    guarded.round()
    guarded.context.service.continue_all("the service was stopped")  # what runs keeps its place
    assert guarded.http.post(f"/v1/searches/{mine[0]}/cancel", headers=ada).status_code == 202
    guarded.round()
    guarded.round()
    assert guarded.http.post(f"/v1/searches/{paused}/resume", headers=ada).status_code == 202


def test_a_repeated_submission_is_not_counted_twice(guarded: Bench) -> None:
    ada = bearer(guarded, "Ada") | {"Idempotency-Key": "once"}
    assert guarded.submit(**ada) == guarded.submit(**ada) == guarded.submit(**ada)


def test_history_tells_who_asked_for_each_change(guarded: Bench) -> None:
    ada, grace = bearer(guarded, "Ada"), bearer(guarded, "Grace")
    search_id = guarded.submit(**ada)
    guarded.round()
    guarded.http.post(f"/v1/searches/{search_id}/cancel", headers=grace)
    guarded.round()
    guarded.round()
    found = guarded.http.get(f"/v1/searches/{search_id}", headers=grace).json()
    assert found["submitted_by"] == "Ada"
    told = [(change["new_state"], change["by"]) for change in found["history"]]
    assert told == [("QUEUED", "Ada"), ("STARTING", None), ("CANCELLING", "Grace"), ("CANCELLED", None)]


@pytest.mark.parametrize("priority", [101, "high", 1.5])
def test_priority_that_is_none_is_refused(bench: Bench, priority: object) -> None:
    answer = bench.http.post("/v1/searches", json={**BODY, "priority": priority})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/priority"
