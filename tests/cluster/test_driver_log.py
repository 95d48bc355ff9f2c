"""The log that a driver keeps in its run's folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster import connect, driver_log
from cluster.driver_log import LOGS, kept_log, read_log
from cluster.entrypoint import main


def test_what_is_printed_is_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def driver() -> None:
        print("Größe")
        print("warning", file=sys.stderr)
        assert not sys.stdout.isatty()
        print(1 / 0)

    with pytest.raises(ZeroDivisionError), kept_log(tmp_path, "s-1"):
        driver()
    start, text = read_log(tmp_path, "s-1") or (None, "")
    assert start == 0
    assert text.startswith("Größe\nwarning\nTraceback")
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert capsys.readouterr().out == "Größe\n"


def test_only_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_log, "PART_CHARACTERS", 20)
    said = "".join(f"line {number}\n" for number in range(100))
    with kept_log(tmp_path, "s-1"):
        for line in said.splitlines():
            print(line)
    start, text = read_log(tmp_path, "s-1") or (0, "")
    assert said[start:] == text
    assert 60 <= len(text) <= 120
    assert len(list((tmp_path / LOGS / "s-1").iterdir())) == 4


def test_logs_of_the_last_jobs_are_kept(tmp_path: Path) -> None:
    for number in range(10):
        with kept_log(tmp_path, f"s-{number}"):
            print(number)
        os.utime(tmp_path / LOGS / f"s-{number}", (number, number))
    kept = [number for number in range(10) if read_log(tmp_path, f"s-{number}") is not None]
    assert kept == list(range(2, 10))


def test_a_disk_that_takes_nothing_does_not_disturb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / LOGS).write_text("in the way")
    with kept_log(tmp_path, "s-1"):
        print("goes on")
    assert capsys.readouterr().out == "goes on\n"
    assert read_log(tmp_path, "s-1") is None


def test_only_files_of_the_run_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "000000000000.log").write_text("secret")
    run = tmp_path / "run"
    (run / LOGS / "s-1").mkdir(parents=True)
    (run / LOGS / "s-1" / "000000000000.log").symlink_to(secret / "000000000000.log")
    assert read_log(run, "s-1") is None
    assert read_log(run, "../../secret") is None


def test_driver_that_is_a_job_of_ray_keeps_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connect._INSIDE_A_JOB, '{"metadata": {"job_submission_id": "s-1"}}')
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"data": {"name": "nowhere"}}')
    assert main(["--run-dir", str(run)]) == 2
    _, text = read_log(run, "s-1") or (0, "")
    assert "nowhere" in text
    assert text.startswith(f"run folder: {run}\n")
