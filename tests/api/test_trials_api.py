"""Trials and Pareto frontiers, read from studies written by hand."""

from __future__ import annotations

import csv
import shutil
from base64 import b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import StringIO
from itertools import islice
from threading import Event
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from service_helpers import BODY, Bench, write_study

from api.server.studies import MAX_WAITING
from nas.damage import cut_damage
from nas.objectives import loss_matrix
from nas.pareto import hypervolume
from nas.record import RecordReader, record_path
from nas.study import Trial, TrialState, pareto_front, reference_point

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


def test_place_that_no_list_has_is_refused(bench: Bench) -> None:
    search_id = bench.submit()
    token = b64encode(b"9" * 5000).decode()  # more digits than Python takes for a number
    answer = bench.http.get(f"/v1/searches/{search_id}/trials", params={"page_token": token})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "page_token"


def test_study_of_before_there_were_records_is_read_all_the_same(bench: Bench) -> None:
    search_id = bench.submit()
    folder, rows = bench.folder(search_id), [{"dice": 0.5, "hd95": 3.0}, None]
    write_study(folder, rows)
    record_path(folder.path / "search.journal", "search").unlink()

    def states() -> list[str]:
        found = bench.http.get(f"/v1/searches/{search_id}/trials").json()
        return [trial["state"] for trial in found["trials"]]

    assert states() == ["COMPLETED", "FAILED"]
    write_study(folder, rows[:1])  # a driver of this version goes on with it
    assert states() == ["COMPLETED", "FAILED", "COMPLETED"]


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


