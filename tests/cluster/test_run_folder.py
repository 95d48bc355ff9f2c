"""The run's folder: files are whole, events are read once and in order, whoever writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cluster.run_folder import STUDY_VARIABLE, Progress, RunFolder, RunStatus
from slicemamba.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


def test_json_comes_back_and_nothing_else_is_left(run: RunFolder) -> None:
    values = {"name": "Läsion", "scores": [0.5, None], "nested": {"a": True}}
    run.write_json("result.json", {"old": 1})
    assert run.write_json("result.json", values) == run.result_path
    assert run.read_json("result.json") == values
    assert [file.name for file in run.path.iterdir()] == ["result.json"]


def test_absent_files_are_none(run: RunFolder) -> None:
    assert run.read_json("result.json") is None
    assert run.read_status() is None
    assert list(run.events()) == []
    assert not run.path.exists(), "reading makes no folder"


def test_file_that_cannot_be_written_leaves_the_old_one(run: RunFolder) -> None:
    run.write_json("result.json", {"old": 1})
    with pytest.raises(TypeError):
        run.write_json("result.json", {"new": object()})
    assert run.read_json("result.json") == {"old": 1}


def test_file_is_on_the_disk_before_it_has_its_name(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power may leave an empty file under it."""
    synced: list[tuple[int, bool]] = []

    def note(file: int) -> None:
        synced.append((os.fstat(file).st_size, run.result_path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    run.write_json("result.json", {"a": 1})
    assert synced == [(run.result_path.stat().st_size, False)]


def test_reader_never_sees_half_a_file(run: RunFolder) -> None:
    sizes = (1, 20_000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for size in sizes:
                run.write_json("status.json", {"text": "x" * size})

    run.write_json("status.json", {"text": "x"})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {len((run.read_json("status.json") or {})["text"]) for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(sizes)


def test_status_comes_back(run: RunFolder) -> None:
    status = RunStatus(
        state="RUNNING",
        phase="search",
        progress={"search": Progress(done=3, total=9, unit="trials", metrics={"dice": 0.5})},
        pid=7,
        updated_at=datetime.now(timezone.utc),
    )
    run.write_status(status)
    assert run.read_status() == status


def test_events_come_in_order_each_once(run: RunFolder) -> None:
    for number in range(3):
        run.emit("trial", number=number, text="a\nb – ü")
    first = list(run.events())
    assert [event["number"] for _, event in first] == [0, 1, 2]
    assert {event["event"] for _, event in first} == {"trial"}
    assert first[0][1]["text"] == "a\nb – ü"
    assert datetime.fromisoformat(first[0][1]["time"]).tzinfo is not None
    offset = first[-1][0]
    assert offset == run.events_path.stat().st_size
    assert list(run.events(offset)) == []
    run.emit("phase", phase="search")
    assert [event["event"] for _, event in run.events(offset)] == ["phase"]
    assert next(run.events(first[0][0])) == first[1], "any offset that was given is a place to go on from"


@pytest.mark.parametrize("cut", [1, 9, -1])
def test_half_written_line_waits_for_its_end(run: RunFolder, cut: int) -> None:
    run.emit("phase", phase="check")
    whole = json.dumps({"event": "trial", "number": 4}).encode() + b"\n"
    with run.events_path.open("ab") as file:
        file.write(whole[:cut])
    [(offset, _)] = run.events()
    assert list(run.events(offset)) == []
    with run.events_path.open("ab") as file:
        file.write(whole[cut:])
    assert [event for _, event in run.events(offset)] == [{"event": "trial", "number": 4}]


def test_line_that_a_full_disk_cut_short_is_skipped(run: RunFolder) -> None:
    run.emit("phase", phase="check")
    with run.events_path.open("ab") as file:
        file.write(b'{"event": "tri')
    run.emit("phase", phase="lost with the line before")
    run.emit("phase", phase="search")
    events = list(run.events())
    assert [event["phase"] for _, event in events] == ["check", "search"]
    assert events[-1][0] == run.events_path.stat().st_size


def _emit(path: Path, writer: int, count: int) -> None:
    run = RunFolder(path)
    for number in range(count):
        run.emit("trial", writer=writer, number=number, padding="x" * (37 * number % 3000))


def test_events_of_several_processes_do_not_mix(run: RunFolder) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_emit, args=(run.path, writer, 150)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(run.events_path.read_text(encoding="utf-8").splitlines()) == 600
    numbers: dict[int, list[int]] = {writer: [] for writer in range(4)}
    for _, event in run.events():
        numbers[event["writer"]].append(event["number"])
    assert all(of_one == list(range(150)) for of_one in numbers.values())


def test_study_lies_in_the_folder_or_in_a_database_that_runs_share(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STUDY_VARIABLE, raising=False)
    assert run.study_location == run.path / "search.journal"
    assert run.study_name("random") == "random"
    monkeypatch.setenv(STUDY_VARIABLE, "postgresql://studies")
    assert run.study_location == "postgresql://studies"
    assert run.study_name("random") == f"{run.path}/random"


def test_paths_lie_in_the_folder(run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run.config_path == run.path / "config.json"
    assert run.events_path.parent == run.result_path.parent == run.path
    monkeypatch.chdir(tmp_path)
    assert RunFolder(Path("runs/one")).path == run.path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder(Path("~/runs/one")).path == run.path


def test_one_file_written_by_many_threads_is_always_whole(run: RunFolder) -> None:
    values = [{"writer": writer, "text": str(writer) * 2000} for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda value: run.write_json("shared.json", value), values))
            assert run.read_json("shared.json") in values
    assert [path.name for path in run.path.iterdir()] == ["shared.json"]


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"a": 1', b"\xff"])
def test_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(InputError, match=r"result\.json is damaged .*bring it back from a copy"):
        RunFolder(tmp_path).read_json("result.json")
