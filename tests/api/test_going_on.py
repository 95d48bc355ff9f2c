"""Pause, resume and extend, and changes that ask for the search as it was seen (If-Match)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from service_helpers import Bench

from cluster.jobs import JobState


def act(bench: Bench, search_id: str, what: str, status: int = 202, **options: Any) -> dict[str, Any]:
    response = bench.http.post(f"/v1/searches/{search_id}/{what}", **options)
    assert response.status_code == status, response.text
    values: dict[str, Any] = response.json()
    return values


def drivers_saw(bench: Bench, search_id: str) -> int:
    job = json.loads(bench.folder(search_id).config_path.read_text())
    number: int = job["search"]["num_trials"]
    return number


def test_paused_search_frees_the_cluster_and_goes_on_under_a_new_job(bench: Bench) -> None:
    search_id = bench.running()
    assert act(bench, search_id, "pause")["state"] == "PAUSED"
    bench.round()
    assert bench.jobs.stopped == [search_id]
    bench.drive(search_id, "CANCELLED")
    bench.jobs.states[search_id] = JobState.STOPPED
    bench.round()
    assert bench.get(search_id)["job_status"] == "STOPPED"
    assert search_id not in [
        row.id for row in bench.context.service.active()
    ]  # nothing is left to do until it is resumed
    assert act(bench, search_id, "pause")["state"] == "PAUSED"

    assert act(bench, search_id, "resume")["state"] == "QUEUED"
    bench.round()
    found = bench.get(search_id)
    assert (found["state"], found["job_id"]) == ("STARTING", f"{search_id}-2")
    assert bench.jobs.submitted == [search_id, f"{search_id}-2"]
    bench.round()
    assert bench.state(search_id) == "STARTING"  # what the first driver left behind is not the second one's word
    bench.jobs.states[f"{search_id}-2"] = JobState.RUNNING
    bench.drive(search_id)
    bench.round()
    assert bench.state(search_id) == "RUNNING"
    assert act(bench, search_id, "resume")["state"] == "RUNNING"


@pytest.mark.parametrize(
    ("last", "state"),
    [(("pause",), "PAUSED"), (("cancel",), "CANCELLED"), (("pause", "resume", "cancel"), "CANCELLED")],
)
@pytest.mark.parametrize("begun", [False, True])
def test_job_is_stopped_though_somebody_was_faster_than_the_reconciler(
    bench: Bench, begun: bool, last: tuple[str, ...], state: str
) -> None:
    """What is paused or cancelled then is an attempt that never was submitted; the one before is at work."""
    search_id = bench.running() if begun else bench.submit()
    bench.round()
    for what in ("pause", "resume", *last):
        act(bench, search_id, what)
    bench.round()
    bench.round()
    assert bench.jobs.stopped == [search_id]
    assert bench.state(search_id) == state
    assert search_id not in [search.id for search in bench.context.service.active()]


@pytest.mark.parametrize(("what", "state"), [("pause", "PAUSED"), ("cancel", "CANCELLED")])
def test_extended_search_that_is_stopped_in_the_queue_is_not_taken_for_done(
    bench: Bench, what: str, state: str
) -> None:
    search_id = bench.succeeded()
    act(bench, search_id, "extend", json={"num_trials": 12})
    act(bench, search_id, what)
    bench.round()
    bench.round()
    assert bench.state(search_id) == state
    act(bench, search_id, "resume")
    bench.round()
    assert drivers_saw(bench, search_id) == 12


def test_resumed_search_waits_for_the_driver_before(bench: Bench) -> None:
    search_id = bench.running()
    act(bench, search_id, "pause")
    act(bench, search_id, "resume")
    bench.jobs.state_after_stop = JobState.RUNNING
    bench.round()
    found = bench.get(search_id)
    assert (found["state"], found["message"]) == ("QUEUED", "waiting for the driver before to stop")
    assert bench.jobs.stopped == [search_id]
    bench.drive(search_id, "CANCELLED")
    bench.jobs.states[search_id] = JobState.STOPPED
    bench.round()
    assert bench.state(search_id) == "STARTING"


def test_search_paused_in_the_queue_is_not_started(bench: Bench) -> None:
    search_id = bench.submit()
    act(bench, search_id, "pause")
    bench.round()
    assert bench.jobs.submitted == []
    assert act(bench, search_id, "cancel")["state"] == "CANCELLING"
    bench.round()
    assert bench.state(search_id) == "CANCELLED"


def test_search_that_finished_while_it_was_paused_has_succeeded(bench: Bench) -> None:
    search_id = bench.running()
    act(bench, search_id, "pause")
    bench.folder(search_id).write_json("result.json", {"best": 0.9})
    bench.drive(search_id, "SUCCEEDED")
    bench.round()
    assert bench.state(search_id) == "SUCCEEDED"


@pytest.mark.parametrize("how", ["FAILED", "CANCELLED"])
def test_ended_search_goes_on_when_it_is_resumed(bench: Bench, how: str) -> None:
    search_id = bench.running()
    if how == "CANCELLED":
        act(bench, search_id, "cancel")
    bench.drive(search_id, how, error="the disk is full" if how == "FAILED" else None)  # type: ignore[arg-type]
    bench.round()
    assert bench.state(search_id) == how
    found = act(bench, search_id, "resume")
    assert (found["state"], found["error"], found["ended_at"]) == ("QUEUED", None, None)
    bench.round()
    assert bench.state(search_id) == "STARTING"


def test_extended_search_goes_on_with_more_trials_and_keeps_its_old_result(bench: Bench) -> None:
    search_id = bench.succeeded()
    assert drivers_saw(bench, search_id) == 8
    found = act(bench, search_id, "extend", json={"num_trials": 12})
    assert (found["state"], found["spec"]["search"]["num_trials"]) == ("QUEUED", 12)
    act(bench, search_id, "extend", json={"num_trials": 12})  # the same request, repeated
    bench.round()
    assert drivers_saw(bench, search_id) == 12
    assert not bench.folder(search_id).result_path.exists()  # else the driver would take the run for finished
    assert json.loads((bench.folder(search_id).path / "result-1.json").read_text()) == {"best": 0.9}
    second = f"{search_id}-2"
    bench.jobs.states[second] = JobState.RUNNING
    bench.drive(search_id)
    bench.round()
    assert bench.state(search_id) == "RUNNING"
    assert "pause it first" in act(bench, search_id, "extend", 409, json={"num_trials": 14})["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"num_trials": 8}, "must exceed the 8 so far; got 8"),
        ({"num_trials": 257}, "exceeds the 256 architectures"),
        ({"num_trials": 0}, "greater than or equal to 1"),
        ({"num_trials": 9, "seed": 1}, "unknown field"),
        ({}, "Field required"),
    ],
)
def test_extension_that_makes_no_sense_is_refused(bench: Bench, body: dict[str, int], said: str) -> None:
    search_id = bench.succeeded()
    problem = act(bench, search_id, "extend", 422, json=body)
    assert said in json.dumps(problem)
    assert bench.state(search_id) == "SUCCEEDED"


@pytest.mark.parametrize(
    ("what", "said"), [("pause", "nothing to pause"), ("resume", "extend it"), ("cancel", "nothing to cancel")]
)
def test_succeeded_search_can_only_be_extended(bench: Bench, what: str, said: str) -> None:
    search_id = bench.succeeded()
    assert said in act(bench, search_id, what, 409)["detail"]


def test_search_that_is_being_cancelled_is_left_to_end(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.state_after_stop = JobState.RUNNING
    act(bench, search_id, "cancel")
    for what, options in (("pause", {}), ("resume", {}), ("extend", {"json": {"num_trials": 20}})):
        assert "CANCEL" in act(bench, search_id, what, 409, **options)["detail"]


def test_change_of_a_search_that_has_changed_since_is_refused(bench: Bench) -> None:
    search_id = bench.running()
    seen = bench.http.get(f"/v1/searches/{search_id}").headers["ETag"]
    bench.drive(search_id, phase="search")
    bench.round()
    assert bench.http.get(f"/v1/searches/{search_id}").headers["ETag"] == seen  # progress is no reason to refuse
    act(bench, search_id, "pause", headers={"If-Match": seen})
    assert "get it again" in act(bench, search_id, "resume", 412, headers={"If-Match": seen})["detail"]
    assert bench.http.delete(f"/v1/searches/{search_id}", headers={"If-Match": seen}).status_code == 412
    act(bench, search_id, "resume", headers={"If-Match": "*"})


def test_change_may_name_several_states_that_it_is_meant_for(bench: Bench) -> None:
    search_id = bench.running()
    seen = bench.http.get(f"/v1/searches/{search_id}").headers["ETag"]
    for weak in (f"W/{seen}", f'"other", W/{seen}'):  # of a state that is the same only nearly
        act(bench, search_id, "pause", 412, headers={"If-Match": weak})
    act(bench, search_id, "pause", headers={"If-Match": f'W/"other","another" , {seen}'})
