"""The status of a run: folded from its events, and right in the end whatever the end was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import cluster.status
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from cluster.status import StatusWriter
from slicemamba.errors import InputError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(cluster.status, "_POLL_SECONDS", 0.01)
    return RunFolder(tmp_path / "run")


def progress(run: RunFolder, phase: str, done: int, **metrics: float) -> None:
    run.emit("progress", phase=phase, done=done, total=9, unit="trials", metrics=metrics)


def search_until(run: RunFolder, error: BaseException) -> None:
    """A run that gets somewhere and then ends with the error."""
    with StatusWriter(run):
        progress(run, "search", 2)
        raise error


def status_of(run: RunFolder) -> RunStatus:
    status = run.read_status()
    assert status is not None
    return status


def test_run_is_running_from_the_start(run: RunFolder) -> None:
    with StatusWriter(run):
        status = status_of(run)
        assert (status.state, status.pid, status.error) == ("RUNNING", os.getpid(), None)


def test_the_last_warning_is_told_until_the_run_starts_anew(run: RunFolder) -> None:
    with StatusWriter(run):
        run.warn("few steps")
        run.warn("the cluster is too small")
    assert status_of(run).warning == "the cluster is too small"
    with StatusWriter(run):
        assert status_of(run).warning is None


def test_progress_of_each_phase_is_kept_and_the_last_phase_told(run: RunFolder) -> None:
    with StatusWriter(run):
        run.emit("phase", phase="supernet")
        progress(run, "supernet", 4, loss=0.75)
        progress(run, "supernet", 9, loss=0.5)
        run.emit("epoch", phase="supernet", loss=0.5)
        progress(run, "search", 2, dice=0.9)
        run.emit("phase", phase="retrain")
    status = status_of(run)
    assert (status.state, status.phase, status.error) == ("SUCCEEDED", "retrain", None)
    assert status.progress.keys() == {"supernet", "search"}
    assert (status.progress["supernet"].done, status.progress["supernet"].metrics) == (9, {"loss": 0.5})
    assert (status.progress["search"].done, status.progress["search"].total) == (2, 9)


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (InputError("mask is missing", details=["a.png"]), "FAILED", "mask is missing\n  - a.png"),
        (RuntimeError(), "FAILED", "RuntimeError"),
        (KeyboardInterrupt(), "CANCELLED", "stopped; run it again to continue from here"),
        (SystemExit(143), "CANCELLED", "stopped; run it again to continue from here"),
    ],
)
def test_end_tells_how_it_ended(run: RunFolder, error: BaseException, state: str, said: str) -> None:
    with pytest.raises(type(error)):
        search_until(run, error)
    status = status_of(run)
    assert (status.state, status.error, status.phase) == (state, said, "search")
    assert status.progress["search"].done == 2, "what was done last is not lost"


def test_change_is_told_up_to_the_end(run: RunFolder) -> None:
    told: list[RunStatus] = []
    with StatusWriter(run, told.append):
        progress(run, "search", 5)
    assert told[0].state == "RUNNING"
    assert [status.state for status in told[1:-1]] == ["RUNNING"] * (len(told) - 2)
    assert told[-1] == run.read_status()
    assert told[-1].state == "SUCCEEDED"
    assert told[-1].progress["search"].done == 5
    moments = [status.updated_at for status in told]
    assert moments == sorted(moments)


def test_resumed_run_keeps_the_progress_of_before(run: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        search_until(run, KeyboardInterrupt())
    with StatusWriter(run):
        status = status_of(run)
        assert (status.state, status.error) == ("RUNNING", None)
        assert status.progress["search"].done == 2
        progress(run, "retrain", 1)
    assert {phase: p.done for phase, p in status_of(run).progress.items()} == {"search": 2, "retrain": 1}


def test_event_that_cannot_be_shown_is_told_and_the_status_goes_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = cluster.status.RunView.see

    def fall(phases: cluster.status.RunView, event: dict[str, Any]) -> None:
        if event["event"] == "odd":
            raise KeyError("phase")
        see(phases, event)

    monkeypatch.setattr(cluster.status.RunView, "see", fall)
    with StatusWriter(run):
        run.emit("odd")
        run.emit("odd")
        progress(run, "search", 5)
    status = status_of(run)
    assert (status.state, status.progress["search"].done) == ("SUCCEEDED", 5)
    told = [event["message"] for _, event in run.events() if event["event"] == "warning"]
    assert told == ["the status cannot show all of the run: KeyError('phase')"]


def test_events_of_before_are_not_folded_again(run: RunFolder) -> None:
    progress(run, "search", 7)
    with StatusWriter(run):
        pass
    assert status_of(run).progress == {}
