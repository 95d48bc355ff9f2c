"""The client and the command line against a real server on a free port."""

from __future__ import annotations

import io
import itertools
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
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
from api.client import ApiError, ApiUnreachableError, Client, connection, tables
from api.client.follow import watch
from api.commands import trials as follow_up_commands
from api.schemas import Problem, Trial, TrialPage
from cluster.jobs import JobState
from cluster.local import StartedHead, free_ports, started
from cluster.progress import TITLES, progress_view
from cluster.run_folder import PHASES, RunFolder
from cluster.run_view import Progress, RunStatus
from slicemamba.errors import InputError, RunFailedError


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
    monkeypatch.setattr("api.client.connection.RETRY_DELAYS_SECONDS", (0.0, 0.0))


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


def losing(bench: Bench, *, reached: bool, losses: int = 1) -> tuple[Client, list[str]]:
    """A client of which the answers to the first changes are lost; those reached the service, or did not."""
    changes: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            changes.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        lost = request.method != "GET" and len(changes) <= losses
        if lost and not reached:
            raise httpx.ReadTimeout("no answer")
        answer = bench.http.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=dict(request.headers)
        )
        if lost:
            raise httpx.ReadError("connection reset")
        return httpx.Response(
            answer.status_code, content=answer.content, headers={"ETag": answer.headers.get("etag", "")}
        )

    return Client(transport=httpx.MockTransport(handle)), changes


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize("reached", [True, False])
def test_change_whose_answer_is_lost_is_looked_for_before_it_is_repeated(bench: Bench, reached: bool) -> None:
    """Repeated blindly, it would be refused: 409 for the state, 412 for the version, 404 for what is gone."""
    search_id, asked = bench.running(), 1 if reached else 2

    def change(act: Callable[[Client], Any]) -> Any:
        client, changes = losing(bench, reached=reached)
        outcome = act(client)
        assert len(changes) == asked
        return outcome

    assert change(lambda client: client.pause(search_id, if_match=client.etag(search_id))).state == "PAUSED"
    assert change(lambda client: client.extend(search_id, 12)).spec["search"]["num_trials"] == 12
    assert change(lambda client: client.pause(search_id)).state == "PAUSED"
    assert change(lambda client: client.resume(search_id)).state == "QUEUED"
    assert change(lambda client: client.cancel(search_id)).state == "CANCELLING"
    bench.jobs.states[search_id] = JobState.STOPPED
    bench.drive(search_id, "CANCELLED")
    bench.round()
    bench.round()
    change(lambda client: client.delete(search_id))
    assert bench.http.get(f"/v1/searches/{search_id}").status_code == 404


@pytest.mark.usefixtures("no_delays")
def test_change_whose_answers_are_all_lost_is_told_as_unknown(bench: Bench) -> None:
    search_id = bench.running()
    client, changes = losing(bench, reached=False, losses=9)
    for act in (client.pause, client.delete):
        with pytest.raises(ApiUnreachableError, match="may have been made; look before you repeat it"):
            act(search_id)
    assert changes == ["POST pause"] * 3 + [f"DELETE {search_id}"] * 3
    assert bench.state(search_id) == "RUNNING"


@pytest.mark.usefixtures("no_delays")
def test_change_that_cannot_have_reached_the_service_is_repeated(bench: Bench) -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        if len(seen) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(204)

    Client(transport=httpx.MockTransport(handle)).delete("s-1")
    assert seen == ["DELETE", "DELETE"]


@pytest.mark.usefixtures("no_delays")
def test_events_resume_after_a_broken_stream() -> None:
    parts = iter(["id: 7\nevent: phase\ndata: {}\n\nid: 9\nevent: ha", 'event: end\ndata: {"state": "FAILED"}\n\n'])
    transport, seen = flaky(1, lambda _: httpx.Response(200, text=next(parts)))
    assert [event.kind for event in Client(transport=transport).events("s-1")] == ["phase", "end"]
    assert [request.headers.get("last-event-id") for request in seen] == [None, None, "7"]


