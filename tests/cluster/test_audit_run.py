"""The audit: what it plans and refuses, what it makes of its measurements, and the whole of it, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from api.cli import app
from cluster import audit_front, audit_training, results
from cluster.attempts import FencedError, check_no_audit, only_driver
from cluster.audit import random_plans, run_audit, set_aside_other_audit
from cluster.audit_front import front_scores
from cluster.audit_training import Training, _Trainings, in_threads, num_trainings_at_once, plan_trainings
from cluster.config import RetrainJob, SearchJob, parse_job
from cluster.costs import device_hours, phase_seconds, search_costs
from cluster.front import measure_front
from cluster.local import stop_tree
from cluster.report import write_report
from cluster.run_folder import RunFolder
from cluster.summary import print_audit, print_summary
from nas.config import AuditConfig
from nas.objectives import Bound
from nas.search import SearchSession
from nas.searchers import baseline_seed, make_searcher
from nas.searchers.listed import ListedSearcher
from nas.study import Study, Trial, find_trials, open_storage, pareto_front
from slicemamba.architecture import Architecture
from slicemamba.data.description import Description, write_description
from slicemamba.errors import InputError
from slicemamba.evaluation.scores import save_arrays
from slicemamba.models.checkpoints import save_network
from slicemamba.models.supernet import Supernet

JOB: dict[str, Any] = {
    "kind": "search",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 8, "num_val": 2, "num_search": 3, "num_test": 4},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1], "d_state": 4},
    "space": {"choices": ["2x2", "4x4"]},
    "supernet": {"epochs": 2, "batch_size": 4, "t_max": 2, "num_val_architectures": 0},
    "search": {
        "objectives": ["dice", "miou"],
        "num_trials": 8,
        "population_size": 4,
        "num_parents": 2,
        "num_mutations": 2,
        "num_crossovers": 1,
    },
    "retrain": {"epochs": 1, "batch_size": 4},
    "baselines": [],
}


def job(**search: Any) -> SearchJob:
    parsed = parse_job(JOB | {"search": JOB["search"] | search})
    assert isinstance(parsed, SearchJob)
    return parsed


def dice(architecture: Architecture) -> dict[str, float]:
    """More of the second choice is better."""
    share = sum(block.rows == 4 for block in architecture.blocks()) / architecture.num_blocks
    return {"dice": 0.5 + 0.4 * share, "miou": 0.4 + 0.4 * share}


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run folder with a study, as a search without retraining leaves it."""
    run, spec = RunFolder(tmp_path / "run"), job()
    run.write_json("config.json", spec.model_dump(mode="json"))
    fill(run, spec, "search")
    run.write_json("result.json", {"objectives": ["dice", "miou"]})
    return run


def fill(run: RunFolder, spec: SearchJob, kind: str) -> list[Trial]:
    """Evaluates a study by ``dice``; every fifth trial fails."""
    study = Study(run.study_location, run.study_name(kind), spec.search_space, spec.search.objectives, "evolution")
    searcher = make_searcher(spec.search, spec.search_space)
    fixed = spec.search_space.fixed()
    session = SearchSession(study, searcher, origin="evolution", num_trials=spec.search.num_trials, enqueue=fixed)
    while (trial := session.ask()) is not None:
        if trial.number % 5 == 4:
            session.fail(trial.number, "out of memory")
        else:
            session.tell(trial.number, dice(Architecture.parse(trial.architecture)), 0.5)
    return study.trials()


def test_random_searches_are_those_that_the_search_would_run() -> None:
    spec = job(seed=7)
    plans = random_plans(spec, 3)
    assert [len(set(plan)) for plan in plans] == [8, 8, 8]
    assert plans[0] != plans[1] != plans[2]
    own = {"searcher": "random", "seed": baseline_seed(7)}
    searcher = make_searcher(spec.search.model_copy(update=own), spec.search_space)
    known: set[Architecture] = set()
    for architecture in plans[0]:
        assert searcher.ask(known) == architecture
        known.add(architecture)


