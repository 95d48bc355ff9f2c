"""What half-sent requests can do to the service: nothing to others, and not for long."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from service_helpers import Bench

from api.server import connections
from api.server.connections import LimitedConnection

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BODY = b"POST /v1/searches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{"


@pytest.fixture
def port(bench: Bench) -> Iterator[int]:
    config = uvicorn.Config(bench.app, http=LimitedConnection, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(60)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def ask(port: int, source: str) -> int:
    """Status of a request from this address of the machine."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=60) as client:
        return client.get(f"http://127.0.0.1:{port}/healthz").status_code


def test_three_hundred_half_sent_requests_keep_nobody_out(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ExitStack() as stack:
        for i in range(300):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
            )
            try:
                connection.sendall(HEAD if i % 2 else BODY)
            except OSError:  # refused already
                continue
        assert ask(port, "127.0.0.3") == 200
        assert LimitedConnection.num_open["127.0.0.2"] <= connections.MAX_OF_ADDRESS
        # read while they are open: a request that was let in and is broken off has its line, as any has
        told = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert len(told) <= 3, "a line for each would fill the disk"


@pytest.mark.parametrize("begun", [b"", HEAD, BODY], ids=["nothing", "half a head", "half a body"])
def test_request_that_does_not_arrive_is_given_up(port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECEIVE_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(begun)
        assert is_closed(connection)


def test_second_request_of_a_connection_is_given_up_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECEIVE_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD)
        assert is_closed(connection)


def test_answer_that_takes_longer_is_not_cut_off(port: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of events lives longer than a request may take to arrive."""
    monkeypatch.setattr(connections, "RECEIVE_SECONDS", 1.0)
    search_id = bench.running()
    bench.folder(search_id).emit("phase", phase="supernet")
    threading.Timer(2.0, lambda: bench.folder(search_id).emit("phase", phase="search")).start()
    with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/searches/{search_id}/events", timeout=60) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data:"))
        assert ["supernet" in next(lines), "search" in next(lines)] == [True, True]
    bench.context.closing.set()
