"""The run's folder: files are whole, events are read once and in order, whoever writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cluster.attempts import Attempt, FencedError, only_driver
from cluster.event_files import end_of, is_place
from cluster.run_folder import STUDY_VARIABLE, RunFolder
from cluster.run_view import Progress, RunStatus
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
    place = first[-1][0]
    assert place == end_of(run.path, 0)
    assert list(run.events(place)) == []
    run.emit("phase", phase="search")
    assert [event["event"] for _, event in run.events(place)] == ["phase"]
    assert next(run.events(first[0][0])) == first[1], "any place that was given is one to go on from"


@pytest.mark.parametrize("cut", [1, 9, -1])
def test_half_written_line_waits_for_its_end(run: RunFolder, cut: int) -> None:
    run.emit("phase", phase="check")
    whole = json.dumps({"event": "trial", "number": 4}).encode() + b"\n"
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(whole[:cut])
    [(offset, _)] = run.events()
    assert list(run.events(offset)) == []
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(whole[cut:])
    assert [event for _, event in run.events(offset)] == [{"event": "trial", "number": 4}]


def test_line_that_a_full_disk_cut_short_is_skipped(run: RunFolder) -> None:
    run.emit("phase", phase="check")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "tri')
    run.emit("phase", phase="lost with the line before")
    run.emit("phase", phase="search")
    events = list(run.events())
    assert [event["phase"] for _, event in events] == ["check", "search"]
    assert events[-1][0] == end_of(run.path, 0)


def _emit(path: Path, writer: int, count: int) -> None:
    run = RunFolder(path)
    run.attempt = Attempt(path, 1)
    for number in range(count):
        run.emit("trial", writer=writer, number=number, padding="x" * (37 * number % 3000))


def test_events_of_several_processes_do_not_mix(run: RunFolder) -> None:
    """Each writes to a file of its own, as two nodes that append to one over NFS lose some."""
    context = multiprocessing.get_context("spawn")
    with only_driver(run):
        writers = [context.Process(target=_emit, args=(run.path, writer, 150)) for writer in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers] == [0] * 4
        run.emit("trial", writer=4, number=0)
    files = sorted((run.path / "attempts" / "1").glob("events*.jsonl"))
    assert sorted(len({json.loads(line)["writer"] for line in file.open()}) for file in files) == [1] * 5
    numbers: dict[int, list[int]] = {writer: [] for writer in range(5)}
    for _, event in run.events():
        numbers[event["writer"]].append(event["number"])
    assert numbers == {writer: list(range(150)) for writer in range(4)} | {4: [0]}
    times = [event["time"] for _, event in run.events()]
    assert times == sorted(times)


def test_events_of_all_attempts_follow_one_another_and_are_taken_up_anywhere(run: RunFolder) -> None:
    """Those of before attempts were numbered first; a worker writes beside its driver."""
    run.emit("phase", phase="old")
    for number in (1, 2):
        with only_driver(run):
            run.emit("phase", phase=f"{number} driver")
            worker: RunFolder = pickle.loads(pickle.dumps(run))
            worker.emit("phase", phase=f"{number} worker")
            run.emit("phase", phase=f"{number} again")
    expected = ["old", *(f"{number} {who}" for number in (1, 2) for who in ("driver", "worker", "again"))]
    found = list(run.events())
    assert [event["phase"] for _, event in found] == expected
    for index, (place, _) in enumerate(found):
        assert is_place(run.path, place)
        assert [event["phase"] for _, event in run.events(place)] == expected[index + 1 :]
        assert not is_place(run.path, (*place[:-1], place[-1] - 1))
    with pytest.raises(FencedError):
        worker.emit("phase", phase="late")


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
    assert run.result_path.parent == run.path
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