def test_listed_architectures_are_proposed_in_order_and_once() -> None:
    space = job().search_space
    wanted = [space.decode([i % 2, i // 2 % 2, i // 4, 0]) for i in range(6)]
    searcher = ListedSearcher(wanted)
    assert searcher.ask(set()) == wanted[0]
    assert searcher.ask(set(wanted[:3])) == wanted[3]
    assert searcher.ask(set(wanted)) is None


def test_best_fixed_and_a_spread_are_trained(finished: RunFolder) -> None:
    spec = job()
    trials = find_trials(open_storage(finished.study_location), "search")
    best = pareto_front(trials, spec.search.objectives)[0]
    plan = plan_trainings(spec, AuditConfig(num_retrained=3, epochs=5), best, trials)
    assert [one.place for one in plan] == list(range(len(plan)))
    assert plan[0].architecture == best.architecture
    assert "best" in plan[0].roles
    roles = [role for one in plan for role in one.roles]
    assert {"fixed 2x2", "fixed 4x4"} <= set(roles)
    assert roles.count("sampled") == 3
    assert len({one.architecture for one in plan}) == len(plan)


@pytest.mark.parametrize(
    ("epochs", "roles", "seed", "reused"),
    [
        (None, ("best",), 0, True),
        (None, ("best", "fixed 2x2"), 0, True),
        (None, ("sampled",), 0, False),
        (None, ("best",), 1, False),
        (5, ("best",), 0, False),
    ],
)
def test_winner_of_the_run_is_trained_again_only_by_another_recipe(
    finished: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int | None,
    roles: tuple[str, ...],
    seed: int,
    reused: bool,
) -> None:
    trained: list[RetrainJob] = []

    def retrain(job: RetrainJob, architecture: Architecture, run: RunFolder, cache_dir: Path) -> Path:
        trained.append(job)
        return run.path / "retrained"

    monkeypatch.setattr(audit_training, "retrain", retrain)
    finished.write_json("retrained/config.json", {})
    work = _Trainings(job(), finished, RunFolder(finished.path / "audit"), AuditConfig(epochs=epochs), finished.path)
    one = Training(3, str(job().search_space.fixed()[0]), roles, seed)
    place = RunFolder(finished.path / "audit" / "retrained" / "03")
    network = work._network(one, work._retrain_job(one), place)
    assert (network == finished.path / "retrained") == reused
    assert len(trained) == (not reused)
    if trained:
        assert (trained[0].retrain.epochs, trained[0].retrain.seed) == (epochs or 1, seed)
        told = [(event["event"], event.get("phase")) for _, event in place.events()]
        assert told == [("started", None), ("phase", "retrain"), ("ended", None)]  # its time is counted from the start


def test_progress_of_trainings_is_told_in_epochs(finished: RunFolder) -> None:
    folder = RunFolder(finished.path / "audit")
    work = _Trainings(job(), finished, folder, AuditConfig(epochs=5), finished.path)
    work.train([], more=4)
    for place, part in ((0, 1.0), (1, 0.4)):
        work._progress(Training(place, "", ("sampled",), 0), part, {})
    last = [event for _, event in folder.events()][-1]
    assert (last["done"], last["total"], last["unit"]) == (7, 20, "epochs")


class Superseded:
    """The attempt of an audit's driver that another one has followed."""

    run_path = Path("audit")
    number = 1
    token = "former"

    def check(self) -> None:
        raise FencedError("another driver has taken over")


def test_training_of_an_audit_whose_driver_was_followed_writes_nothing(finished: RunFolder) -> None:
    folder = RunFolder(finished.path / "audit")
    folder.attempt = Superseded()
    work = _Trainings(job(), finished, folder, AuditConfig(), finished.path)
    with pytest.raises(FencedError):
        work._train(Training(3, str(job().search_space.fixed()[0]), ("sampled",), 0))
    assert not list(finished.path.glob("audit/retrained/*/*"))


def test_error_in_one_thread_is_raised_though_another_goes_on() -> None:
    begun, stop, ended = threading.Event(), threading.Event(), []

    def work(number: int) -> int:
        if number == 0:
            begun.wait()
            raise OSError("no space")
        begun.set()
        stop.wait()
        ended.append(number)
        return number

    try:
        with pytest.raises(OSError, match="no space"):
            in_threads(work, [0, 1, 2, 3], 2)
        others = [thread for thread in threading.enumerate() if "(work)" in thread.name]
        assert others
        assert all(thread.daemon for thread in others), "the process can end"
    finally:
        stop.set()
    for thread in others:
        thread.join()
    assert ended == [1], "nothing is begun after the error"


def test_results_of_threads_are_in_the_order_of_what_was_given() -> None:
    assert in_threads(lambda number: -number, range(7), 3) == [0, -1, -2, -3, -4, -5, -6]
    assert in_threads(abs, [], 3) == []


def test_what_asks_for_no_gpu_counts_on_the_cpu_of_a_node_that_has_one(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = job()
    network = Supernet(spec.model, 1, spec.space.choices)
    save_network(finished.path / "supernet", network, spec.data)
    save_network(finished.path / "retrained", network.extract(spec.search_space.fixed()[0]), spec.data)
    given = (spec.data, finished.path / "retrained", tmp_path, 4)
    assert audit_training._count_splits(spec.resources.train, *given)["test"].shape == (4, 1, 4)
    todo = [(str(spec.search_space.fixed()[0]), tmp_path / "counts.npz")]
    audit_front._count_candidates(
        spec.resources.search, spec.data, finished.path / "supernet", todo, RunFolder(tmp_path / "audit"), tmp_path, 4
    )
    with np.load(tmp_path / "counts.npz") as arrays:
        assert arrays["counts"].shape == (3, 1, 4)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no finished run"),
        ({"config.json": JOB}, "holds no finished run"),
        ({"config.json": {"kind": "supernet"}, "result.json": {}}, "is a supernet run"),
    ],
    ids=["empty", "unfinished", "no search"],
)
@pytest.mark.parametrize("command", ["audit", "report"])
def test_other_folders_are_refused(tmp_path: Path, files: dict[str, Any], says: str, command: str) -> None:
    for name, values in files.items():
        RunFolder(tmp_path).write_json(name, values)
    result = CliRunner().invoke(app, [command, str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)


def test_other_settings_in_the_same_folder_are_refused(finished: RunFolder) -> None:
    RunFolder(finished.path / "audit").write_json("config.json", AuditConfig().model_dump(mode="json"))
    with pytest.raises(InputError, match="other settings") as caught:
        run_audit(finished, AuditConfig(random_seeds=5))
    assert caught.value.details == ["random_seeds: 3 before, 5 now"]


def test_report_of_a_run_without_events_network_or_audit(finished: RunFolder) -> None:
    result = CliRunner().invoke(app, ["report", str(finished.path)])
    assert result.exit_code == 0, result.output
    page = (finished.path / "report.html").read_text()
    assert "Not audited" in page
    assert "No network was retrained" in page
    assert "out of memory" in page
    assert {"pareto.png", "slicing.png", "hypervolume.png", "effects.png"} <= {p.name for p in finished.path.iterdir()}
    assert not list(finished.path.glob(".*.part"))


def test_report_shows_the_worst_predictions(finished: RunFolder) -> None:
    from PIL import Image

    folder = finished.path / "predictions"
    folder.mkdir()
    for rank, name in enumerate(["00_a b_dice0.100", "01_<b>_dice0.200", "predictions"]):
        Image.new("RGB", (1000, 300), (rank, 9, 9)).save(folder / f"{name}.png")
    page = write_report(finished).read_text()
    assert page.count('<figure><img src="data:image/png;base64,') == 2
    assert "a b, Dice 0.100" in page
    assert "&lt;b&gt;, Dice 0.200" in page


def test_report_does_not_tell_where_the_images_are(finished: RunFolder) -> None:
    values = finished.read_json("config.json") or {}
    values["data"] = {"name": "lesions", "root": "/srv/secret/lesions"}
    finished.write_json("config.json", values)
    page = write_report(finished).read_text()
    assert "lesions" in page
    assert "/srv/secret" not in page


def test_images_of_two_members_are_paired_by_name(finished: RunFolder) -> None:
    spec = job()
    front = find_trials(open_storage(finished.study_location), "search")[:2]
    counts = np.random.default_rng(0).integers(1, 1000, (30, 1, 4))
    names = np.array([f"image_{i:02d}" for i in range(30)])
    turned = np.random.default_rng(1).permutation(30)
    save_arrays(finished.counts_path("search", front[0].number), counts=counts, names=names)
    save_arrays(finished.counts_path("search", front[1].number), counts=counts[turned], names=names[turned])
    found = front_scores(spec, finished, RunFolder(finished.path / "audit"), front, 0, finished.path)
    assert found["num_images"] == 30
    second = found["members"][1]
    assert second["difference_to_best"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert second["tie"]
    assert set(second["intervals"]) == {"dice", "miou"}


def test_front_is_compared_by_the_patients_that_are_told(finished: RunFolder, tmp_path: Path) -> None:
    front = find_trials(open_storage(finished.study_location), "search")[:2]
    # Three patients of ten images: one candidate is better on two of them, far worse on the third.
    names = np.array([f"p{i % 3}_{i:02d}" for i in range(30)])
    hits = {0: np.where(np.arange(30) % 3 == 2, 500, 900), 1: np.full(30, 740)}
    for number, tp in hits.items():
        counts = np.stack([tp, 1000 - tp, 1000 - tp, 2000 + tp], axis=-1)[:, None, :]
        save_arrays(finished.counts_path("search", front[number].number), counts=counts, names=names)

    def member(pattern: str | None) -> dict[str, Any]:
        spec = parse_job(JOB | {"data": JOB["data"] | {"patient_pattern": pattern}})
        assert isinstance(spec, SearchJob)
        found = front_scores(spec, finished, RunFolder(finished.path / "audit"), front, 0, finished.path)
        assert (found["num_images"], found["num_patients"]) == (30, 30 if pattern is None else 3)
        second: dict[str, Any] = found["members"][1]["difference_to_best"]
        return second

    by_image, by_patient = member(None), member(r"^(p\d)_")
    write_description(tmp_path, Description(groups={name: name[:2] for name in names.tolist()}))
    spec = parse_job(JOB | {"data": {"name": "set", "root": str(tmp_path)}})
    assert isinstance(spec, SearchJob)
    by_table = front_scores(spec, finished, RunFolder(finished.path / "audit"), front, 0, finished.path)
    assert by_table["members"][1]["difference_to_best"] == by_patient
    assert by_image["value"] == by_patient["value"]
    assert by_patient["high"] - by_patient["low"] > 1.5 * (by_image["high"] - by_image["low"])


def test_random_search_that_never_met_the_constraints_costs_no_result(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job()
    study = Study(
        finished.study_location, "random", spec.search_space, ("dice", "miou"), "random", {"dice": Bound(min=2.0)}
    )
    session = SearchSession(study, make_searcher(spec.search, spec.search_space), origin="random", num_trials=3)
    while (trial := session.ask()) is not None:
        session.tell(trial.number, dice(Architecture.parse(trial.architecture)))
    monkeypatch.setattr(results, "cluster_resources", dict)
    front = measure_front(spec, finished, find_trials(open_storage(finished.study_location), "search"))
    result = results.searched(spec, finished, front, None, finished.path / "cache")
    assert result["random"] == {"best": None, "pareto": [], "dominating": []}
    assert result["hypervolume"]["random"] == 0
    console = Console(record=True, width=160)
    print_summary(console, result)
    assert "none within the constraints" in console.export_text()


def test_audit_is_printed_with_ties_failures_and_verdict() -> None:
    ends = {"value": 0.8, "low": 0.75, "high": 0.85}
    trained = {"folder": "audit/retrained/00", "roles": ["best"], "seed": 0, "supernet": 0.7, "error": None}
    failed = trained | {"folder": "audit/retrained/01", "roles": ["sampled"], "supernet": None, "error": "loss [nan]"}
    members = [
        {"number": n, "intervals": {"dice": ends}, "difference_to_best": ends, "tie": tie}
        for n, tie in ((4, True), (2, True), (9, False))
    ]
    criterion = {"name": "ranking", "question": "Is it?", "outcome": "open", "evidence": "τ [few]"}
    audit = {
        "metric": "dice",
        "retrained": [trained | {"search": ends, "test": ends}, failed],
        "front": {"members": members},
        "verdict": {"word": "weak", "sentence": "It is weak [so far].", "criteria": [criterion]},
    }
    console = Console(record=True, width=160)
    print_audit(console, audit)
    text = console.export_text()
    for part in ("the best", "tie", "worse", "failed", "loss [nan]", "τ [few]", "weak: It is weak [so far]."):
        assert part in text
    assert "0.8000 (0.750–0.850)" in text


class TestCosts:
    def events(self, run: RunFolder, *events: tuple[float, str, str]) -> None:
        """Writes (second, kind, phase) as a driver would have."""
        start = datetime(2026, 1, 1, tzinfo=timezone.utc)
        rows = [
            {"time": (start + timedelta(seconds=second)).isoformat(), "event": kind, "phase": phase}
            for second, kind, phase in events
        ]
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def test_time_between_two_starts_is_not_counted(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path)
        self.events(
            run,
            (0, "phase", "check"), (2, "phase", "supernet"), (12, "progress", "supernet"),
            (1000, "phase", "check"), (1001, "phase", "supernet"), (1006, "phase", "search"), (1009, "trial", "search"),
        )  # fmt: skip
        assert phase_seconds(run) == {"check": 3, "supernet": 15, "search": 3}
        assert phase_seconds(RunFolder(tmp_path / "none")) == {}

    def test_training_counts_its_workers(self, finished: RunFolder) -> None:
        self.events(finished, (0, "phase", "check"), (0, "phase", "supernet"), (3600, "phase", "search"))
        spec = job()
        resources = spec.resources.model_copy(
            update={"train": spec.resources.train.model_copy(update={"num_workers": 4})}
        )
        trials = find_trials(open_storage(finished.study_location), "search")
        hours = device_hours(spec.model_copy(update={"resources": resources}), finished, {"search": trials})
        completed = sum(trial.seconds is not None for trial in trials)
        assert hours == pytest.approx({"supernet": 4.0, "candidates": completed * 0.5 / 3600})
        studies = {
            "survey": trials,
            "search": trials,
            "random": [],
            "finals-1": trials,
            "finals-2": trials,
            "audit": trials,
        }
        costs = search_costs(spec, finished, studies)
        each = completed * 0.5 / 3600
        assert costs["device_hours"] == pytest.approx({"supernet": 1.0, "candidates": 2 * each, "finals": 2 * each})
        assert costs["trials"] == {"COMPLETED": completed, "FAILED": len(trials) - completed}
        assert costs["evaluating_seconds"] == pytest.approx(0.5 * completed)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mine = {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled"}
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | mine


def audit_command(run: RunFolder) -> list[str]:
    options = ["--num-retrained", "2", "--retrain-seeds", "2", "--random-seeds", "2", "--epochs", "1"]
    return [sys.executable, "-m", "api.cli", "audit", str(run.path), *options]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_audit_goes_on(environment: dict[str, str], tmp_path: Path) -> None:
    run, config = RunFolder(tmp_path / "run"), tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(JOB))
    search = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(run.path)]
    subprocess.run(search, env=environment, check=True, stdin=subprocess.DEVNULL)
    assert (run.path / "report.html").exists()
    result = run.read_json("result.json")
    assert result is not None
    assert {split: one["num_images"] for split, one in result["splits"].items()}["test"] == 4

    second = run.path / "audit" / "retrained" / "01" / "scores.npz"
    first = subprocess.Popen(audit_command(run), env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not second.exists():
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    stop_tree(first.pid)
    first.wait()
    assert run.read_json("audit.json") is None
    before, written = find_trials(open_storage(run.study_location), "audit"), second.stat().st_mtime_ns

    done = subprocess.run(audit_command(run), env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert second.stat().st_mtime_ns == written
    trials = {kind: find_trials(open_storage(run.study_location), kind) for kind in ("search", "audit")}
    assert trials["audit"] == before
    evaluated = [trial.architecture for kind in trials.values() for trial in kind]
    assert len(evaluated) == len(set(evaluated))

    audit = json.loads((run.path / "audit.json").read_text())
    assert audit["splits"] == result["splits"]
    assert audit["verdict"]["word"] in ("weak", "not supported")  # with four test images nothing can be supported
    assert audit["verdict"]["word"] in done.stdout
    assert not any(row["error"] for row in audit["retrained"])
    assert set(audit["random"]["hypervolume"]) == {"search", "random 0", "random 1", "fixed"}
    assert len(audit["front"]["members"]) == len(result["pareto"])
    page = (run.path / "report.html").read_text()
    assert audit["verdict"]["sentence"] in page

    # Asked for again, it is read; with images that have changed, it says so.
    num_events = len(list(RunFolder(run.path / "audit").events()))
    subprocess.run(audit_command(run), env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert len(list(RunFolder(run.path / "audit").events())) == num_events + 1
    audit["splits"]["train"]["digest"] = "other"
    run.write_json("audit.json", audit)
    changed = subprocess.run(audit_command(run), env=environment, capture_output=True, text=True)
    assert changed.returncode == 2
    assert "images have changed since the audit" in changed.stderr


def test_one_training_at_a_time_where_there_is_no_ray() -> None:
    """They would draw from the one generator of the process."""
    assert num_trainings_at_once(job().resources.train) == 1


def test_audit_of_other_settings_is_set_aside_and_one_of_the_same_is_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    set_aside_other_audit(run, AuditConfig())  # there is none yet
    for number, epochs in enumerate((1, 2, 3)):
        settings = AuditConfig(epochs=epochs)
        set_aside_other_audit(run, settings)
        assert len(list(run.path.glob("audit-*.json"))) == number
        run.write_json("audit/config.json", settings.model_dump(mode="json"))
        run.write_json("audit.json", {"epochs": epochs})
        set_aside_other_audit(run, settings)
        assert run.read_json("audit.json") == {"epochs": epochs}
    assert (run.read_json("audit-1.json"), run.read_json("audit-2.json")) == ({"epochs": 1}, {"epochs": 2})
    assert (run.read_json("audit-2/config.json") or {})["epochs"] == 2
    with only_driver(RunFolder(run.path / "audit")), pytest.raises(InputError, match="running driver"):
        check_no_audit(RunFolder(run.path))  # asked before a search is extended
    check_no_audit(run)
    run.write_json("result.json", {"trials": 8})
    run.set_aside_result()  # as of a search that is extended: what was audited is not what it finds
    assert run.read_json("audit.json") is None
    assert not (run.path / "audit").exists()
    assert (run.read_json("audit-3.json"), run.read_json("result-1.json")) == ({"epochs": 3}, {"trials": 8})
