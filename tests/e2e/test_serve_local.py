"""``slicemamba serve --local``: Ray and service by one command, which stops what it has started and nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from own_processes import started_with

from cluster.local import free_ports, started, tail

JOB: dict[str, Any] = {
    "name": "first",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 16, "num_val": 4, "num_search": 4, "num_test": 4},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1, 2], "decoder_depths": [1, 1, 1]},
    "supernet": {"epochs": 16, "batch_size": 8, "num_val_architectures": 1},
    "search": {"searcher": "random", "num_trials": 4},
    "retrain": None,
    "resources": {"search": {"num_workers": 1}},
}


def command(port: int, *more: str) -> list[str]:
    address = f"http://127.0.0.1:{port}"
    return [sys.executable, "-m", "api.cli", "serve", "--local", "--port", "0", "--ray-address", address, *more]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "SLICEMAMBA_CACHE": str(tmp_path / "cache"), "DISPLAY": ""}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 420
    while not condition():
        assert process.poll() is None, tail(log)
        assert time.monotonic() < deadline, tail(log)
        time.sleep(0.2)


def url_in(log: Path) -> str:
    return log.read_text().partition("serving on ")[2].split(maxsplit=1)[0]


def search_at(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/searches").json()["searches"][0]
    return found


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_ray_and_service_start_and_stop_together_and_a_search_goes_on_at_the_next_start(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    port, runs = free_ports(1)[0], tmp_path / "runs"
    serve = command(port, "--runs-dir", str(runs))
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with started(serve, environment=environment, log=first) as process:
        wait_for(lambda: "Ctrl-C" in first.read_text(), process, first)
        assert f"Ray's dashboard: http://127.0.0.1:{port}" in first.read_text()
        body = ["-H", "Content-Type: application/json", "-d", json.dumps(JOB)]
        made = subprocess.run(["curl", "-s", f"{url_in(first)}/v1/searches", *body], capture_output=True, check=True)
        search_id = json.loads(made.stdout)["id"]
        wait_for(lambda: "supernet" in search_at(url_in(first))["progress"], process, first)
        assert started_with(environment)
        process.send_signal(signal.SIGINT)
        process.wait()
    assert started_with(environment) == [], tail(first)
    with started(serve, environment=environment, log=second) as process:
        wait_for(lambda: "Ctrl-C" in second.read_text(), process, second)
        wait_for(lambda: search_at(url_in(second))["state"] == "SUCCEEDED", process, second)
        attempts = [folder.name for folder in (runs / search_id / "attempts").iterdir()]
        assert sorted(attempts) == ["1", "2"]
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert started_with(environment) == [], tail(second)


def test_what_it_has_not_started_is_left_alone(tmp_path: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        serve = command(other.getsockname()[1], "--runs-dir", str(tmp_path / "runs"))
        process = subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        other.settimeout(60)
        other.accept()[0].close()  # it looks whether somebody is there
        other.accept()[0].close()  # and asks what is taken for Ray
        output, said = process.communicate()
    assert process.returncode == 2
    assert b"starting Ray" not in said
    assert b"Ray job server" in said
    assert output == b""


def test_ray_of_another_machine_is_not_started_here(tmp_path: Path, environment: dict[str, str]) -> None:
    serve = [sys.executable, "-m", "api.cli", "serve", "--local", "--ray-address", "http://head.example:8265"]
    done = subprocess.run([*serve, "--port", "0"], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "leave out --local" in done.stderr
