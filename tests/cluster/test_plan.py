"""A plan fits the machine: a batch that its memory holds, epochs for the time that is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import app
from cluster import plan
from cluster.config import SearchJob
from cluster.dry_run import Trial
from cluster.work import samples_of, work_by_phase
from slicemamba.config import DataConfig, SyntheticConfig, validate
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.documents import read_yaml

DATA = DataConfig(image_size=(48, 64), synthetic=SyntheticConfig(num_train=40, num_val=3, num_search=4, num_test=3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_isic_folder(DATA, tmp_path / "set")


def planned(folder: Path, *options: str) -> tuple[SearchJob, str]:
    out = folder.parent / "plan.yaml"
    done = CliRunner().invoke(app, ["plan", str(folder), "--out", str(out), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return validate(SearchJob, read_yaml(out), source="plan"), out.read_text()


def pace(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(plan, "try_step", lambda job: Trial(seconds, 0))


def test_written_plan_is_a_job_timed_here(folder: Path) -> None:
    job, text = planned(folder, "--hours", "0.05")
    assert (job.name, job.data.root, job.search.searcher) == ("set", folder, "nsga2")
    assert "# small networks learn faster" in text
    assert "ms to train on an image, measured here" in text
    assert job.retrain is not None
    assert 10 <= job.supernet.epochs == job.retrain.epochs <= 300
    again = CliRunner().invoke(app, ["plan", str(folder), "--out", str(folder.parent / "plan.yaml")])
    assert again.exit_code != 0, "an edited plan must not be overwritten"


@pytest.mark.parametrize("hours", [0.5, 1.0, 2.0])
def test_epochs_fill_the_time(folder: Path, hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.05
    pace(monkeypatch, seconds)
    job, _ = planned(folder, "--hours", str(hours))

    def takes(epochs: int) -> float:
        assert job.retrain is not None
        longer = {name: getattr(job, name).model_copy(update={"epochs": epochs}) for name in ("supernet", "retrain")}
        work = work_by_phase(job.model_copy(update=longer), {"train": 40, "val": 3, "search": 4, "test": 3})
        return sum(phase.passes for phase in work.values()) * seconds / 3600

    assert takes(job.supernet.epochs) <= hours < takes(job.supernet.epochs + 1)


@pytest.mark.parametrize(
    ("seconds", "epochs", "told"), [(10.0, 10, "fewer than 10 would teach little"), (1e-6, 300, "would allow more")]
)
def test_epochs_have_limits_which_are_told(
    folder: Path, seconds: float, epochs: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace(monkeypatch, seconds)
    job, text = planned(folder)
    assert job.supernet.epochs == epochs
    assert told in text


def test_batch_is_halved_until_the_memory_holds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace(monkeypatch, 0.01)
    ample, text = planned(folder)
    assert ample.supernet.batch_size == 4
    assert "GiB" not in text
    (folder.parent / "plan.yaml").unlink()
    monkeypatch.setattr(plan, "_free_memory", lambda resources: 2 * plan._memory(ample, 2))
    job, text = planned(folder)
    assert job.retrain is not None
    assert job.supernet.batch_size == job.retrain.batch_size == 2
    assert "# 4 would take about" in text


def test_windows_are_counted_where_images_are_not_resized() -> None:
    data = DataConfig(name="set", fit="patch", image_size=(32, 32))
    assert samples_of(data, {"train": 3}, (64, 70)) == {"train": 18}
    assert samples_of(data, {"train": 3}, None) == {"train": 3}


def test_base_that_is_no_search_is_refused(folder: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(folder), "--out", str(folder.parent / "p.yaml"), "--base", "pretrain"])
    assert done.exit_code != 0
    assert "--base must be a search that retrains its winner" in str(done.exception)


def test_plan_of_no_folder_or_for_a_gpu_that_is_not_here_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for options, told in (
        (["--base", "kvasir"], "kvasir trains on a GPU, and this machine has none"),
        ([], "no folder"),
    ):
        target = folder if options else folder / "nowhere"
        done = CliRunner().invoke(app, ["plan", str(target), "--out", str(folder.parent / "p.yaml"), *options])
        assert told in str(done.exception)
    assert not (folder.parent / "p.yaml").exists()
