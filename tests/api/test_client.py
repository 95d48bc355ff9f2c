"""The client and the command line against a real server on a free port."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import uvicorn
from rich.console import Console
from service_helpers import BODY, Bench, FakeJobs, write_study
from typer.testing import CliRunner

from api.cli import app, explain
from api.client import ApiError, ApiUnreachableError, Client
from api.watch import watch
from cluster.progress import TITLES
from cluster.run_folder import PHASES
from slicemamba.errors import InputError


@contextmanager
def serving(bench: Bench) -> Iterator[str]:
    """The app behind a real socket. It listens before its thread starts, so that nothing need wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(bench.app, log_config=None, timeout_graceful_shutdown=1))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def url(bench: Bench) -> Iterator[str]:
    with serving(bench) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def command(url: str) -> Callable[..., Any]:
    return lambda *words: CliRunner().invoke(app, list(words), env={"SLICEMAMBA_URL": url})


def flaky(
    failures: int, answer: Callable[[httpx.Request], httpx.Response]
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport whose first requests break off."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) <= failures:
            raise httpx.ReadError("connection reset")
        return answer(request)

    return httpx.MockTransport(handle), seen


def test_client_has_all_of_the_service(bench: Bench, client: Client, tmp_path: Path) -> None:
    assert client.validate(BODY).evaluations == 8
    search = client.submit({**BODY, "labels": {"team": "skin"}})
    assert client.get(search.id).name == "small"
    assert [found.id for found in client.list(labels={"team": "skin"}).searches] == [search.id]
    assert client.list(states=["FAILED"]).searches == []
    write_study(bench.folder(search.id), [{"dice": 0.5, "hd95": 1.0}])
    assert client.trials(search.id).total == 1
    assert client.pareto(search.id, objectives=["dice"]).trials[0].metrics["dice"] == 0.5
    assert client.cancel(search.id).state.value in ("CANCELLING", "CANCELLED")
    assert client.wait(search.id, poll_seconds=0.05).state.value == "CANCELLED"
    client.delete(search.id)
    with pytest.raises(ApiError, match="there is no search") as caught:
        client.get(search.id)
    assert caught.value.status == 404
    assert client.version().api == "v1"


def test_download_brings_all_files(bench: Bench, client: Client, tmp_path: Path) -> None:
    search_id = bench.succeeded()
    (bench.folder(search_id).path / "predictions").mkdir()
    (bench.folder(search_id).path / "predictions" / "a b#1.png").write_bytes(b"\x89PNG")
    files = client.download(search_id, tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in files} == {
        "config.json",
        "predictions/a b#1.png",
        "result.json",
        "status.json",
    }
    assert (tmp_path / "out" / "predictions" / "a b#1.png").read_bytes() == b"\x89PNG"
    assert client.result(search_id) == {"best": 0.9}


def test_download_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    listing = {"artifacts": [{"path": "../evil", "size_bytes": 1, "modified_at": "2025-01-01T00:00:00Z"}]}
    transport, seen = flaky(0, lambda _: httpx.Response(200, json=listing))
    with pytest.raises(InputError, match="nothing was fetched"):
        Client(transport=transport).download("s-1", tmp_path / "out")
    assert len(seen) == 1


def test_events_are_followed_to_the_end(bench: Bench, client: Client) -> None:
    search_id = bench.running()
    bench.folder(search_id).emit("phase", phase="supernet")
    stream = client.events(search_id)
    first = next(stream)
    assert (first.kind, first.data["phase"]) == ("phase", "supernet")
    bench.folder(search_id).emit("phase", phase="search")
    bench.drive(search_id, "FAILED", error="x")
    assert [event.kind for event in stream] == ["phase", "end"]
    assert [event.kind for event in client.events(search_id, last_event_id=first.id)] == ["phase", "end"]


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.connection.RETRY_DELAYS_SECONDS", (0.0, 0.0))


@pytest.mark.usefixtures("no_delays")
def test_broken_submission_is_repeated_with_its_key(bench: Bench) -> None:
    def pass_on(request: httpx.Request) -> httpx.Response:
        answer = bench.http.post("/v1/searches", content=request.content, headers=dict(request.headers))
        return httpx.Response(answer.status_code, content=answer.content)

    transport, seen = flaky(2, pass_on)
    search = Client(transport=transport).submit(BODY)
    assert len({request.headers["idempotency-key"] for request in seen}) == 1
    assert len(seen) == 3
    assert [found["id"] for found in bench.http.get("/v1/searches").json()["searches"]] == [search.id]


@pytest.mark.usefixtures("no_delays")
def test_events_resume_after_a_broken_stream() -> None:
    parts = iter(["id: 7\nevent: phase\ndata: {}\n\nid: 9\nevent: ha", 'event: end\ndata: {"state": "FAILED"}\n\n'])
    transport, seen = flaky(1, lambda _: httpx.Response(200, text=next(parts)))
    assert [event.kind for event in Client(transport=transport).events("s-1")] == ["phase", "end"]
    assert [request.headers.get("last-event-id") for request in seen] == [None, None, "7"]


@pytest.mark.usefixtures("no_delays")
def test_service_that_stays_away_is_told(tmp_path: Path) -> None:
    transport, _ = flaky(99, lambda _: httpx.Response(200))
    with pytest.raises(ApiUnreachableError, match="connection breaks"):
        Client(transport=transport).get("s-1")
    lost = Event()
    with pytest.raises(ApiUnreachableError):
        Client(transport=transport).wait("s-1", poll_seconds=0, patience_seconds=-1, on_lost=lost.set)
    assert not lost.is_set()


def test_answer_of_something_else_is_told() -> None:
    transport, _ = flaky(0, lambda _: httpx.Response(502, text="<html>"))
    with pytest.raises(ApiError, match="is this the service"):
        Client("http://example.org", transport=transport).get("s-1")


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_bad_url_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="SLICEMAMBA_URL"):
        Client(text)


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_shows_phases_and_returns_the_ended_search(bench: Bench, client: Client, terminal: bool) -> None:
    search_id = bench.running()
    text = io.StringIO()
    seen: list[str] = []
    get = client.get

    def end_after_first_look(wanted: str) -> Any:
        found = get(wanted)
        if not seen:
            bench.folder(search_id).write_json("result.json", {})
            bench.drive(search_id, "SUCCEEDED")
        seen.append(found.state.value)
        return found

    client.get = end_after_first_look  # type: ignore[method-assign, assignment]
    console = Console(file=text, force_terminal=terminal, width=140)
    assert watch(client, search_id, console, poll_seconds=0.05).state.value == "SUCCEEDED"
    assert re.search(r"RUNNING", text.getvalue())
    assert "Train supernet" in text.getvalue()
    assert "loss 0.5" in text.getvalue()
    assert set(TITLES) == set(PHASES)


