"""One driver a run: who is refused, who is followed, and that a driver which lost its run writes nothing more."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import cluster.attempts
import cluster.driver_process
from cluster.attempts import ATTEMPTS, HEARTBEAT, Attempt, Attempts, FencedError, FolderPlace, only_driver
from cluster.driver import open_study
from cluster.driver_process import DriverProcess
from cluster.ray_train import workers_folder
from cluster.run_folder import RunFolder
from cluster.status import StatusWriter
from nas.space import SearchSpace
from nas.study import TrialState, find_trials, open_storage
from slicemamba.errors import InputError, RunFailedError

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
BEAT_SECONDS, EXPIRE_SECONDS = 0.1, 1.5


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.attempts, "BEAT_SECONDS", BEAT_SECONDS)
    monkeypatch.setattr(cluster.attempts, "EXPIRE_SECONDS", EXPIRE_SECONDS)
    monkeypatch.setattr(cluster.attempts, "_POLL_SECONDS", 0.02)


def leave(folder: Path, driver: DriverProcess, number: int = 1) -> Path:
    """The heartbeat of a driver that is not this process, and never beats again."""
    assert Attempts(FolderPlace(folder)).claim(number, driver)
    return heartbeat(folder, number)


def heartbeat(folder: Path, number: int = 1) -> Path:
    return folder / ATTEMPTS / str(number) / HEARTBEAT


def held(folder: Path) -> AbstractContextManager[Attempt]:
    return only_driver(RunFolder(folder))


@pytest.fixture
def elsewhere() -> DriverProcess:
    return replace(DriverProcess.me(), token="other", host="node-7", machine="another machine")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the moment by a clock that nobody sets")
def test_driver_is_not_taken_for_dead_because_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    me, created = DriverProcess.me(), psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
    assert not me.surely_dead()
    assert replace(me, began=me.began + 1).surely_dead()  # another process with its number


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_second_driver_is_refused_while_the_first_renews(tmp_path: Path) -> None:
    running = rf"has a running driver \(process {os.getpid()} on"
    with held(tmp_path), pytest.raises(InputError, match=running), held(tmp_path):
        pass


def test_driver_that_is_a_ray_job_is_named_by_what_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.driver_process, "submission_id", lambda: "raysubmit_1")
    running = r"process \d+ on .+, Ray job raysubmit_1"
    with held(tmp_path), pytest.raises(InputError, match=running), held(tmp_path):
        pass


def test_who_follows_a_driver_that_ended_without_a_word_says_so(tmp_path: Path) -> None:
    leave(tmp_path, replace(DriverProcess.me(), token="other", host="node-7", pid=4_000_000))
    run = RunFolder(tmp_path)
    for _ in range(2):
        with only_driver(run), StatusWriter(run):
            run.emit("phase", phase="check")
    told = [event.get("message", event["event"]) for _, event in run.events()]
    assert "the previous driver (process 4000000 on node-7) ended without reporting an error" in told.pop(1)
    assert told == ["started", "phase", "ended"] * 2  # the second followed one that had ended


def test_driver_that_has_ended_is_followed_at_once_and_no_number_is_taken_twice(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with held(tmp_path) as attempt:
            attempt.check()
            assert attempt.number == number
    assert {file.name for file in (tmp_path / ATTEMPTS).iterdir()} == {"1", "2", "3"}
    with pytest.raises(FencedError, match="has given"):
        attempt.check()


@pytest.mark.parametrize("others", [1, 2, 3])
def test_number_that_others_have_had_meanwhile_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """A driver looks for the latest attempt; before it claims the next one, others come and go."""
    await_free = Attempts.await_free

    def meanwhile(attempts: Attempts) -> Any:
        monkeypatch.setattr(Attempts, "await_free", await_free)
        found = attempts.await_free()
        for _ in range(others):
            with held(tmp_path):
                pass
        return found

    monkeypatch.setattr(Attempts, "await_free", meanwhile)
    with held(tmp_path) as attempt:
        assert attempt.number == others + 1
        with pytest.raises(InputError, match="has a running driver"), held(tmp_path):
            pass
        attempt.check()


def test_driver_that_ends_while_another_waits_for_it_is_followed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.attempts, "EXPIRE_SECONDS", 3600)
    monkeypatch.setattr(cluster.attempts, "BEAT_SECONDS", 3600)

    def follow() -> Attempt:
        with held(tmp_path) as attempt:
            return attempt

    with ThreadPoolExecutor(1) as pool:
        with held(tmp_path):
            waiting = pool.submit(follow)
            while not (tmp_path / ATTEMPTS / "1" / HEARTBEAT).exists():
                time.sleep(0.01)
        second = waiting.result()
    assert second.number == 2
    assert second.lost_by is None


def test_folder_of_before_attempts_were_numbered_is_gone_on_with_and_its_driver_fenced(tmp_path: Path) -> None:
    for name in ("lease-00000003", "released-00000002"):
        (tmp_path / ".driver").mkdir(exist_ok=True)
        (tmp_path / ".driver" / name).write_text("{}")
    with held(tmp_path) as attempt:
        assert (attempt.number, attempt.lost_by) == (1, None)
        assert not (tmp_path / ".driver" / "lease-00000003").exists()


def test_dead_process_of_this_machine_is_followed_without_waiting(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.attempts, "EXPIRE_SECONDS", 3600)
    leave(
        tmp_path, replace(DriverProcess.me(), token="other", pid=sleeper.pid)
    )  # this number is another process's by now
    with held(tmp_path):
        pass


def test_silent_driver_of_another_machine_is_followed_when_its_time_is_up(
    tmp_path: Path, elsewhere: DriverProcess
) -> None:
    file = leave(tmp_path, elsewhere)
    began = time.monotonic()
    with held(tmp_path) as attempt:
        assert time.monotonic() - began >= EXPIRE_SECONDS
        assert not file.exists()
        attempt.check()


def test_time_in_which_all_stood_still_is_no_silence(
    tmp_path: Path, elsewhere: DriverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a suspended laptop: only afterwards can the other driver renew again."""
    file, sleep, pauses = leave(tmp_path, elsewhere), time.sleep, itertools.count()

    def stand_still(seconds: float) -> None:
        number = next(pauses)
        sleep(EXPIRE_SECONDS if number == 0 else seconds)
        if number:
            file.write_text(f"beat {number}")

    monkeypatch.setattr(time, "sleep", stand_still)
    with pytest.raises(InputError, match="node-7"), held(tmp_path):
        pass


