"""The commands that drive runs from a terminal: what they say of interrupts, progress and jobs of the wrong kind."""

from __future__ import annotations

import io
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cluster import cli, driver
from cluster.config import SearchJob
from cluster.progress import progress_view, show_status
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunStatus
from nas.space import SearchSpace
from nas.study import Study
from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.errors import InputError


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    cli.register(made)
    return made


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit(1)])
def test_an_interrupt_is_followed_by_the_command_that_goes_on(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    """Ray Train ends the process by SystemExit when it is interrupted while it trains."""

    def interrupted(*_: object, **__: object) -> None:
        raise end

    monkeypatch.setattr(driver, "run_job", interrupted)
    arguments = ["search", "laptop", "--out", str(tmp_path / "my run"), "--set", "supernet.epochs=2"]
    monkeypatch.setattr(sys, "argv", ["/src/api/cli.py", *arguments])
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 130
    assert f"slicemamba search laptop --out '{tmp_path / 'my run'}' --set supernet.epochs=2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "laptop"], "laptop is a job of kind search; `slicemamba pretrain` needs a job of kind pretrain"),
        (["search", "pretrain"], "kind pretrain; only `slicemamba pretrain` accepts jobs of kind pretrain"),
        (["search", "supernet.yaml"], "is a job of kind supernet; `slicemamba search` needs a job of kind search"),
        (["search", "laptop", "--set", "kind=serach"], "did you mean 'search'"),
        (["retrain", "laptop", "--set", "search.num_trial=3"], "did you mean 'num_trials'"),
        (["train-supernet", "laptop", "--set", "retrain.epoch=3"], "did you mean 'epochs'"),
        (["retrain", "pretrain", "--architecture", "2x2"], "pretrain is a job of kind pretrain"),
        (["retrain", "laptop", "--set", "init=supernet"], "give its folder .--set init=runs/NAME/supernet."),
    ],
)
def test_a_job_of_another_kind_is_refused_in_one_sentence(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "supernet.yaml").write_text("kind: supernet\n")
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_picked_networks_are_trained_as_the_winner_was_and_not_stored_in_each_others_place(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ran = RunFolder(tmp_path / "run"), []
    small = {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]}
    spec = {"kind": "search", "model": small, "init": "supernet", "retrain": {"epochs": 3}, "search": {"num_trials": 9}}
    run.write_json("config.json", spec)
    rows = [{"number": n, "architecture": f"s1:{n}x{n}|s2:2x2|s3:2x2|s4:2x2", "metrics": {"dice": 0.5}} for n in (1, 2)]
    run.write_json("result.json", {"pareto": rows, "objectives": ["dice"]})
    monkeypatch.setattr(driver, "run_job", lambda job, place, **more: ran.append((job, place.path, more["store"])))
    monkeypatch.setenv("SLICEMAMBA_STORE", "s3://runs/team")
    done = CliRunner().invoke(app, ["pick", str(run.path), "--members", "all", "--retrain"], catch_exceptions=False)
    assert [(str(job.slicing), job.init, job.retrain.epochs) for job, _, _ in ran] == [
        (row["architecture"], run.path / "supernet", 3) for row in rows
    ]
    assert [(place.name, store) for _, place, store in ran] == [("00001", None), ("00002", None)]
    assert "warning: the object store keeps no copy of what this trains" in done.stderr


def test_parts_that_are_not_used_are_named(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_job", lambda *_, **__: None)
    monkeypatch.setattr("cluster.summary.print_scores", lambda *_: None)
    done = CliRunner().invoke(app, ["retrain", "laptop", "--architecture", "2x2"], catch_exceptions=False)
    assert "not used of laptop: supernet, search" in done.stderr


def test_seed_that_no_generator_takes_is_refused_in_one_sentence(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(tmp_path), "--seed", "-1"])
    assert done.exit_code == 2
    assert "--seed" in done.stderr


def test_progress_outside_of_a_terminal_is_told_in_order_and_once() -> None:
    def status(phase: str, **done: int) -> RunStatus:
        progress = {name: Progress(done=count, total=4, unit="trials", metrics={}) for name, count in done.items()}
        return RunStatus(state="RUNNING", phase=phase, progress=progress, pid=1, updated_at=datetime.now(timezone.utc))

    text = io.StringIO()
    with progress_view(Console(file=text)) as view:
        show_status(view, status("check"))
        show_status(view, status("search", search=0))
        show_status(view, status("random", search=4))
        show_status(view, status("random", search=4, random=0))
        failed = status("random", search=4, random=0).model_copy(update={"state": "FAILED", "error": "no disk"})
        show_status(view, failed)  # the error is raised too, and told then
    assert text.getvalue().splitlines() == [
        "Check data",
        "Search: 0/4 trials",
        "Search: 4/4 trials",
        "Random baseline",
        "Random baseline: 0/4 trials",
    ]