def test_commands_from_submission_to_download(bench: Bench, command: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(BODY))
    done = command("submit", str(config), "--set", "name=from the shell", "--set", "labels.team=skin")
    assert done.exit_code == 0, done.stderr
    search_id = done.stdout.strip()
    write_study(bench.folder(search_id), [{"dice": 0.5, "hd95": 1.0}, {"dice": 0.25, "hd95": 2.0}])
    assert "from the shell" in command("list", "--label", "team=skin").stdout
    assert "skin" in command("status", search_id).stdout
    assert json.loads(command("status", search_id, "--json").stdout)["id"] == search_id
    front = command("pareto", search_id)
    assert "Dice" in front.stdout
    assert "1 of 2 completed trials" in front.stdout
    only = json.loads(command("pareto", search_id, "--objectives", "dice", "--json").stdout)
    assert [trial["number"] for trial in only["trials"]] == [0]
    assert "0.25" in command("trials", search_id).stdout
    bench.jobs.logs[search_id] = "hello\n"
    assert command("logs", search_id).stdout == "hello\n"
    assert command("cancel", search_id).exit_code == 0
    assert command("status", search_id, "--watch").exit_code == 1
    assert "files in" in command("download", search_id, "--out", str(tmp_path / "out")).stdout


def test_faults_are_told_with_their_exit_code(command: Callable[..., Any], tmp_path: Path) -> None:
    def told(*words: str) -> tuple[str, int]:
        error = command(*words).exception
        assert isinstance(error, Exception)
        found = explain(error)
        assert found is not None
        return found

    config = tmp_path / "job.yaml"
    config.write_text(json.dumps({**BODY, "data": {"name": "unknown"}}))
    text, code = told("submit", str(config))
    assert code == 2
    assert "known: synthetic" in text
    assert told("submit", str(tmp_path / "none.yaml"))[1] == 2
    assert told("status", "s-none")[1] == 2
    assert told("list", "--label", "team")[1] == 2
    text, code = told("status", "x", "--url", "http://127.0.0.1:9")
    assert code == 2
    assert "slicemamba serve" in text
    assert explain(KeyError("a fault of the program")) is None


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_serve_checks_ray_before_it_starts(tmp_path: Path) -> None:
    there = ("serve", "--runs-dir", str(tmp_path / "runs"))
    done = run(*there, "--ray-address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no Ray job server answers at http://127.0.0.1:9" in done.stderr
    assert "job server" in run(*there, "--ray-address", "ray://127.0.0.1:10001").stderr
    assert not (tmp_path / "runs").exists()


def test_taken_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from api import serving
    from api.settings import Settings

    monkeypatch.setattr(serving, "check_cluster", FakeJobs().check_cluster)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(runs_dir=tmp_path, port=taken.getsockname()[1])
        with pytest.raises(InputError, match="--port"):
            serving.serve(settings)


def test_help_and_app_import_neither_torch_nor_ray() -> None:
    code = "import sys, {}; print([name for name in ('torch', 'ray', 'fastapi') if name in sys.modules])"
    for module, expected in (("api.cli", "[]"), ("api.client", "[]"), ("api.main", "['fastapi']")):
        done = subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected, module