@pytest.mark.usefixtures("no_delays")
def test_stream_that_was_silent_for_long_is_taken_up_and_a_restart_behind_a_proxy_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The patience is with a service that is away, not with a search that has nothing to tell."""
    clock = itertools.count(0, 1000)  # seconds go by with each look at it
    monkeypatch.setattr(connection.time, "monotonic", lambda: next(clock))
    parts = iter(
        [
            httpx.Response(200, text="id: 7\nevent: phase\ndata: {}\n\n: kept alive\n\n"),
            httpx.Response(502, text="<html>"),
            httpx.Response(200, text='event: end\ndata: {"state": "FAILED"}\n\n'),
        ]
    )
    transport, seen = flaky(0, lambda _: next(parts))
    followed = Client(transport=transport).events("s-1", patience_seconds=2500)
    assert [event.kind for event in followed] == ["phase", "end"]
    assert len(seen) == 3
    transport, _ = flaky(0, lambda _: httpx.Response(502, text="<html>"))
    with pytest.raises(ApiUnreachableError, match="502"):
        list(Client(transport=transport).events("s-1", patience_seconds=2500))


@pytest.mark.usefixtures("no_delays")
def test_each_loss_of_a_silent_stream_has_its_own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard between two breaks shows that the service was there, also where it is no event."""
    clock = itertools.count(0, 1000)
    monkeypatch.setattr(connection.time, "monotonic", lambda: next(clock))
    alive = [httpx.Response(200, text=": still here\n\n") for _ in range(5)]
    parts = iter([*alive, httpx.Response(200, text="event: end\ndata: {}\n\n")])
    lost: list[None] = []
    followed = Client(transport=httpx.MockTransport(lambda _: next(parts))).events(
        "s-1", patience_seconds=1500, on_lost=lambda: lost.append(None)
    )
    assert [event.kind for event in followed] == ["end"]
    assert len(lost) == len(alive)
    page = httpx.MockTransport(lambda _: httpx.Response(200, text="<p>back soon</p>\n"))
    with pytest.raises(ApiUnreachableError, match="the stream ended"):
        list(Client(transport=page).events("s-1", patience_seconds=1500))


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize("status", [502, 503, 504])
def test_followed_log_and_events_outlive_a_proxy_without_its_service(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, sent, printed in (
        (("logs", "-f"), 'event: log\ndata: {"line": "one"}\n\nevent: end\ndata: {}\n\n', "one"),
        (("events",), "event: end\ndata: {}\n\n", '"end"'),
    ):
        parts = iter([httpx.Response(status, text="<html>"), httpx.Response(200, text=sent)])
        client = Client(transport=httpx.MockTransport(lambda _, parts=parts: next(parts)))  # type: ignore[misc]
        monkeypatch.setattr("api.commands.searches.connect", lambda _, client=client: client)
        done = CliRunner().invoke(app, [words[0], "s-00000000000000000000000000", *words[1:]])
        assert (done.exit_code, done.stderr) == (0, "the service does not answer; trying again\n")
        assert printed in done.stdout


def test_search_behind_a_proxy_is_waited_for_while_the_service_restarts(bench: Bench, client: Client) -> None:
    search_id = bench.succeeded()
    told = httpx.Response(200, json=bench.http.get(f"/v1/searches/{search_id}").json())
    parts = iter([httpx.Response(502, text="<html>"), httpx.Response(504), told])
    lost: list[None] = []
    waiting = Client(transport=httpx.MockTransport(lambda _: next(parts)))
    found = waiting.wait(search_id, poll_seconds=0, on_lost=lambda: lost.append(None))
    assert (found.state.value, len(lost)) == ("SUCCEEDED", 2)
    refused = Client(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    with pytest.raises(ApiError):
        refused.wait(search_id, poll_seconds=0)


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


def test_page_in_place_of_an_answer_is_told() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(InputError, match=r"example\.org answered /v1/searches/s-1 .* SLICEMAMBA_URL"):
        Client("http://example.org", transport=transport).get("s-1")


@pytest.mark.parametrize("token", ["two words", "schlüssel", "half\r\nhalf"])
def test_token_that_cannot_be_sent_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InputError, match="SLICEMAMBA_TOKEN") as caught:
        Client(token=token)
    assert token not in str(caught.value)


def test_token_may_come_from_a_file_with_its_line_ending() -> None:
    transport, seen = flaky(0, lambda _: httpx.Response(200, json={"version": "1"}))
    Client(token="secret\r\n", transport=transport).version()
    assert seen[0].headers["Authorization"] == "Bearer secret"


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


@pytest.mark.parametrize("terminal", [False, True])
def test_note_stands_beside_the_phase_that_it_is_on(terminal: bool) -> None:
    progress = {phase: Progress(done=3, total=9, unit="steps") for phase in ("supernet", "retrain")}
    text = io.StringIO()
    with progress_view(Console(file=text, force_terminal=terminal, width=160)) as view:
        view.show(progress, {"supernet": "done at noon"})
    (line,) = [line for line in text.getvalue().splitlines() if "done at noon" in line][-1:]
    assert "Train supernet" in line


def test_end_that_is_expected_is_told_by_all_who_show_a_search(
    bench: Bench, client: Client, command: Callable[..., Any]
) -> None:
    search_id = bench.running()
    now = datetime.now(timezone.utc)
    progress = {
        "check": Progress(done=10, total=10, unit="images", metrics={"train": 4, "val": 2, "search": 2, "test": 2}),
        "supernet": Progress(done=60, total=300, unit="steps", seconds_per_unit=3.0, moved_at=now),
    }
    bench.drive(search_id, progress=progress)
    bench.round()
    assert re.search(r"expected end +in about \d+ min, at \d+", command("status", search_id).stdout)
    assert re.search(r"about \d+ min", command("list").stdout)
    assert "<th>expected end</th>" in client.search(search_id)._repr_html_()
    text = io.StringIO()
    console = Console(file=text, width=180)
    looks = iter(range(2))

    def end_after_a_look(wanted: str) -> Any:
        if next(looks) == 1:
            bench.drive(search_id, "FAILED", error="x", progress=progress)
            bench.round()
        return Client.get(client, wanted)

    client.get = end_after_a_look  # type: ignore[method-assign, assignment]
    watch(client, search_id, console, poll_seconds=0.01)
    assert re.search(r"60/300 steps.* done in about \d+ min, at", text.getvalue().replace("\n", " "))
    assert not re.search(r"^expected end ", command("status", search_id).stdout, re.MULTILINE)


def test_commands_from_submission_to_download(bench: Bench, command: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(BODY))
    done = command("submit", str(config), "--set", "name=from the shell", "--set", "labels.team=skin")
    assert done.exit_code == 0, done.stderr
    search_id = done.stdout.strip()
    write_study(bench.folder(search_id), [{"dice": 0.5, "hd95": 1.0}, {"dice": 0.25, "hd95": 2.0}])
    assert "from the shell" in command("list", "--label", "team=skin").stdout
    bench.submit({**BODY, "name": "both", "labels": {"team": "skin", "year": "1"}})
    both = json.loads(command("list", "--label", "team=skin", "--label", "year=1", "--json").stdout)["searches"]
    assert [found["name"] for found in both] == ["both"]
    assert "skin" in command("status", search_id).stdout
    assert json.loads(command("status", search_id, "--json").stdout)["id"] == search_id
    front = command("pareto", search_id)
    assert "Dice" in front.stdout
    assert "1 of 2 completed trials" in front.stdout
    only = json.loads(command("pareto", search_id, "--objectives", "dice", "--json").stdout)
    assert [trial["number"] for trial in only["trials"]] == [0]
    listed = command("trials", search_id, "--sort=-hd95").stdout
    assert "0.25" in listed
    assert listed.splitlines()[0].split() == ["trial", "state", "origin", "dice", "hd95", "architecture"]
    assert command("trials", "--sort", "seconds").stdout.startswith("trial  state")  # of the latest
    bench.jobs.logs[search_id] = "hello\n"
    assert command("logs", search_id).stdout == "hello\n"
    assert command("cancel", search_id).exit_code == 0
    assert command("status", search_id, "--watch").exit_code == 1
    assert "files in" in command("download", search_id, "--out", str(tmp_path / "out")).stdout


def test_a_trial_table_shows_the_objectives_in_80_columns() -> None:
    """All that was measured is fourteen figures, which no terminal has room for."""
    slicing = "s1:2x4,2x4|s2:2x4,2x4|s3:2x4,2x4,4x2,2x4,2x4,2x4,2x4,2x4,2x4|s4:2x4,2x4"
    metrics = dict.fromkeys(("accuracy", "dice", "flops", "hd95", "latency_ms", "miou", "params"), 0.123456)
    fields = {"number": 3, "state": "COMPLETED", "origin": "local", "architecture": slicing, "metrics": metrics}
    trial = Trial.model_validate(dict.fromkeys(Trial.model_fields) | {"violation": 0.0} | fields)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(tables.trials(TrialPage(study="search", total=1, trials=[trial], next_page_token=None), ["dice"]))
    rows = [line.rstrip() for line in captured.get().splitlines()]
    assert "COMPLETED" in rows[1]
    assert "".join(row.split()[-1] for row in rows[1:-1]) == slicing
    assert len(rows) <= 5


def test_an_empty_list_tells_how_to_begin(bench: Bench, command: Callable[..., Any]) -> None:
    assert "no searches yet; `slicemamba submit` creates one" in command("list").stderr
    assert "no search matches" in command("list", "--state", "failed").stderr
    bench.submit()
    assert "no jobs yet; `slicemamba trial`" in command("job", "list").stderr
    assert json.loads(command("job", "list", "--json").stdout) == {"jobs": []}


def test_list_is_sorted_and_looked_through(bench: Bench, command: Callable[..., Any]) -> None:
    for name in ("moles", "polyps", "eyes"):
        bench.submit({**BODY, "name": name})

    def names(*words: str) -> list[str]:
        return [search["name"] for search in json.loads(command("list", "--json", *words).stdout)["searches"]]

    assert names("--sort", "name") == ["eyes", "moles", "polyps"]
    assert names("--sort", "-name", "--text", "LES") == ["moles"]
    assert names() == ["eyes", "polyps", "moles"]
    assert "no search matches" in command("list", "--text", "lungs").stderr


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
    assert "--sort must be one of created_at" in told("list", "--sort", "age")[0]
    for unknown in (command("list", "--state", "lost"), command("trials", "--state", "lost")):
        assert unknown.exit_code == 2
        assert "Invalid value for '--state'" in unknown.stderr
    assert "names a key twice" in told("list", "--label", "team=a", "--label", "team=b")[0]
    text, code = told("status", "x", "--url", "http://127.0.0.1:9")
    assert code == 2
    assert "nobody answers at http://127.0.0.1:9 (Connection refused)" in text
    assert "slicemamba serve" in text
    assert explain(KeyError("a fault of the program")) is None


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, check=False)


