"""The driver as a process: killed in its search on a cluster and started again, and given bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cluster import driver, entrypoint, ray_tune
from cluster.config import SearchJob, parse_job
from cluster.local import RayHead, stop_tree
from cluster.run_folder import STUDY_VARIABLE, RunFolder, reports_dir
from nas.config import WarmStart
from nas.objectives import Bound
from nas.study import Study, Trial, TrialState, find_trials, open_storage
from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.checks import check_listing
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.errors import InputError
from slicemamba.evaluation.metrics import summarize

NUM_TRIALS = 24
JOB = {
    "data": {
        "name": "synthetic",
        "image_size": [48, 48],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 2, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "supernet": {"epochs": 2, "batch_size": 4, "t_max": 2, "num_val_architectures": 0},
    "search": {
        "searcher": "evolution",
        "objectives": ["dice", "miou"],
        "num_trials": NUM_TRIALS,
        "population_size": 6,
        "num_parents": 2,
        "num_mutations": 3,
        "num_crossovers": 2,
    },
    "retrain": None,
}


@pytest.fixture
def command(config: Path) -> Callable[..., list[str]]:
    """A driver on a Ray of its own, where it is given no address."""
    start = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config)]
    return lambda run, *more: [*start, "--run-dir", str(run), *more]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mine = {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled"}
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | mine


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_killed_driver_goes_on_and_gives_what_an_undisturbed_one_gives(
    command: Callable[..., list[str]], environment: dict[str, str], head: RayHead, tmp_path: Path
) -> None:
    """By two workers of a Ray, and the undisturbed one in a single process, which finds the same."""
    more = ["--set", "data.synthetic.num_search=60"]  # so that the kill comes before the end
    undisturbed, disturbed = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    alone = command(undisturbed.path, *more, "--address", "none")
    subprocess.run(alone, env=environment, check=True, stdin=subprocess.DEVNULL)

    longer = [*more, "--set", "resources.search.num_workers=2", "--address", head.gcs]
    environment = head.environment | {"SLICEMAMBA_CACHE": environment["SLICEMAMBA_CACHE"]}
    first = subprocess.Popen(command(disturbed.path, *longer), env=environment, stdin=subprocess.DEVNULL)
    try:
        while sum(event["event"] == "trial" for _, event in disturbed.events()) < 7:
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    finally:
        stop_tree(first.pid)
        first.wait()
    ended_before = [t for t in find_trials(open_storage(disturbed.study_location), "search") if t.ended]
    assert 7 <= len(ended_before) < NUM_TRIALS
    assert disturbed.read_json("result.json") is None

    subprocess.run(command(disturbed.path, *longer), env=environment, check=True, stdin=subprocess.DEVNULL)
    trials = find_trials(open_storage(disturbed.study_location), "search")
    assert {t.number: t for t in trials}.items() >= {t.number: t for t in ended_before}.items()
    assert [t.state for t in trials] == [TrialState.COMPLETED] * NUM_TRIALS
    expected = find_trials(open_storage(undisturbed.study_location), "search")
    assert [t.architecture for t in trials] == [t.architecture for t in expected]
    assert [t.metrics["dice"] for t in trials] == [t.metrics["dice"] for t in expected]
    before, after = (json.loads((run.path / "result.json").read_text()) for run in (undisturbed, disturbed))
    assert before["best"] == after["best"]

    # A finished run is not done again, and its folder takes no other configuration.
    num_events = len(list(disturbed.events()))
    subprocess.run(command(disturbed.path, *longer), env=environment, check=True, stdin=subprocess.DEVNULL)
    assert len(list(disturbed.events())) == num_events
    other = subprocess.run(
        command(disturbed.path, *longer, "--set", "search.seed=1"),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert other.returncode == 2
    assert "search.seed: 0 before, 1 now" in other.stderr
    status = disturbed.read_status()
    assert status is not None
    assert status.state == "SUCCEEDED"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_search_keeps_each_candidates_counts_and_what_it_took(
    command: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "raced")
    options = ["search.racing={min_images: 6, confidence: 0.6}", "search.batch_size=3", "search.num_trials=14"]
    options += ["data.synthetic.num_search=12", "supernet.sampling=fair", "resources.search.num_workers=1"]
    more = [part for option in options for part in ("--set", option)]
    subprocess.run(command(run.path, *more, "--address", "none"), env=environment, check=True, stdin=subprocess.DEVNULL)
    trials = find_trials(open_storage(run.study_location), "search")
    assert len(trials) == 14
    for trial in trials:
        with np.load(run.counts_path("search", trial.number)) as arrays:
            counts, names = arrays["counts"], arrays["names"]
        assert counts.shape == (trial.work["images"], 1, 4)
        assert len(names) == len(counts)
        assert trial.work["blocks_computed"] + trial.work["blocks_reused"] == 4 * len(counts)
        if trial.state is TrialState.COMPLETED:
            assert trial.metrics["dice"] == summarize(torch.from_numpy(counts.astype(np.int64)))["dice"]
            assert len(counts) == 12
        else:
            assert trial.state is TrialState.PRUNED
            assert 6 <= len(counts) < 12
    assert any(trial.reference for trial in trials)
    shown = [
        event["metrics"] for _, event in run.events() if event["event"] == "progress" and event["unit"] == "trials"
    ]
    assert 0 < shown[-1]["reused"] < 1
    result = run.read_json("result.json")
    assert result is not None
    assert result["supernet"]["updates"] == [{"2x2": 1, "2x4": 1, "4x2": 1, "4x4": 1}] * 4


@pytest.mark.parametrize(("tau", "precision"), [(0.985, "bf16"), (0.97, "float32")])
def test_faster_arithmetic_is_taken_only_where_the_ranking_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tau: float, precision: str
) -> None:
    asked = []

    def agreement(*_: object) -> float:
        asked.append(1)
        return tau

    monkeypatch.setattr(ray_tune, "agreement_of_precision", agreement)
    job = parse_job({**JOB, "search": {**JOB["search"], "precision": "bf16"}})  # type: ignore[dict-item]
    assert isinstance(job, SearchJob)
    run = RunFolder(tmp_path)
    for _ in range(2):  # a resumed search takes what was decided before
        assert driver.with_proven_precision(job, run, tmp_path, tmp_path).precision == precision
    assert len(asked) == 1
    warnings = [event["message"] for _, event in run.events() if event["event"] == "warning"]
    assert bool(warnings) == (precision == "float32")
    assert all("0.970, less than 0.98; the search continues in float32" in message for message in warnings)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["--set", "data.name=unknown"], "'unknown' is not known"),
        (["--set", "search.objectives=[speed]"], "latency_ms"),
        (["--set", "space.choices=['0x2', '2x2']"], "both numbers 1 or more"),
        (["--set", "search.num_trials=100000"], "exceeds the 256 architectures"),
        (
            ["--set", "search.objectives=[dice, hd95]", "--set", "search.racing={}"],
            "racing compares pixel counts, so objectives can be dice, miou, sensitivity, specificity only; got hd95",
        ),
        (["--set", "search.flips=[both, both]"], "flips must not name one twice"),
    ],
)
def test_bad_input_exits_2_with_the_mend(
    config: Path,
    tmp_path: Path,
    more: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers of this process stay
    assert entrypoint.main(["--config", str(config), "--run-dir", str(tmp_path / "run"), *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert says in said


def earlier_run(folder: Path, monkeypatch: pytest.MonkeyPatch, database: str | None) -> str:
    """A run folder whose search has one trial; its architecture."""
    if database:
        monkeypatch.setenv(STUDY_VARIABLE, database)
    job, run = parse_job(JOB), RunFolder(folder)
    assert isinstance(job, SearchJob)
    study = Study(run.study_location, run.study_name("search"), job.search_space, ("dice", "miou"), "evolution")
    architecture = job.search_space.decode([0, 1, 2, 3])
    study.start(architecture, origin="evolution", asked_after=0)
    study.complete(0, {"dice": 0.5, "miou": 0.4}, ended_as=0, seconds=None)
    return str(architecture)


@pytest.mark.parametrize("shared", [False, True], ids=["journal", "database"])
def test_warm_start_is_found_by_folder_or_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    database = f"sqlite:///{tmp_path}/studies.db" if shared else None
    architecture = earlier_run(tmp_path / "earlier", monkeypatch, database)
    job, run = parse_job(JOB), RunFolder(tmp_path / "later")
    assert isinstance(job, SearchJob)
    names = [str(tmp_path / "earlier")] + ([f"{tmp_path}/earlier/search"] if shared else [])
    for name in names:
        assert [str(found) for found in driver._warm_start(job, run, WarmStart(study=name))] == [architecture]
    with pytest.raises(InputError):
        driver._warm_start(job, run, WarmStart(study=str(tmp_path / "nowhere")))


def test_journal_of_a_run_is_found_though_studies_now_go_to_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = earlier_run(tmp_path / "earlier", monkeypatch, None)
    monkeypatch.setenv(STUDY_VARIABLE, f"sqlite:///{tmp_path}/studies.db")
    job = parse_job(JOB)
    assert isinstance(job, SearchJob)
    found = driver._warm_start(job, RunFolder(tmp_path / "later"), WarmStart(study=str(tmp_path / "earlier")))
    assert [str(each) for each in found] == [architecture]


def test_checked_data_set_is_known_to_the_service_whose_run_it_is(tmp_path: Path) -> None:
    sizes = SyntheticConfig(num_train=3, num_val=2, num_search=2, num_test=2)
    data = DataConfig(image_size=(32, 32), synthetic=sizes)
    job = parse_job({**JOB, "data": {"name": "lesions", "root": str(write_isic_folder(data, tmp_path / "lesions"))}})
    reports_dir(tmp_path / "runs").mkdir(parents=True)
    run = RunFolder(tmp_path / "runs" / "s-1")
    assert isinstance(job, SearchJob)
    assert check_listing(job.data, cache_dir=reports_dir(tmp_path / "runs")).report is None
    counted = driver._check_input(job, run)
    assert counted == {"train": 3, "val": 2, "search": 2, "test": 2}
    listing = check_listing(job.data, cache_dir=reports_dir(tmp_path / "runs"))
    assert listing.num_images == counted
    assert listing.report is not None
    told = [(event["done"], event["total"]) for _, event in run.events()]
    assert told[-1] == (9, 9)


def test_search_by_way_of_rays_client_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"ray://127.0.0.1:10001 \(Ray Client\) supports trainings only"):
        driver.run_job(parse_job(JOB), run, address="ray://127.0.0.1:10001")
    assert not run.path.exists()


def test_faulty_warm_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the corrected job may take the same folder."""
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    search = {**JOB["search"], "warm_start": {"study": str(tmp_path / "nowhere")}}  # type: ignore[dict-item]
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="there is no earlier search in"):
        driver.run_job(parse_job({**JOB, "search": search}), run)
    assert not run.config_path.exists()


def test_search_without_an_answer_says_why() -> None:
    def trial(number: int, **fields: object) -> Trial:
        given = {"number": number, "architecture": f"a{number}", "origin": "x", "asked_after": 0}
        return Trial.model_validate(given | fields)

    failed = trial(0, state="FAILED", error="out of memory")
    at_most = {"hd95": Bound(max=6.5)}
    assert (
        driver._why_no_front([failed], at_most) == "none of the candidates could be evaluated; the first: out of memory"
    )
    outside = [
        trial(i, state="COMPLETED", metrics={"hd95": 9.0 - i, "dice": 0.8, "flops": 3e8}, violation=0.5 - 0.1 * i)
        for i in (1, 2)
    ]
    said = driver._why_no_front([failed, *outside], at_most)
    assert "none of 2 candidates meets the constraints; the nearest has hd95 7, where hd95 at most 6.5 is asked" in said
    assert "dice" not in said
    small = driver._why_no_front(outside, {"flops": Bound(max=1e8)})
    assert "has flops 300 M, where flops at most 100 M is asked for: a2" in small
