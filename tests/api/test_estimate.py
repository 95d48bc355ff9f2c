"""What a search would cost, and what that rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from service_helpers import BODY, Bench

from api.server.estimate import (
    CPU_RANGE,
    START_SECONDS,
    Earlier,
    Rates,
    estimate,
    measured_rates,
)
from cluster.config import SearchJob, parse_job
from cluster.run_view import Progress
from cluster.work import PROCESS_BYTES, TRAIN_PASSES, training_memory, work_by_phase, work_of
from slicemamba.costs import network_cost
from slicemamba.errors import InputError

IMAGES = {"train": 100, "val": 10, "search": 20, "test": 30}


def job(**change: Any) -> SearchJob:
    made = parse_job({**BODY, **change})
    assert isinstance(made, SearchJob)
    return made


def test_work_counts_training_validation_and_candidates() -> None:
    search = {**BODY["search"], "random_baseline": True}
    supernet = {"epochs": 5, "validate_every": 2, "num_val_architectures": 1}
    found = work_of(job(search=search, supernet=supernet, retrain={"epochs": 4}), IMAGES)
    assert found.trained == (5 + 4 + 4) * 100  # U-Net takes as long as the winner
    # Two studies of 8; three validations of the four fixed slicings and one drawn; four of the winner and as many of
    # U-Net; the winner's scores.
    assert found.evaluated == 16 * 20 + 3 * 5 * 10 + 2 * 4 * 10 + 20 + 30
    alone = job(search=search, supernet=supernet, retrain={"epochs": 4}, baselines=[])
    assert work_of(alone, IMAGES).trained == (5 + 4) * 100
    assert work_of(job(search=search, supernet=supernet, retrain=None), IMAGES).trained == 500


def test_without_earlier_searches_a_range_of_throughput_is_assumed_and_named() -> None:
    wanted = job(resources={"train": {"cpus": 2}, "search": {"cpus": 1}})
    found, work = estimate(wanted, IMAGES, []), work_of(wanted, IMAGES)
    flops = network_cost(wanted.model, 1, (32, 32)).flops
    slow = (TRAIN_PASSES * work.trained / 2 + work.evaluated) * flops / CPU_RANGE[0] / 3600
    phases = work_by_phase(wanted, IMAGES)
    assert phases.keys() == {"supernet", "search", "retrain", "baselines", "evaluate"}
    slow += len(phases) * START_SECONDS[1] / 3600
    assert found.device_hours_high == pytest.approx(slow)
    assert found.device_hours_low < found.device_hours < found.device_hours_high
    assert found.basis.startswith("assumed")
    assert "GFLOP/s per CPU thread" in found.basis
    assert "TFLOP/s per GPU" in estimate(job(resources={"train": {"gpus": 1}}), IMAGES, []).basis


def test_a_search_like_it_is_measured_and_another_network_scaled() -> None:
    wanted, rates = job(), Rates(train=0.1, evaluate=0.02)
    work = work_of(wanted, IMAGES)
    expected = (work.trained * 0.1 + work.evaluated * 0.02) / 3600
    measured = estimate(wanted, IMAGES, [Earlier("s-a", wanted, rates)])
    assert measured.device_hours == pytest.approx(expected)
    assert measured.device_hours_low < expected < measured.device_hours_high
    assert measured.basis.startswith("measured: search s-a had")

    other = job(model={**BODY["model"], "embed_dim": 32})
    scaled = estimate(wanted, IMAGES, [Earlier("s-b", other, rates)])
    factor = network_cost(wanted.model, 1, (32, 32)).flops / network_cost(other.model, 1, (32, 32)).flops
    assert scaled.device_hours == pytest.approx(factor * expected)
    assert scaled.basis.startswith("scaled: search s-b had")
    assert scaled.device_hours_high / scaled.device_hours > measured.device_hours_high / measured.device_hours

    both = [Earlier("s-b", other, rates), Earlier("s-a", wanted, rates), Earlier("s-0", wanted, Rates(0.3, 0.06))]
    found = estimate(wanted, IMAGES, both)
    assert found.device_hours == pytest.approx(expected)  # of the newest alike
    assert found.device_hours_high > 3 * expected
    assert "s-a and 1 before it" in found.basis
    starting = estimate(wanted, IMAGES, [Earlier("s-a", wanted, Rates(0.1, 0.02, start=36.0))])
    assert starting.device_hours == pytest.approx(expected + 5 * 0.01)
    elsewhere = job(resources={"train": {"gpus": 1}, "search": {"gpus": 1}})
    assert estimate(elsewhere, IMAGES, both).basis.startswith("assumed")


@pytest.mark.parametrize("options", [{"embed_dim": 4 * 10**200}, {"d_state": 10**400}, {"expand": 10**308}])
def test_cost_that_is_no_number_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must lie between"):
        estimate(job(model={**BODY["model"], **options}), IMAGES, [])


def test_memory_grows_with_batch_choices_and_average() -> None:
    small = training_memory(job())
    assert small > PROCESS_BYTES, "libraries count"
    assert training_memory(job(supernet={"batch_size": 64})) > small
    assert training_memory(job(retrain={"batch_size": 64})) > small
    assert training_memory(job(retrain=None, space={"weight_sharing": "shared"})) < small
    assert training_memory(job(resources={"train": {"num_workers": 4}})) < small
    assert training_memory(job(supernet={"ema_decay": 0.9})) > small


def validate(bench: Bench) -> dict[str, Any]:
    response = bench.http.post("/v1/searches/validate", json=BODY)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["estimate"]
    return found


def test_validate_learns_from_searches_that_ended_here(bench: Bench) -> None:
    assert validate(bench)["basis"].startswith("assumed")
    search_id = bench.running()
    bench.folder(search_id).write_json("result.json", {})
    images = {"train": 4.0, "val": 2.0, "search": 2.0, "test": 2.0}
    progress = {
        "check": Progress(done=10, total=10, unit="images", metrics={**images, "workers": 2}),
        "supernet": Progress(done=300, total=300, unit="steps", seconds_per_unit=0.5, start_seconds=9.0),
        "search": Progress(done=8, total=8, unit="trials", seconds=4.0, start_seconds=3.0),
    }
    bench.drive(search_id, "SUCCEEDED", progress=progress)
    bench.round()
    assert bench.state(search_id) == "SUCCEEDED"
    rates = measured_rates(job(), progress)
    assert rates is not None
    passes = work_by_phase(job(), {split: int(count) for split, count in images.items()})["supernet"].passes
    assert rates.train == pytest.approx(TRAIN_PASSES * 150 / passes)
    assert rates.evaluate == pytest.approx(4.0 * 2 / (8 * 2))
    assert rates.start == 6.0
    found = validate(bench)
    assert found["basis"].startswith(f"measured: search {search_id}")
    assert found["num_evaluations"] == 8
    assert 0 < found["device_hours_low"] < found["device_hours"] < found["device_hours_high"]
    assert found["memory_mb"] > 0


@pytest.mark.parametrize("missing", ["check", "supernet", "search"])
def test_search_whose_record_does_not_tell_is_passed_over(missing: str) -> None:
    images = {"train": 4.0, "val": 2.0, "search": 2.0, "test": 2.0}
    progress = {
        "check": Progress(done=10, total=10, unit="images", metrics=images),
        "supernet": Progress(done=300, total=300, unit="steps", seconds_per_unit=0.5),
        "search": Progress(done=8, total=8, unit="trials", seconds=4.0),
    }
    assert measured_rates(job(), progress) is not None
    assert measured_rates(job(), {name: one for name, one in progress.items() if name != missing}) is None


def test_validation_advises_a_searcher_for_several_objectives(bench: Bench) -> None:
    response = bench.http.post("/v1/searches/validate", json=BODY)
    assert "search.searcher to local or nsga2" in response.json()["advice"][0]
    other = {**BODY, "search": {**BODY["search"], "searcher": "nsga2"}}
    assert bench.http.post("/v1/searches/validate", json=other).json()["advice"] == []


def test_data_set_is_told_with_its_last_check(tmp_path: Path) -> None:
    from slicemamba.config import DataConfig, SyntheticConfig
    from slicemamba.data.checks import check_dataset
    from slicemamba.data.synthetic import write_isic_folder

    sizes = SyntheticConfig(num_train=3, num_val=2, num_search=2, num_test=2)
    write_isic_folder(DataConfig(image_size=(32, 40), synthetic=sizes), tmp_path / "data" / "lesions")
    bench = Bench(tmp_path / "runs", data_root=tmp_path / "data")
    assert bench.http.get("/v1/datasets/lesions").json() == {"name": "lesions", "checked_at": None, "report": None}
    body = {**BODY, "data": {"name": "lesions", "image_size": [32, 32]}}
    listed = bench.http.post("/v1/searches/validate", json=body).json()
    images = {"train": 3, "val": 2, "search": 2, "test": 2}
    assert listed["data"]["num_images"] == images
    assert "not been decoded yet" in listed["data"]["warnings"][0]
    # What a driver does first; from then on the set is known.
    data = DataConfig(name="lesions", root=tmp_path / "data" / "lesions", image_size=(32, 32))
    check_dataset(data, cache_dir=bench.context.service.checks_dir)
    checked = bench.http.post("/v1/searches/validate", json=body).json()
    assert checked["data"]["num_images"] == images
    assert checked["data"]["largest_size"] == [32, 40]
    assert checked["images_trained"] == listed["images_trained"]
    in_windows = {**body, "data": {**body["data"], "fit": "patch"}}  # of 32×40 pixels: two windows an image
    estimated = bench.http.post("/v1/searches/validate", json=in_windows).json()
    assert estimated["images_trained"] == 2 * checked["images_trained"]
    assert estimated["images_evaluated"] == 2 * checked["images_evaluated"]
    found = bench.http.get("/v1/datasets/lesions").json()
    assert found["checked_at"] is not None
    assert found["report"]["num_images"] == images
    assert found["report"]["largest_size"] == [32, 40]
    assert str(tmp_path) not in str(found)
    missing = bench.http.get("/v1/datasets/none")
    assert (missing.status_code, "lesions" in missing.json()["detail"]) == (404, True)