def test_driver_of_another_machine_is_left_alone_whatever_its_clock_says(
    tmp_path: Path, elsewhere: DriverProcess
) -> None:
    file = leave(tmp_path, elsewhere)
    stop = threading.Event()

    def renew() -> None:
        moment = 10**18  # its clock is decades behind
        while not stop.wait(0.1):
            file.write_text(str(moment))
            moment += 1

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(InputError, match="node-7"), held(tmp_path):
            pass
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def cut_off(tmp_path: Path, elsewhere: DriverProcess) -> Iterator[threading.Event]:
    """A driver of another machine that beats until it is told to end."""
    file, end = leave(tmp_path, elsewhere), threading.Event()

    def beat() -> None:
        moment = 0
        while not end.wait(0.1):
            file.write_text(str(moment := moment + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    yield end
    end.set()
    thread.join()


def test_job_in_place_of_a_lost_one_waits_for_its_driver_to_fall_silent(
    tmp_path: Path, cut_off: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has given up the node of the driver before, which is cut off from the head and does not know it yet."""
    monkeypatch.setattr(cluster.driver_process, "submission_id", lambda: f"{tmp_path.name}-2")
    began = time.monotonic()
    timer = threading.Timer(2 * EXPIRE_SECONDS, cut_off.set)
    timer.start()
    with held(tmp_path) as attempt:
        assert time.monotonic() - began >= 3 * EXPIRE_SECONDS - 0.2
        assert attempt.number == 2
    timer.join()


@pytest.mark.parametrize("job", ["{run}", "{run}-x", "raysubmit_1", "another-2", None])
def test_other_jobs_do_not_wait_for_a_driver_at_work(
    tmp_path: Path, cut_off: threading.Event, monkeypatch: pytest.MonkeyPatch, job: str | None
) -> None:
    monkeypatch.setattr(cluster.driver_process, "submission_id", lambda: job and job.format(run=tmp_path.name))
    with pytest.raises(InputError, match="has a running driver"), held(tmp_path):
        pass


def test_job_in_place_of_a_lost_one_does_not_wait_for_ever(
    tmp_path: Path, cut_off: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.driver_process, "submission_id", lambda: f"{tmp_path.name}-2")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")
    began = time.monotonic()
    with pytest.raises(InputError, match="has a running driver"), held(tmp_path):
        pass
    assert time.monotonic() - began >= 1.5
    assert not cut_off.is_set()


def test_of_many_that_follow_a_dead_driver_one_gets_the_run(tmp_path: Path, elsewhere: DriverProcess) -> None:
    for round_ in range(2):
        folder = tmp_path / str(round_)
        leave(folder, elsewhere)

        with ExitStack() as stack, ThreadPoolExecutor(8) as pool:

            def take(_: int, folder: Path = folder, stack: ExitStack = stack) -> Attempt | None:
                with suppress(InputError):
                    return stack.enter_context(held(folder))
                return None

            attempts = list(filter(None, pool.map(take, range(8))))
            assert [attempt.number for attempt in attempts] == [2]
            attempts[0].check()


def test_driver_that_was_followed_is_told_by_whom(
    tmp_path: Path, elsewhere: DriverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.attempts, "BEAT_SECONDS", 3600)
    run = RunFolder(tmp_path)
    with only_driver(run):
        run.write_json("before.json", {})
        leave(tmp_path, elsewhere, 2)
        for write in (lambda: run.write_json("after.json", {}), lambda: run.emit("phase", phase="search")):
            with pytest.raises(FencedError, match=r"another driver has taken over .* on node-7\)"):
                write()
    assert not (tmp_path / "after.json").exists()
    assert not list(run.events())


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["shell", "background"])
def test_driver_that_lost_its_run_is_interrupted(tmp_path: Path, elsewhere: DriverProcess, handler: Any) -> None:
    before = signal.signal(signal.SIGINT, handler)

    def lose_it() -> None:
        with held(tmp_path):
            leave(tmp_path, elsewhere, 2)
            time.sleep(60)

    try:
        with pytest.raises(KeyboardInterrupt):
            lose_it()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_of_a_driver_that_lost_its_run_report_nothing_more(tmp_path: Path, elsewhere: DriverProcess) -> None:
    run = RunFolder(tmp_path)
    with only_driver(run):
        assert run.attempt is not None
        worker = workers_folder({"run": str(tmp_path), "driver": [str(tmp_path), run.attempt.number]})
        worker.emit("epoch", phase="supernet")
    leave(tmp_path, elsewhere, 2)
    with pytest.raises(FencedError, match="node-7"):
        worker.emit("epoch", phase="supernet")
    assert len(list(run.events())) == 1
    workers_folder({"run": str(tmp_path), "driver": None}).emit("epoch", phase="supernet")


def test_study_has_one_writer(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with only_driver(run):
        former = open_study(run, "search", SPACE, ("dice",), "random")
        former.start(SPACE.decode([0] * 6), origin="random", asked_after=0)
    with only_driver(run):
        latter = open_study(run, "search", SPACE, ("dice",), "random")
        for write in (
            lambda: former.start(SPACE.decode([1] * 6), origin="random", asked_after=0),
            lambda: former.complete(0, {"dice": 0.1}, ended_as=0, seconds=None),
            lambda: former.fail(0, "late", ended_as=0),
        ):
            with pytest.raises(RunFailedError, match="another driver has taken over the study"):
                write()
        ended = latter.complete(0, {"dice": 0.9}, ended_as=0, seconds=None)
    assert find_trials(open_storage(run.study_location), "search") == [ended]


DRIVER = """
import sys
from pathlib import Path
import cluster.attempts
cluster.attempts.BEAT_SECONDS, cluster.attempts.EXPIRE_SECONDS = {renew}, {expire}
from cluster.attempts import only_driver
from cluster.driver import open_study
from cluster.run_folder import RunFolder
from cluster.status import StatusWriter
from nas.space import SearchSpace
from slicemamba.errors import RunFailedError

run = RunFolder(Path(sys.argv[1]))
space = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
try:
    with only_driver(run), StatusWriter(run):
        study = open_study(run, "search", space, ("dice",), "random")
        number = len(study.trials())
        while number < 64:  # more than it will come to
            trial = study.start(space.decode([number >> bit & 1 for bit in range(6)]), origin="x", asked_after=number)
            study.complete(number, {{"dice": 0.5}}, ended_as=number, seconds=0.0)
            run.write_json("result.json", {{"by": sys.argv[2], "number": number}})
            print(number, flush=True)
            sys.stdin.readline()
            number += 1
except (RunFailedError, KeyboardInterrupt) as error:
    print(f"stopped: {{type(error).__name__}} {{error}}", flush=True)
    raise SystemExit(1)
"""


@pytest.mark.timeout(240)
def test_driver_that_comes_back_after_it_was_followed_writes_nothing_more(tmp_path: Path) -> None:
    """Halted for longer than a lease lasts, as a machine that swaps or a head that lost the network."""
    run = RunFolder(tmp_path / "run")
    script = DRIVER.format(renew=BEAT_SECONDS, expire=EXPIRE_SECONDS)

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(run.path), name]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first, second = start("first"), None
    try:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "0\n"
        first.send_signal(signal.SIGSTOP)
        first.stdin.write("go on\n")  # when it wakes, it writes before it has looked round
        first.stdin.flush()
        second = start("second")
        assert second.stdout is not None
        assert f"the previous driver (process {first.pid} on" in second.stdout.readline()
        assert second.stdout.readline() == "1\n"
        before = find_trials(open_storage(run.study_location), "search")
        first.send_signal(signal.SIGCONT)
        assert "stopped:" in first.communicate(timeout=120)[0]
        assert find_trials(open_storage(run.study_location), "search") == before
        assert [(trial.number, trial.state) for trial in before] == [(i, TrialState.COMPLETED) for i in range(2)]
        assert run.read_json("result.json") == {"by": "second", "number": 1}
        deadline = time.monotonic() + 20  # what was on its way to the disk as it was halted is written over at once
        while (status := run.read_status()) is None or status.pid != second.pid:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert status.state == "RUNNING"
        assert all("first" not in json.dumps(event) for _, event in run.events())
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()
