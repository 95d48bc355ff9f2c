"""Ray's head is killed while a search runs, and started again: the run goes on, and nothing is lost or done twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from chaos import Place
from disturbed_job import JOB, check_nothing_lost_or_twice, check_same
from dying_head import DyingHead, Part, dying_head

from api.client import ApiUnreachableError
from api.states import SearchState
from cluster.local import started, tail
from cluster.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow]

_WAIT_SECONDS = 900.0
# How much of a phase has to be there before the head is killed: epochs of the supernet, or trials.
_BEGUN = {"supernet": ("epoch", 2), "search": ("trial", 6)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


@pytest.fixture(scope="module")
def expected(config: Path) -> RunFolder:
    """The same search undisturbed, on a Ray of its own."""
    run = RunFolder(config.parent / "undisturbed")
    subprocess.run(entrypoint(config, run, "--address", "local"), check=True, stdin=subprocess.DEVNULL)
    return run


def entrypoint(config: Path, run: RunFolder, *more: str) -> list[str]:
    return [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(run.path), *more]


def wait_for(condition: Callable[[], object], told: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


def num_events(run: RunFolder, kind: str) -> int:
    return sum(event["event"] == kind for _, event in run.events())


def begun(run: RunFolder, phase: str) -> bool:
    kind, count = _BEGUN[phase]
    return num_events(run, kind) >= count


def warnings(run: RunFolder) -> list[str]:
    return [event["message"] for _, event in run.events() if event["event"] == "warning"]


def drivers(run: RunFolder) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "cluster.entrypoint" in command and str(run.path) in command:
                found.append(process.pid)
    return found


def check_gone_on(run: RunFolder, expected: RunFolder) -> None:
    """It came out as the undisturbed one, and what happened is told."""
    check_nothing_lost_or_twice(run)
    check_same(run, expected)
    assert sum("the previous driver (process" in message for message in warnings(run)) == 1
    status = run.read_status()
    assert status is not None
    assert status.state == "SUCCEEDED"
    assert sorted(file.name for file in (run.path / "attempts").iterdir()) == ["1", "2"]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[DyingHead]:
    with dying_head(tmp_path) as running:
        yield running


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("phase", "part"), [("supernet", "gcs"), ("search", "all")])
def test_service_lets_the_search_go_on_when_the_head_is_back(
    phase: str, part: Part, head: DyingHead, expected: RunFolder, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        place = Place(tmp_path, head.ray, 0, stack)
        place.start_service()
        place.wait_for_service()
        search = place.client.submit(JOB)
        run = RunFolder(tmp_path / "runs" / search.id)
        seen: set[tuple[SearchState, str | None]] = set()
        most_drivers = 0

        def ended() -> bool:
            nonlocal most_drivers
            most_drivers = max(most_drivers, len(drivers(run)))
            with suppress(ApiUnreachableError):
                found = place.client.get(search.id)
                seen.add((found.state, found.message))
                return found.state.ended
            return False

        wait_for(lambda: begun(run, phase), lambda: place.client.get(search.id))
        assert head.kill(part)
        wait_for(lambda: ended() or any("cannot be reached" in (m or "") for _, m in seen), lambda: seen)
        head.start()
        wait_for(ended, lambda: (seen, tail(tmp_path / "ray.log")))

        found = place.client.get(search.id)
        assert found.state is SearchState.SUCCEEDED, found
        place.client.close()
    check_gone_on(run, expected)
    assert most_drivers == 1
    assert [change.new_state for change in found.history] == [
        SearchState.QUEUED,
        SearchState.STARTING,
        SearchState.RUNNING,
        SearchState.QUEUED,
        SearchState.STARTING,
        SearchState.RUNNING,
        SearchState.SUCCEEDED,
    ]
    assert "the Ray job vanished, as when the head of the cluster is restarted" in found.history[3].message
    assert found.job_id == f"{search.id}-2"
    if part == "gcs":  # its driver lives on for a minute, and says what it sees
        assert any("Ray's head at" in message for message in warnings(run))


@pytest.mark.timeout(3600)
def test_job_that_is_submitted_again_goes_on(
    head: DyingHead, config: Path, expected: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.ray.dashboard]
    submit += ["--no-wait", "--", "python", *entrypoint(config, run)[1:]]

    def submitted() -> None:
        done = subprocess.run(submit, env=head.ray.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    submitted()
    wait_for(lambda: begun(run, "supernet"), run.read_status)
    head.kill("all")
    wait_for(lambda: not drivers(run), run.read_status)
    head.start()
    submitted()
    wait_for(lambda: (run.path / "result.json").exists(), run.read_status)
    wait_for(lambda: not drivers(run), run.read_status)
    check_gone_on(run, expected)


@pytest.mark.timeout(3600)
def test_driver_in_a_terminal_ends_with_a_word_and_goes_on_when_it_is_started_again(
    head: DyingHead, config: Path, expected: RunFolder, tmp_path: Path
) -> None:
    run, log = RunFolder(tmp_path / "run"), tmp_path / "driver.log"
    command = entrypoint(config, run, "--address", head.ray.gcs)
    with started(command, environment=head.ray.environment, log=log) as driver:
        wait_for(lambda: begun(run, "search"), lambda: tail(log))
        head.kill("gcs")
        wait_for(lambda: driver.poll() is not None, lambda: tail(log))
    assert driver.returncode != 0
    said = log.read_text()
    assert "warning: Ray's head at" in said
    assert "does not answer; this driver ends about a minute after its head. Restart the head, then the run" in said
    head.start()
    done = subprocess.run(command, env=head.ray.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    check_gone_on(run, expected)