def test_serve_checks_ray_before_it_starts(tmp_path: Path) -> None:
    there = ("serve", "--runs-dir", str(tmp_path / "runs"))
    done = run(*there, "--ray-address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no Ray job server answers at http://127.0.0.1:9" in done.stderr
    assert "job server" in run(*there, "--ray-address", "ray://127.0.0.1:10001").stderr
    assert not (tmp_path / "runs").exists()


def test_taken_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.server import serving
    from api.server.settings import Settings

    monkeypatch.setattr(serving, "check_cluster", FakeJobs().check_cluster)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(runs_dir=tmp_path, port=taken.getsockname()[1])
        with pytest.raises(InputError, match="--port"):
            serving.serve(settings)


def test_a_service_whose_own_ray_dies_ends_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.server import serving
    from api.server.settings import Settings

    @contextmanager
    def dying(*, log: Path, **_: Any) -> Iterator[StartedHead]:
        command = [sys.executable, "-c", "print('raylet: out of memory'); import time; time.sleep(2)"]
        with started(command, environment={}, log=log) as process:
            yield StartedHead("", "", "", "", {"RAY_AUTH_TOKEN": "secret"}, process, log)

    monkeypatch.setattr(serving, "check_cluster", FakeJobs().check_cluster)
    monkeypatch.setattr(serving, "ray_head", dying)
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(RunFailedError, match=r"Ray has stopped; the end of .*ray\.log:\nraylet: out of memory"):
        serving.serve(Settings(runs_dir=tmp_path, port=0, ray_address=address), local=True)


def test_help_and_app_import_neither_torch_nor_ray() -> None:
    code = "import sys, {}; print([name for name in ('torch', 'ray', 'fastapi') if name in sys.modules])"
    for module, expected in (("api.cli", "[]"), ("api.client.http", "[]"), ("api.server.app", "['fastapi']")):
        done = subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected, module


def test_pages_are_walked_through(bench: Bench, client: Client) -> None:
    ids = [client.submit({**BODY, "name": f"search {i}"}).id for i in range(3)]
    assert [found.id for found in client.iter_searches(page_size=2)] == ids[::-1]
    write_study(bench.folder(ids[0]), [{"dice": i / 10, "hd95": 1.0} for i in (3, 1, 2)])
    assert [trial.number for trial in client.iter_trials(ids[0], page_size=2)] == [0, 1, 2]
    assert [trial.number for trial in client.iter_trials(ids[0], sort="-dice", page_size=2)] == [0, 2, 1]
    assert client.trials_csv(ids[0], sort="dice").splitlines()[1].startswith("1,COMPLETED")
    points = client.hypervolume(ids[0], objectives=["dice"]).points
    assert [point.evaluations for point in points] == [1, 3], "the first, those that enlarge it, and the last"


def test_search_is_found_by_what_people_call_it(bench: Bench, client: Client) -> None:
    with pytest.raises(InputError, match="no search yet"):
        client.resolve("latest")
    first, second = (client.submit({**BODY, "name": name}).id for name in ("skin", "polyps"))
    assert client.resolve("latest") == second
    assert client.resolve("skin") == first
    assert client.resolve(first[:-1]) == first
    assert client.resolve(first) == first
    with pytest.raises(InputError, match="2 searches match 's-'"):
        client.resolve("s-")
    with pytest.raises(InputError, match="did you mean 'polyps'"):
        client.resolve("polips")
    with pytest.raises(InputError, match="slicemamba list"):
        client.resolve("0000")


def test_change_is_made_only_where_nobody_was_faster(bench: Bench, client: Client) -> None:
    search_id = bench.running()
    seen = client.etag(search_id)
    client.pause(search_id, if_match=seen)
    with pytest.raises(ApiError) as caught:
        client.resume(search_id, if_match=seen)
    assert caught.value.status == 412
    assert client.resume(search_id, if_match=client.etag(search_id)).state.value == "QUEUED"


def ended_search(bench: Bench) -> str:
    """A search that has succeeded, with two trials and a supernet."""
    search_id = bench.succeeded()
    write_study(bench.folder(search_id), [{"dice": 0.5, "hd95": 1.0}, {"dice": 0.25, "hd95": 0.5}])
    (bench.folder(search_id).path / "supernet").mkdir()
    bench.folder(search_id).write_json("supernet/config.json", {})
    return search_id


def end_job(bench: Bench, job_id: str, search_id: str) -> RunFolder:
    """Two rounds of the reconciler with a driver that ends well between them."""
    bench.round()
    folder = RunFolder(bench.folder(search_id).path / "jobs" / job_id)
    folder.write_json("result.json", {})
    folder.write_json("figures.json", [{"image": "a", "dice": 0.5, "path": f"jobs/{job_id}/a.png"}])
    (folder.path / "a.png").write_bytes(b"\x89PNG")
    folder.write_status(RunStatus(state="SUCCEEDED", updated_at=datetime.now(timezone.utc)))
    bench.jobs.states[job_id] = JobState.SUCCEEDED
    bench.round()
    return folder


def test_jobs_follow_a_search(bench: Bench, client: Client) -> None:
    search_id = ended_search(bench)
    made = client.retrain(search_id, 1, options={"epochs": 3}, init="supernet", idempotency_key="once")
    assert (made.kind, made.trial, made.spec["retrain"]["epochs"]) == ("retrain", 1, 3)
    again = client.retrain(search_id, 1, options={"epochs": 3}, init="supernet", idempotency_key="once")
    assert again.id == made.id
    with pytest.raises(ApiError, match="not trained yet"):
        client.export(search_id, 1)
    drawn = client.figures(search_id, 0, images=2)
    end_job(bench, drawn.id, search_id)
    assert client.wait_job(drawn.id, poll_seconds=0.05).state.value == "SUCCEEDED"
    audited = client.audit(search_id, {"num_retrained": 2})
    assert [job.id for job in client.jobs(search_id)] == [audited.id, drawn.id, made.id]
    assert client.cancel_job(made.id).state.value in ("CANCELLING", "CANCELLED")
    assert client.get_job(made.id).id == made.id


def test_log_is_followed_to_the_end(bench: Bench, client: Client) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "one\ntwo\n"
    lines = client.follow_logs(search_id, tail=1)
    assert next(lines) == "two"
    bench.jobs.logs[search_id] += "three\n"
    bench.drive(search_id, "FAILED", error="x")
    bench.round()
    assert [*lines] == ["three"]


def ranged(
    content: bytes, breaks: list[int], *, version: str = "v1"
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A file of which each answer breaks off after so many bytes."""
    listing = {"artifacts": [{"path": "big", "size_bytes": len(content), "modified_at": "2025-01-01T00:00:00Z"}]}
    seen: list[httpx.Request] = []

    class Broken(httpx.SyncByteStream):
        def __init__(self, part: bytes, size: int) -> None:
            self.part, self.size = part, size

        def __iter__(self) -> Iterator[bytes]:
            yield self.part[: self.size]
            if self.size < len(self.part):
                raise httpx.ReadError("connection reset")

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("artifacts"):
            return httpx.Response(200, json=listing)
        seen.append(request)
        size = breaks.pop(0) if breaks else len(content)
        same = request.headers.get("If-Range") == f'"{version}"'
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) if same else 0
        status = 206 if same else 200
        return httpx.Response(status, headers={"ETag": f'"{version}"'}, stream=Broken(content[start:], size))

    return httpx.MockTransport(handle), seen


@pytest.mark.usefixtures("no_delays")
def test_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    content = bytes(range(200))
    transport, seen = ranged(content, [50, 30])
    told: list[tuple[int, int]] = []
    client = Client(transport=transport)
    client.download("s-1", tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert (tmp_path / "big").read_bytes() == content
    assert [request.headers.get("Range") for request in seen] == [None, "bytes=50-", "bytes=80-"]
    assert told == [(50, 200), (80, 200), (200, 200), (200, 200)]
    client.download("s-1", tmp_path)
    assert len(seen) == 3  # what is there unchanged is not fetched again
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@pytest.mark.usefixtures("no_delays")
def test_download_never_mixes_two_versions_of_a_file(tmp_path: Path) -> None:
    old, _ = ranged(b"old" * 20, [9, 0, 0])
    with pytest.raises(ApiUnreachableError, match="run it again"):
        Client(transport=old).download("s-1", tmp_path)
    assert not (tmp_path / "big").exists()
    new, seen = ranged(b"new" * 30, [], version="v2")
    Client(transport=new).download("s-1", tmp_path)
    assert seen[0].headers["If-Range"] == '"v1"'
    assert (tmp_path / "big").read_bytes() == b"new" * 30
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@pytest.mark.usefixtures("no_delays")
def test_busy_service_is_asked_again() -> None:
    answers = [httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(200, json={"version": "1"})]
    transport, seen = flaky(0, lambda _: answers.pop(0))
    assert Client(transport=transport).version().version == "1"
    assert len(seen) == 2
    transport, seen = flaky(0, lambda _: httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(ApiError):
        Client(transport=transport).version()
    assert len(seen) == 1


def test_commands_on_trials_and_jobs(bench: Bench, command: Callable[..., Any], tmp_path: Path) -> None:
    search_id = ended_search(bench)
    assert "0.25" in command("trial", "show", "latest", "1").stdout
    assert command("trials", search_id, "--csv", "--sort", "dice").stdout.splitlines()[1].startswith("1,COMPLETED")
    made = command("trial", "retrain", "latest", "1", "--set", "epochs=3", "--init", "scratch", "--json")
    assert json.loads(made.stdout)["spec"]["init"] is None
    assert json.loads(made.stdout)["spec"]["retrain"]["epochs"] == 3
    drawn = command("trial", "figures", search_id, "0").stdout.strip()
    end_job(bench, drawn, search_id)
    assert "SUCCEEDED" in command("job", "show", drawn).stdout
    followed = command("job", "show", drawn, "--watch")
    assert followed.exit_code == 0
    assert f"next: `slicemamba job download {drawn} -o FOLDER` downloads its files" in followed.stderr
    assert command("job", "download", drawn, "--out", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == b"\x89PNG"
    listed = json.loads(command("job", "list", "latest", "--json").stdout)["jobs"]
    assert [job["kind"] for job in listed] == ["figures", "retrain"]
    assert command("job", "cancel", listed[1]["id"]).stdout.strip() in ("CANCELLING", "CANCELLED")
    told = command("trial", "export", search_id, "1").exception
    assert isinstance(told, ApiError)
    assert "not trained yet" in str(told)


def test_id_of_the_other_kind_is_refused_with_the_command_that_takes_it(
    bench: Bench, client: Client, command: Callable[..., Any], tmp_path: Path
) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "of the search\n"
    out = ("--out", str(tmp_path))
    for words in (("show",), ("show", "--watch"), ("cancel",), ("logs",), ("logs", "-f"), ("download", *out)):
        text = advice(command("job", words[0], search_id, *words[1:]).exception)
        assert f"expected the id of a job, which begins with j-; got {search_id!r}" in text, words
        assert "`slicemamba status`" in text
    job_id = "j-00000000000000000000000000"
    for words in (("status",), ("status", "--watch"), ("cancel",), ("logs",), ("events",), ("delete", "--yes")):
        text = advice(command(words[0], job_id, *words[1:]).exception)
        assert f"{job_id!r} is the id of a job; see `slicemamba job show {job_id}`" in text, words
    for call, wanted in ((client.cancel_job, search_id), (client.get_job, "."), (client.cancel, job_id)):
        with pytest.raises(InputError, match="expected"):
            call(wanted)
    assert bench.state(search_id) == "RUNNING"


def test_adopted_run_may_have_an_id_that_only_begins_like_a_jobs(bench: Bench, client: Client) -> None:
    for ask in (client.get, client.logs):
        with pytest.raises(ApiError, match="there is no search 'j-first'"):
            ask("j-first")


def test_what_was_followed_is_told_as_json_also_where_it_has_not_succeeded(
    bench: Bench, command: Callable[..., Any]
) -> None:
    search_id = bench.submit()
    command("cancel", search_id)
    bench.round()
    told = command("status", search_id, "--watch", "--json")
    assert json.loads(told.stdout)["state"] == "CANCELLED"
    assert told.exit_code == 1
    job_id = command("trial", "figures", ended_search(bench), "0").stdout.strip()
    command("job", "cancel", job_id)
    bench.round()
    told = command("job", "show", job_id, "--watch", "--json")
    assert (json.loads(told.stdout)["id"], json.loads(told.stdout)["state"]) == (job_id, "CANCELLED")
    assert told.exit_code == 1


def test_an_export_is_fetched_as_the_bundle_alone(
    bench: Bench, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the files that the job keeps for itself."""
    search_id = ended_search(bench)
    network = bench.folder(search_id).path / "retrained"
    network.mkdir()
    winner = bench.http.get(f"/v1/searches/{search_id}/pareto").json()["trials"][0]
    (network / "config.json").write_text(json.dumps({"architecture": winner["architecture"]}))

    def end(client: Client, job_id: str, **_: Any) -> None:
        folder = end_job(bench, job_id, search_id)
        (folder.path / "bundle").mkdir()
        (folder.path / "bundle" / "model.onnx").write_bytes(b"program")

    monkeypatch.setattr(follow_up_commands, "follow_job", end)
    out = tmp_path / "bundle"
    done = command("trial", "export", search_id, str(winner["number"]), "--out", str(out))
    assert done.exit_code == 0, done.exception
    assert [path.name for path in out.iterdir()] == ["model.onnx"]


def test_frontier_is_drawn_here_and_written_to_files(bench: Bench, command: Callable[..., Any], tmp_path: Path) -> None:
    ended_search(bench)
    drawn = command("pareto", "latest", "--plot", "-").stdout
    assert drawn.count("O") >= 2
    assert "HD95 (pixels) ↓" in drawn
    for name, part in (("front.png", b"\x89PNG"), ("front.html", b'["sendChartToCloud"]')):
        assert command("pareto", "--plot", str(tmp_path / name)).exit_code == 0
        assert part in (tmp_path / name).read_bytes()
    assert "must end in .png" in str(command("pareto", "--plot", str(tmp_path / "front.doc")).exception)


def test_submission_tells_its_cost_first(bench: Bench, command: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(BODY))
    tried = command("submit", str(config), "--dry-run")
    assert "minutes of device time" in tried.stdout
    assert json.loads(command("submit", str(config), "--dry-run", "--json").stdout)["evaluations"] == 8
    assert bench.http.get("/v1/searches").json()["searches"] == []
    done = command("submit", str(config))
    assert "8 evaluations, about" in done.stderr
    assert "note: searcher evolution ranks by dice alone" in done.stderr
    assert bench.get(done.stdout.strip())["name"] == "small"


def test_deletion_asks_first(bench: Bench, command: Callable[..., Any]) -> None:
    search_id = bench.succeeded()
    assert command("delete", search_id).exit_code == 1  # nobody says yes
    assert bench.state(search_id) == "SUCCEEDED"
    assert command("delete", search_id, "--yes").exit_code == 0
    assert bench.http.get(f"/v1/searches/{search_id}").status_code == 404


def advice(error: BaseException | None) -> str:
    assert isinstance(error, Exception)
    found = explain(error)
    assert found is not None
    assert found[1] == 2
    return found[0]


def test_refusal_is_answered_with_the_command_that_helps(
    bench: Bench, command: Callable[..., Any], tmp_path: Path
) -> None:
    """The service's own words, as the hints are found by them."""
    ended, waiting, rooted = bench.succeeded(), bench.submit(), tmp_path / "rooted.json"
    gone = "s-00000000000000000000000000"
    for search_id in (ended, waiting):
        write_study(bench.folder(search_id), [{"dice": 0.9, "hd95": 1.0}])
    rooted.write_text(json.dumps(BODY | {"data": {"name": "synthetic", "root": "/data"}}))
    for words, (said, hint) in {
        ("submit", str(rooted)): ("must not contain its folder", "data.root=null"),
        ("status", gone): (f"there is no search {gone!r}", "`slicemamba list` lists all"),
        ("job", "show", "j-none"): ("there is no job 'j-none'", "`slicemamba job list ID`"),
        ("trial", "export", ended, "0"): (f"search {ended} is not trained yet", "`slicemamba trial retrain ID N`"),
    }.items():
        text = advice(command(*words).exception)
        assert said in text
        assert hint in text
        assert "GET /" not in text
        assert "POST /" not in text
    text = advice(command("trial", "figures", waiting, "0").exception)
    assert "the supernet" in text
    assert "trial retrain" not in text


@pytest.mark.parametrize(("status", "hint"), [(401, "SLICEMAMBA_TOKEN"), (403, "slicemamba token create")])
def test_refusal_for_want_of_rights_says_who_gives_them(status: int, hint: str) -> None:
    text = advice(ApiError(Problem(title="", status=status, detail="this needs a token", instance="/")))
    assert "this needs a token" in text
    assert hint in text


def test_proxy_for_the_way_out_is_not_asked_for_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for address in (url, url.replace("127.0.0.1", "localhost")):
        with Client(address) as here:
            assert here.list().searches == []
    with Client("http://service.example:8000") as elsewhere:
        assert elsewhere._connection._http.trust_env
