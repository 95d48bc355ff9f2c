"""A Ray address is tried before Ray is, and what is wrong with it is said."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import requests

import cluster
from cluster import connect
from cluster.connect import check_address, ray_cluster
from slicemamba.errors import InputError, RunFailedError


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
    ["", "head", "head:", "head:port", ":6379", "head:70000", "ray://", "ray://head", "[::1", "ftp://127.0.0.1:8265"],
)
def test_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(
        InputError, match="Ray address must be 'auto', 'local', 'none', HOST:PORT or ray://HOST:PORT"
    ) as caught:
        check_address(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head.example"])
def test_address_of_the_job_server_is_told_what_it_is_for(address: str) -> None:
    with pytest.raises(InputError, match=r"address of Ray's job server: .*`slicemamba submit`.*`ray job submit`"):
        check_address(address)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_search_by_way_of_rays_client_is_refused(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "ray://head:10001"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect.check_can_search(None)
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    connect.check_can_search("head:6379")
    with pytest.raises(
        InputError, match=r"ray://head:10001 \(Ray Client\) supports trainings only.*`ray job submit`.*HOST:6379"
    ):
        connect.check_can_search(address if by == "argument" else None)


def test_submission_id_is_that_of_the_ray_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(connect._INSIDE_A_JOB, raising=False)
    assert connect.submission_id() is None
    monkeypatch.setenv(connect._INSIDE_A_JOB, '{"metadata": {"job_submission_id": "s-1"}, "runtime_env": {}}')
    assert connect.submission_id() == "s-1"
    monkeypatch.setenv(connect._INSIDE_A_JOB, "{}")
    assert connect.submission_id() is None


def test_workers_get_the_variables_that_their_job_was_not_submitted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(connect._INSIDE_A_JOB, raising=False)
    assert connect.worker_variables() == connect.ENVIRONMENT
    job = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"OMP_WAIT_POLICY": "ACTIVE", "MINE": "1"}}}
    monkeypatch.setenv(connect._INSIDE_A_JOB, json.dumps(job))
    assert connect.worker_variables().keys() == connect.ENVIRONMENT.keys() - {"OMP_WAIT_POLICY"}


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_ray_of_ones_own_is_started_again_where_the_machine_was_too_busy(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def init(address: str, **options: object) -> None:
        calls.append(address)
        if len(calls) <= failures:
            raise RuntimeError("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", init)
    if failures < 3:
        with ray_cluster("local") as own:
            assert own
        assert calls == ["local"] * (failures + 1)
    else:
        told = r"Ray did not start on this machine \(3 of 3 attempts\): .*timed out.*again later"
        with pytest.raises(RunFailedError, match=told), ray_cluster("local"):
            pass


def test_other_faults_of_starting_ray_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def init(address: str, **options: object) -> None:
        calls.append(address)
        raise ValueError("Can't find a `node_ip_address.json` file")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunFailedError, match="node_ip_address"), ray_cluster("local"):
        pass
    assert calls == ["local"]


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


def test_fault_of_a_cluster_that_runs_already_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 – as Ray does

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(Exception, match=r"^The current node"), ray_cluster("auto"):
        pass


def test_this_machine_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client of Ray's would find a Ray of this machine otherwise; they read the variables themselves."""
    monkeypatch.setenv("http_proxy", "http://192.0.2.9:3128")
    monkeypatch.setenv("no_proxy", "intranet,localhost")
    monkeypatch.delenv("NO_PROXY", raising=False)
    connect.spare_proxy()
    connect.spare_proxy()
    assert os.environ["no_proxy"] == "intranet,localhost,127.0.0.1,::1"
    assert requests.utils.should_bypass_proxies("http://127.0.0.1:8265/api/version", no_proxy=None)
    assert not requests.utils.should_bypass_proxies("http://example.org/", no_proxy=None)


def test_temporary_folder_with_too_long_a_path_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /very/long/session/sockets/raylet")

    monkeypatch.setenv("RAY_TMPDIR", "/very/long")
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(InputError, match=r"folder /very/long has too long a path .* set RAY_TMPDIR to a short one"):
        connect._start_own({})


def test_ray_of_ones_own_keeps_no_token_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    connect._choose_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    connect._choose_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_workers_look_for_modules_where_the_packages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's cluster.py or nas/ in the working directory would be found before ours."""
    monkeypatch.chdir(tmp_path)
    with connect._in_folder_of_packages():
        assert Path.cwd() == Path(cluster.__file__).resolve().parents[1]
    assert Path.cwd() == tmp_path