def test_trials_are_sorted_by_what_was_measured(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    path = f"/v1/searches/{search_id}/trials"
    assert numbers(bench.http.get(path, params={"sort": "-dice"})) == [1, 0, 4, 3, 2]  # the failed one last
    assert numbers(bench.http.get(path, params={"sort": "hd95"})) == [3, 0, 4, 1, 2]
    assert numbers(bench.http.get(path, params={"sort": "-number", "page_size": 2})) == [4, 3]
    first = bench.http.get(path, params={"sort": "-dice", "page_size": 2}).json()
    params = {"sort": "-dice", "page_size": 2, "page_token": first["next_page_token"]}
    assert numbers(bench.http.get(path, params=params)) == [4, 3]
    refused = bench.http.get(path, params={"sort": "beauty"})
    assert refused.status_code == 422
    assert "number, seconds, dice, hd95, latency_ms" in refused.json()["errors"][0]["detail"]


def test_trials_of_a_state_are_sorted_by_what_others_have(bench: Bench) -> None:
    search_id = bench.submit()
    path = f"/v1/searches/{search_id}/trials"
    write_study(bench.folder(search_id), [None, None])
    for name in ("-dice", "flops"):  # an objective, before anything is measured
        assert numbers(bench.http.get(path, params={"sort": name})) == [0, 1]
    assert bench.http.get(path, params={"sort": "beauty"}).status_code == 422
    write_study(bench.folder(search_id), ROWS)
    assert numbers(bench.http.get(path, params={"sort": "-dice", "state": "FAILED"})) == [0, 1, 4]
    assert numbers(bench.http.get(path, params={"sort": "-dice", "state": "RUNNING"})) == []
    assert bench.http.get(path, params={"sort": "beauty", "state": "RUNNING"}).status_code == 422


def test_trials_as_a_table_for_spreadsheets(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    answer = bench.http.get(f"/v1/searches/{search_id}/trials.csv", params={"sort": "-dice"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(StringIO(answer.text)))
    assert [int(row["number"]) for row in rows] == [1, 0, 4, 3, 2]
    assert (float(rows[0]["dice"]), rows[0]["state"], rows[0]["error"]) == (0.9, "COMPLETED", "")
    assert (rows[-1]["dice"], rows[-1]["error"]) == ("", "out of memory")


def test_hypervolume_grows_with_the_frontier(bench: Bench) -> None:
    search_id = bench.submit()
    path = f"/v1/searches/{search_id}/hypervolume"
    assert bench.http.get(path).json()["points"] == []
    write_study(bench.folder(search_id), ROWS)
    found = bench.http.get(path).json()
    volumes = [point["hypervolume"] for point in found["points"]]
    # From the first trial, a tenth of its size worse: Dice 0.72 and HD95 5.5.
    assert found["reference"] == pytest.approx([0.72, 5.5])
    assert volumes == pytest.approx([0.08 * 0.5] * 2)
    assert [point["evaluations"] for point in found["points"]] == [1, 5]  # it never grew; the first and the last
    one = bench.http.get(path, params={"objectives": "dice"}).json()
    assert [point["hypervolume"] for point in one["points"]] == pytest.approx([0.08, 0.18, 0.18])
    assert [point["evaluations"] for point in one["points"]] == [1, 2, 5]
    assert bench.http.get(path, params={"objectives": "beauty"}).status_code == 422


def test_figures_are_the_reports_of_the_search_so_far(bench: Bench) -> None:
    search_id = bench.submit({**BODY, "space": {"choices": ["2x2", "4x4"]}})
    path = f"/v1/searches/{search_id}/figures"
    assert bench.http.get(path).json() == {"figures": []}
    write_study(bench.folder(search_id), ROWS)
    found = {figure["key"]: figure for figure in bench.http.get(path).json()["figures"]}
    assert set(found) == {"hypervolume", "time", "workers", "effects", "parallel"}
    assert [(bars["name"], len(bars["x"])) for bars in found["workers"]["data"]] == [("completed", 4), ("failed", 1)]
    assert "the best goes through" in found["parallel"]["alt"]
    for figure in found.values():
        go.Figure(data=figure["data"], layout=figure["layout"])  # raises at what Plotly does not know
    assert bench.http.get("/v1/searches/s-unknown/figures").status_code == 404


def test_scores_of_a_trial_by_image_the_worst_first(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    target = bench.folder(search_id).counts_path("search", 1)
    target.parent.mkdir(parents=True)
    counts = np.array([[[6, 2, 2, 90]], [[0, 0, 0, 100]], [[0, 5, 5, 90]]], dtype=np.uint32)
    np.savez_compressed(target, counts=counts, names=np.array(["a", "empty", "missed"]))
    path = f"/v1/searches/{search_id}/trials"
    assert bench.http.get(f"{path}/1/images").json()["images"] == [
        {"name": "missed", "dice": 0.0, "iou": 0.0},
        {"name": "a", "dice": 0.75, "iou": 0.6},
        {"name": "empty", "dice": 1.0, "iou": 1.0},
    ]
    assert bench.http.get(f"{path}/2/images").status_code == 404
    assert bench.http.get(f"{path}/99/images").status_code == 404


def test_study_is_converted_once_and_open_trials_are_seen_to_end(bench: Bench) -> None:
    search_id = bench.submit()
    folder = bench.folder(search_id)
    study = write_study(folder, ROWS[:2])
    space = study.space
    running = [study.start(space.decode([1, i, 1, 1]), origin="evolution", asked_after=2).number for i in (0, 1)]
    path = f"/v1/searches/{search_id}/trials"

    def states() -> list[str]:
        return [trial["state"] for trial in bench.http.get(path).json()["trials"]]

    assert states() == ["COMPLETED", "COMPLETED", "RUNNING", "RUNNING"]
    study.complete(running[1], {"dice": 0.5, "hd95": 1.0}, ended_as=2, seconds=0.1)
    assert states() == ["COMPLETED", "COMPLETED", "RUNNING", "COMPLETED"]
    before = bench.context.studies.view(search_id, folder, "search").trials
    study.fail(running[0], "out of memory", ended_as=3)
    assert states() == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    after = bench.context.studies.view(search_id, folder, "search").trials
    assert all(after[i] is before[i] for i in (0, 1, 3))


def test_first_reading_of_a_study_keeps_no_other_search_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has 40 threads; some wait for the study, and the rest of those who ask are told to come again."""
    large, small = bench.submit(), bench.submit()
    for search_id in (large, small):
        write_study(bench.folder(search_id), ROWS)
    reading, go_on = Event(), Event()
    read = RecordReader.read

    def slow(reader: RecordReader) -> list[Trial]:
        if reader._path.is_relative_to(bench.folder(large).path):
            reading.set()
            go_on.wait(60)
        return read(reader)

    monkeypatch.setattr(RecordReader, "read", slow)
    with ThreadPoolExecutor(60) as pool:
        first = pool.submit(pareto, bench, large)
        assert reading.wait(60)
        more = [pool.submit(pareto, bench, large) for _ in range(50)]
        refused = [answer.result() for answer in islice(as_completed(more, timeout=60), 50 - MAX_WAITING)]
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in refused} == {(503, "1")}
        assert numbers(pareto(bench, small)) == [1, 0, 3]
        go_on.set()
        statuses = Counter(answer.result().status_code for answer in [first, *more])
    assert statuses == {200: 1 + MAX_WAITING, 503: 50 - MAX_WAITING}
    assert numbers(pareto(bench, large)) == [1, 0, 3]


def test_study_whose_file_was_replaced_is_shown_anew(bench: Bench) -> None:
    """As when an older copy of the folder was brought back from a store, or the folder is gone."""
    search_id = bench.submit()
    folder = bench.folder(search_id)
    write_study(folder, ROWS)
    assert numbers(pareto(bench, search_id)) == [1, 0, 3]
    (folder.path / "search.journal").rename(folder.path / "later.journal")
    write_study(folder, ROWS[2:4])
    answer = pareto(bench, search_id).json()
    assert ([trial["number"] for trial in answer["trials"]], answer["num_completed"]) == ([1], 1)
    assert bench.http.get(f"/v1/searches/{search_id}/trials").json()["total"] == 2
    shutil.rmtree(folder.path)
    assert bench.http.get(f"/v1/searches/{search_id}/trials").json()["total"] == 0
    assert numbers(pareto(bench, search_id)) == []


def test_front_and_curve_kept_up_are_those_made_anew(bench: Bench) -> None:
    """Trials end in another order than they began in, some fail, some are alike, and some are read before they end."""
    rng = np.random.default_rng(3)
    folder = bench.folder(bench.submit())
    study = write_study(folder, [])
    names = ("dice", "hd95")
    open_ones: list[int] = []
    num_ended = 0
    for i in range(120):
        genes = [i >> bit & 1 for bit in range(4)]
        origin = "fixed" if i in (1, 4) else "nsga2"
        open_ones.append(study.start(study.space.decode(genes), origin=origin, asked_after=num_ended).number)
        while len(open_ones) > rng.integers(0, 6):
            number = open_ones.pop(int(rng.integers(len(open_ones))))
            if rng.random() < 0.1:
                study.fail(number, "out of memory", ended_as=num_ended)
            elif rng.random() < 0.1:
                study.prune(number, ended_as=num_ended, seconds=0.05, work={})
            else:
                metrics = {"dice": float(rng.integers(20)) / 20, "hd95": float(rng.integers(1, 20))}
                study.complete(number, metrics, ended_as=num_ended, seconds=0.1)
            num_ended += 1
        if i % 7 == 0:
            view = bench.context.studies.view("s", folder, "search")
            trials = study.trials()
            assert view.front(names).trials() == pareto_front(trials, names)
            assert view.num_completed == sum(trial.state is TrialState.COMPLETED for trial in trials)
            assert view.worker_seconds == pytest.approx(sum(trial.seconds or 0.0 for trial in trials))
            reference = view.reference(names)
            assert reference == reference_point(trials, names)
            if reference is not None:
                ended = sorted((trial for trial in trials if trial.ended), key=lambda trial: trial.ended_as or 0)
                fronts = [pareto_front(ended[: place + 1], names) for place in range(len(ended))]
                whole = [hypervolume(loss_matrix([one.metrics for one in front], names), reference) for front in fronts]
                kept = view.curve(names, reference)
                assert [whole[place - 1] for _, place, _ in kept] == pytest.approx([volume for *_, volume in kept])
                assert kept[-1][1] == len(whole)
                assert len({round(volume, 9) for volume in whole}) <= len(kept)


def test_trials_of_a_damaged_study_stay_readable_until_it_is_cut_off(bench: Bench) -> None:
    search_id = bench.submit()
    folder = bench.folder(search_id)
    write_study(folder, [{"dice": 0.5 + i / 100, "hd95": 3.0} for i in range(4)])
    journal = folder.path / "search.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    third = [place for place, line in enumerate(lines) if b'"op_code":4,' in line][2]
    journal.write_bytes(b"".join([*lines[:third], bytes(len(lines[third]) - 1) + b"\n", *lines[third + 1 :]]))
    url = f"/v1/searches/{search_id}"
    page = bench.http.get(f"{url}/trials")
    assert (page.status_code, page.json()["total"]) == (200, 4)
    for place in ("pareto", "hypervolume", "trials/0"):
        assert bench.http.get(f"{url}/{place}").status_code == 200
    assert bench.http.get(f"{url}/trials.csv").text.count("COMPLETED") == 4
    cut_damage(journal)
    assert bench.http.get(f"{url}/trials").json()["total"] == 2


def end_with_front(bench: Bench, search_id: str, objectives: list[str]) -> None:
    """What a search that has ended leaves: one of its Pareto-optimal trials stands for the others."""
    folder = bench.folder(search_id)
    member = {
        "number": 0,
        "architecture": "ignored",
        "metrics": {**ROWS[0], "dice": 0.77},
        "intervals": {"dice": {"value": 0.77, "low": 0.7, "high": 0.8}},
        "tied_with": [1, 3],
        "supernet": {"dice": ROWS[0]["dice"]},
    }
    folder.write_json("front.json", {"objectives": objectives, "members": [member], "sentence": "One remains."})
    folder.write_json("result.json", {})


def test_measured_frontier_of_a_search_that_has_ended(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    assert pareto(bench, search_id).json()["trials"][0]["tied_with"] is None, "under way"
    end_with_front(bench, search_id, ["dice", "hd95"])
    answer = pareto(bench, search_id)
    assert numbers(answer) == [0]
    [found] = answer.json()["trials"]
    assert (found["tied_with"], found["intervals"]["dice"]["low"]) == ([1, 3], 0.7)
    assert (found["metrics"]["dice"], found["supernet"]["dice"]) == (0.77, ROWS[0]["dice"])
    assert answer.json()["sentence"] == "One remains."
    assert numbers(pareto(bench, search_id, objectives="latency_ms, dice")) == [0, 1], "others by their figures"


def test_member_for_a_budget(bench: Bench) -> None:
    search_id = bench.submit()
    write_study(bench.folder(search_id), ROWS)
    path = f"/v1/searches/{search_id}/pick"
    best = max(ROWS[number]["dice"] for number in (0, 1, 3))
    found = bench.http.get(path, params={"max": [f"hd95={ROWS[0]['hd95']}"]}).json()
    assert found["trial"]["metrics"]["hd95"] <= ROWS[0]["hd95"]
    assert found["lost"]["dice"] == pytest.approx(found["trial"]["metrics"]["dice"] - best)
    none = bench.http.get(path, params={"min": ["dice=0.999"]})
    assert none.status_code == 422
    assert "the nearest is trial 1" in none.json()["detail"]
    assert bench.http.get(path, params={"max": "speed=2"}).status_code == 422
