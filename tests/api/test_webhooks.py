"""Addresses that the administrator named are told how searches ended: signed, again where they did not answer, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from service_helpers import Bench

from api.server import webhooks
from api.server.models import utc_now
from api.server.settings import Settings
from api.server.webhooks import SIGNATURE, signature
from slicemamba.errors import InputError

SECRET = "0123456789abcdef"


@dataclass
class Receiver:
    """An address that keeps what it is told, and answers as it is made to."""

    url: str = ""
    answer: int = 204
    told: list[tuple[str, bytes]] = field(default_factory=list)


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    made: list[Receiver] = []
    servers = []
    for _ in range(2):
        receiver = Receiver()

        class Handler(BaseHTTPRequestHandler):
            kept = receiver

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.kept.told.append((self.headers[SIGNATURE], body))
                self.send_response(self.kept.answer)
                if self.kept.answer == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        made.append(receiver)
    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def told(tmp_path: Path, receivers: list[Receiver], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(webhooks, "FIRST_WAIT", 0.0)
    urls = ", ".join(receiver.url for receiver in receivers)
    return Bench(tmp_path / "runs", webhooks=urls, webhook_secret=SECRET)


def ended(bench: Bench, state: str = "SUCCEEDED") -> str:
    if state == "SUCCEEDED":
        return bench.succeeded()
    search_id = bench.running()
    bench.drive(search_id, "FAILED", error="out of memory")
    bench.round()
    return search_id


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_each_address_is_told_once_and_can_check_by_whom(told: Bench, receivers: list[Receiver], state: str) -> None:
    search_id = ended(told, state)
    for _ in range(3):
        told.context.webhooks.run_once()
    for receiver in receivers:
        [(signed, body)] = receiver.told
        assert signed == signature(SECRET.encode(), body)
        said = json.loads(body)
        assert (said["search"], said["state"], said["kind"], said["job"]) == (search_id, state, "search", None)
        assert said["error"] == ("out of memory" if state == "FAILED" else None)


def test_what_is_under_way_or_cancelled_is_not_told(told: Bench, receivers: list[Receiver]) -> None:
    search_id = told.running()
    told.http.post(f"/v1/searches/{search_id}/cancel")
    told.drive(search_id, "CANCELLED")
    told.round()
    told.context.webhooks.run_once()
    assert receivers[0].told == []


@pytest.mark.parametrize("answer", [500, 302])
def test_address_that_refuses_is_told_again_and_the_others_are_not(
    told: Bench, receivers: list[Receiver], answer: int
) -> None:
    receivers[0].answer = answer
    ended(told)
    told.context.webhooks.run_once()
    told.context.webhooks.run_once()
    receivers[0].answer = 204
    told.context.webhooks.run_once()
    told.context.webhooks.run_once()
    assert [len(receiver.told) for receiver in receivers] == [3, 1]
    assert len({body for _, body in receivers[0].told}) == 1


def test_restart_forgets_nothing(told: Bench, receivers: list[Receiver]) -> None:
    for receiver in receivers:
        receiver.answer = 503
    ended(told)
    told.context.webhooks.run_once()
    for receiver in receivers:
        receiver.answer = 200
    told.restart().context.webhooks.run_once()
    assert [len(receiver.told) for receiver in receivers] == [2, 2]


def test_tries_get_rarer_and_end_after_a_day(
    told: Bench, receivers: list[Receiver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "FIRST_WAIT", 100.0)
    receivers[0].answer = 500
    ended(told)
    told.context.webhooks.run_once()
    told.context.webhooks.run_once()
    assert len(receivers[0].told) == 1, "it waits"
    later = utc_now() + timedelta(hours=25)
    monkeypatch.setattr(webhooks, "utc_now", lambda: later)
    again = told.restart()
    again.context.webhooks.run_once()
    assert "gave up telling" in caplog.text
    again.restart().context.webhooks.run_once()
    assert len(receivers[0].told) == 2


def test_address_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", webhooks="http://127.0.0.1:9/hook", webhook_secret=SECRET)
    search_id = ended(bench)
    bench.context.webhooks.run_once()
    assert bench.state(search_id) == "SUCCEEDED"


def test_address_that_is_not_there_keeps_no_other_waiting(
    tmp_path: Path, receivers: list[Receiver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhooks, "_AT_ONCE", 2)
    urls = f"http://127.0.0.1:9/hook, http://{'a' * 64}.example/hook, {receivers[0].url}"
    bench = Bench(tmp_path / "runs", webhooks=urls, webhook_secret=SECRET)
    ids = [ended(bench) for _ in range(5)]
    for _ in range(3):
        bench.context.webhooks.run_once()
    assert [json.loads(body)["search"] for _, body in receivers[0].told] == ids
    assert caplog.text.count("127.0.0.1:9/hook was not told") == 3, "once a round"


def test_fault_of_a_round_ends_no_delivery(
    told: Bench, receivers: list[Receiver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, faults = told.context.webhooks, [RuntimeError("of a kind that nobody thought of")]
    run_once = hooks.run_once

    def faulty() -> None:
        if faults:
            raise faults.pop()
        run_once()
        hooks._stopping.set()

    ended(told)
    monkeypatch.setattr(webhooks, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(hooks, "run_once", faulty)
    hooks._run()
    assert len(receivers[0].told) == 1
    assert "nobody thought of" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"webhooks": "https://a/b"}, "webhooks need SLICEMAMBA_WEBHOOK_SECRET"),
        ({"webhooks": "ftp://a/b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://a:port/b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://[::1/b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://\u2028.org", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://a:65536/b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://xn--/b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https:///b", "webhook_secret": SECRET}, "must be an address such as"),
        ({"webhooks": "https://a/b", "webhook_secret": "short"}, "must have at least 16 characters"),
    ],
)
def test_settings_that_would_tell_nobody_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as refused:
        Settings.from_env({}, **settings)
    assert said in str(refused.value)
    assert "short" not in str(refused.value)
