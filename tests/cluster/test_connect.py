"""A Ray address is tried before Ray is, and what is wrong with it is said."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cluster import connect
from cluster.connect import check_address, ray_cluster
from slicemamba.errors import InputError


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("address", ["auto", "local"])
def test_addresses_of_this_machine_need_no_check(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no connection is wanted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    check_address(address)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_address_that_answers_passes(listening: int, form: str) -> None:
    check_address(form.format(listening))


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_address_that_does_not_answer_is_refused_with_the_mend(closed: int, form: str) -> None:
    address = form.format(closed)
    with pytest.raises(InputError, match=f"no Ray cluster answers at {address}") as caught:
        check_address(address)
    for mend in ("ray start --head", "--address", "RAY_ADDRESS"):
        assert mend in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["", "head", "head:", "head:port", ":6379", "head:70000", "ray://", "ray://head", "[::1", "http://127.0.0.1:8265"],
)
def test_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="Ray address must be 'auto', 'local', HOST:PORT or ray://HOST:PORT") as caught:
        check_address(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("host", ["x" * 70, "a..b"])
def test_name_that_cannot_be_a_host_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="no Ray cluster answers at"):
        check_address(f"{host}:6379")


def test_connecting_waits_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with pytest.raises(InputError, match="timed out"):
        check_address("10.255.255.1:6379")
    assert asked == [connect._CONNECT_SECONDS]
    assert asked[0] <= 10


def test_environment_gives_the_address_and_the_argument_overrules_it(
    closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    with pytest.raises(InputError, match=f"no Ray cluster answers at 127.0.0.1:{closed}"), ray_cluster():
        pass
    with pytest.raises(InputError, match="got 'nonsense'"), ray_cluster("nonsense"):
        pass
