"""Trials and Pareto frontiers, read from studies written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from service_helpers import Bench, write_study

ROWS: list[dict[str, float] | None] = [
    {"dice": 0.80, "hd95": 5.0, "latency_ms": 10.0},
    {"dice": 0.90, "hd95": 9.0, "latency_ms": 30.0},
    None,
    {"dice": 0.70, "hd95": 4.0, "latency_ms": 40.0},
    {"dice": 0.79, "hd95": 6.0, "latency_ms": 20.0},
]


def pareto(bench: Bench, search_id: str, **params: Any) -> Any:
    return bench.http.get(f"/v1/searches/{search_id}/pareto", params=params)


def numbers(answer: Any) -> list[int]:
    return [trial["number"] for trial in answer.json()["trials"]]


def test_search_without_a_study_has_no_trials_and_gets_no_file(bench: Bench) -> None:
    search_id = bench.submit()
    answer = bench.http.get(f"/v1/searches/{search_id}/trials").json()
    assert (answer["total"], answer["trials"]) == (0, [])
    assert pareto(bench, search_id).json()["trials"] == []
    assert not bench.folder(search_id).path.exists()


def test_trials_are_paged_and_filtered(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    path = f"/v1/searches/{search_id}/trials"
    first = bench.http.get(path, params={"page_size": 3}).json()
    assert [trial["number"] for trial in first["trials"]] == [0, 1, 2]
    rest = bench.http.get(path, params={"page_size": 3, "page_token": first["next_page_token"]}).json()
    assert [trial["number"] for trial in rest["trials"]] == [3, 4]
    assert (rest["next_page_token"], rest["total"]) == (None, 5)
    failed = bench.http.get(path, params={"state": "FAILED"}).json()
    assert [(trial["number"], trial["error"]) for trial in failed["trials"]] == [(2, "out of memory")]


def test_trials_added_later_are_seen(bench: Bench) -> None:
    search_id = bench.submit()
    study = write_study(bench.folder(search_id), ROWS[:1])
    path = f"/v1/searches/{search_id}/trials"
    assert bench.http.get(path).json()["total"] == 1
    write_study(bench.folder(search_id), ROWS[:2])
    assert len(study.trials()) == 3
    assert bench.http.get(path).json()["total"] == 3


def test_one_trial_by_number(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    trial = bench.http.get(f"/v1/searches/{search_id}/trials/1").json()
    assert (trial["state"], trial["metrics"]) == ("COMPLETED", ROWS[1])
    missing = bench.http.get(f"/v1/searches/{search_id}/trials/5")
    assert missing.status_code == 404
    assert "5 so far" in missing.json()["detail"]


def test_frontier_over_the_searches_objectives_and_over_others(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    answer = pareto(bench, search_id)
    assert numbers(answer) == [1, 0, 3]  # 4 is worse than 0 in both; best Dice first
    assert [item["name"] for item in answer.json()["objectives"]] == ["dice", "hd95"]
    assert answer.json()["num_completed"] == 4
    assert numbers(pareto(bench, search_id, objectives="latency_ms")) == [0]
    assert numbers(pareto(bench, search_id, objectives="latency_ms, dice")) == [0, 1]


def test_frontier_of_the_random_baseline(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    write_study(bench.folder(search_id), ROWS[3:], name="random")
    assert numbers(pareto(bench, search_id, study="random")) == [1, 0]


@pytest.mark.parametrize("objectives", ["beauty", "dice,params", "dice,dice", ""])
def test_objectives_that_were_not_measured_are_refused_with_those_that_were(bench: Bench, objectives: str) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    answer = pareto(bench, search_id, objectives=objectives)
    assert answer.status_code == 422
    assert "dice, hd95, latency_ms" in answer.json()["errors"][0]["detail"]


def test_trial_with_a_metric_that_is_not_finite_is_infeasible_and_on_no_frontier(bench: Bench) -> None:
    search_id = bench.submit()
    rows = [{"dice": 0.9, "hd95": 1.0, "sensitivity": float("nan")}, {"dice": 0.5, "hd95": 1.0, "sensitivity": 0.5}]
    write_study(bench.folder(search_id), list(rows))
    trial = bench.http.get(f"/v1/searches/{search_id}/trials/0").json()
    assert trial["state"] == "INFEASIBLE"
    assert "sensitivity = nan" in trial["error"]
    assert numbers(pareto(bench, search_id)) == [1]