def test_damaged_study_is_repaired_and_its_run_counts_as_unfinished(app: typer.Typer, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    space = SearchSpace(((2, 2), (4, 4)), (1, 1))
    study = Study(tmp_path / "run" / "search.journal", "search", space, ("dice",), "random")
    for number in range(3):
        study.start(space.decode([number & 1, number >> 1]), origin="random", asked_after=number)
    run.write_json("result.json", {})
    journal = run.path / "search.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    second = len(lines) - 2  # of three trials, each begun in a line of its own
    said = CliRunner().invoke(app, ["repair", str(run.path)], catch_exceptions=False).stdout
    assert "is whole; nothing was changed" in said
    journal.write_bytes(b"".join([*lines[:second], bytes(20) + b"\n", *lines[second + 1 :]]))
    said = CliRunner().invoke(app, ["repair", str(run.path)], catch_exceptions=False).stdout
    assert (
        f"{journal} is damaged in line {second + 1}; the 1 trials begun before it are whole, and 1 or more behind it"
        in said
    )
    assert journal.read_bytes() == b"".join(lines[:second])
    assert (run.path / "search.journal.damaged-1").exists()
    assert not run.result_path.exists()
    with pytest.raises(InputError, match="give the folder of a search"):
        CliRunner().invoke(app, ["repair", str(tmp_path)], catch_exceptions=False)


def test_a_search_is_planned_for_a_folder_and_goes_on_with_that_plan(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(image_size=(64, 48), synthetic=SyntheticConfig(num_train=9, num_val=3, num_search=3, num_test=3))
    write_isic_folder(data, tmp_path / "moles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    ran: list[tuple[SearchJob, str]] = []
    monkeypatch.setattr(driver, "run_job", lambda job, run, **_: ran.append((job, run.path.name)))
    monkeypatch.setattr("cluster.summary.print_summary", lambda *_: None)
    first = CliRunner().invoke(app, ["search", "moles", "--auto"])
    assert first.exit_code == 0, first.output
    assert "plan: runs/moles.yaml; edit it" in first.stderr
    text = Path("runs/moles.yaml").read_text()
    assert "# the aspect of images of 64×48 (median)" in text
    Path("runs/moles.yaml").write_text(text.replace("num_trials: 60", "num_trials: 7"))
    again = CliRunner().invoke(app, ["search", "moles", "--auto", "--set", "search.seed=3"])
    assert "plan: runs/moles.yaml, which is there" in again.stderr
    assert [(job.search.num_trials, job.search.seed, path) for job, path in ran] == [
        (60, 0, "moles"),
        (7, 3, "moles"),
    ]
    assert ran[0][0].data.image_size == (64, 48)
    write_isic_folder(data, tmp_path / "other" / "moles")
    for arguments, said in (
        (["other/moles", "--auto"], "runs/moles.yaml is a plan for"),
        (["laptop", "--auto"], "--auto plans a search on the folder of a data set, and laptop is none"),
        (["moles"], "moles is a folder; `slicemamba search moles --auto` plans a search on it"),
    ):
        refused = CliRunner().invoke(app, ["search", *arguments])
        assert isinstance(refused.exception, InputError)
        assert said in str(refused.exception)


@pytest.mark.parametrize("given", [["--set", "resources.train.gpus=1"], ["--set=resources.train.gpus=1"]])
def test_a_machine_without_room_is_told_the_whole_command_that_runs_there(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise InputError("the cluster has no GPU", pointer="/resources", details=["one thing"])

    monkeypatch.setattr(driver, "run_job", no_room)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = ["search", "laptop", "-o", str(tmp_path / "run"), "--set", "search.seed=3", *given]
    monkeypatch.setattr(sys, "argv", ["slicemamba", *arguments])
    told = CliRunner().invoke(app, arguments).exception
    assert isinstance(told, InputError)
    assert told.details[0] == "one thing"
    command = told.details[1].removeprefix("this runs here: ").split()
    assert command[: len(arguments) - len(given) + 1] == ["slicemamba", *arguments[: -len(given)]]
    ran: list[object] = []
    monkeypatch.setattr(
        driver, "run_job", lambda job, *_, **__: ran.append((job.resources.train.gpus, job.search.seed))
    )
    monkeypatch.setattr("cluster.summary.print_summary", lambda *_: None)
    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    assert ran == [(0, 3)]
