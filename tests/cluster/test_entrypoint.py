"""Where a run goes when nothing is said of it; threads and names of its workers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster import connect
from cluster.config import parse_job
from cluster.entrypoint import RUNS_VARIABLE, default_folder
from cluster.ids import new_id
from cluster.workers import device_for, use_threads

CONFIG = Path("configs/kvasir.yaml")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RUNS_VARIABLE, connect._INSIDE_A_JOB):
        monkeypatch.delenv(name, raising=False)


def test_run_gets_a_new_folder_where_the_service_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_VARIABLE, "/shared/runs")
    first, second = default_folder(CONFIG), default_folder(CONFIG)
    assert first.parent == Path("/shared/runs")
    assert re.fullmatch("s-[0-9a-z]{26}", first.name)
    assert first != second


def test_run_without_a_service_is_named_after_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_folder(CONFIG) == Path("runs/kvasir")
    monkeypatch.setenv(connect._INSIDE_A_JOB, '{"metadata": {"job_submission_id": "s-1"}}')
    assert default_folder(CONFIG) == Path.home() / "runs/kvasir", "a Ray job's working directory is deleted after it"


def test_ids_sort_by_time_and_begin_with_their_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", iter([1.0, 2.0, 4e9]).__next__)
    ids = [new_id("j") for _ in range(3)]
    assert ids == sorted(ids)
    assert all(re.fullmatch("j-[0-9a-z]{26}", one) for one in ids)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1, 1), (2.9, 2), (3, 3)])
def test_worker_computes_with_as_many_threads_as_it_has_cpus(cpus: float, threads: int) -> None:
    use_threads(cpus)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("gpus", "there", "device"), [(0, True, "cpu"), (1, True, "cuda"), (0.5, True, "cuda"), (1, False, "cpu")]
)
def test_worker_computes_on_a_gpu_that_it_was_given_and_on_no_other(
    gpus: float, there: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    resources = parse_job({"resources": {"train": {"gpus": gpus}, "search": {"gpus": gpus}}}).resources
    assert device_for(resources.train).type == device_for(resources.search).type == device


def test_worker_shows_what_it_does() -> None:
    code = "import psutil; from cluster import workers; workers.connected = lambda: True; "
    code += "workers.show_as('trial 7 s1:2x2'); "
    code += "print(psutil.Process().cmdline()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ray::trial 7 s1:2x2"
