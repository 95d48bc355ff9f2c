"""The image as Compose runs it: service, Ray head and worker as three containers on three hosts, and a search on them.

``SLICEMAMBA_IMAGE`` names an image in buildah's store (docs/deployment.md says how one is built without a registry).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from network import missing_for_network, network
from oci import USER, Container, Image, container, missing_for_containers, mounted

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
IMAGE = os.environ.get("SLICEMAMBA_IMAGE")
TOKEN = "0123456789abcdef" * 4
MISSING = missing_for_network() or missing_for_containers() or (None if IMAGE else "SLICEMAMBA_IMAGE names no image")
pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]
SEARCH: dict[str, Any] = {
    "name": "in containers",
    "data": {"name": "synthetic", "image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "space": {"choices": ["2x2", "4x4"]},
    "supernet": {"epochs": 1, "batch_size": 4},
    "search": {"objectives": ["dice", "latency_ms"], "searcher": "random", "num_trials": 4, "random_baseline": False},
    "retrain": {"epochs": 1, "batch_size": 4},
    "baselines": [],
}
SEARCH["data"]["synthetic"] = {"num_train": 8, "num_val": 4, "num_search": 4, "num_test": 4}
Services = tuple[httpx.Client, dict[str, Container]]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with mounted(str(IMAGE)) as found:
        yield found


@pytest.fixture(scope="module")
def services(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A client of the service, and the containers by name. Trials are in files: there is no container of PostgreSQL."""
    place = tmp_path_factory.mktemp("compose")
    place.chmod(0o755)
    volumes = {place / name: f"/{name}" for name in ("runs", "cache", "data")}
    for folder in volumes:
        folder.mkdir()
        os.chown(folder, USER, USER)
    token, hosts_file, own = place / "ray_token", place / "hosts", place / "own"
    token.write_text(TOKEN)
    own.mkdir()
    told = yaml.safe_load(COMPOSE.read_text())["services"]
    with network(["head", "worker", "api"], own) as net, ExitStack() as stack:
        names = "".join(f"{host.address} {name}\n" for name, host in net.hosts.items())
        hosts_file.write_text(f"127.0.0.1 localhost\n{names}")
        volumes |= {hosts_file: "/etc/hosts", token: "/run/secrets/ray_token"}
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"}
        environment["SLICEMAMBA_RAY_ADDRESS"] = told["api"]["environment"]["SLICEMAMBA_RAY_ADDRESS"]

        def start(service: str, name: str, command: Sequence[str] | None) -> Container:
            one = container(
                image,
                name,
                place / name,
                command=[word.replace("${WORKER_CPUS:-2}", "2") for word in command] if command else None,
                environment=environment,
                volumes=volumes,
                network=net.hosts[service].pid,
            )
            return stack.enter_context(one)

        running = {}
        for name in ("head", "worker"):
            running[name] = start(name, name, told[name]["command"])
            wait_until_healthy(running[name], told[name]["healthcheck"]["test"][1:])
        making = start("api", "token", ["slicemamba", "token", "create", "Ada", "--scope", "submit"])
        assert making.process.wait(120) == 0, making.log.read_text()
        found = re.search(r"smt_\w+", making.log.read_text())
        assert found is not None
        running["api"] = start("api", "api", None)
        headers = {"Authorization": f"Bearer {found[0]}"}
        with httpx.Client(base_url=f"http://{net.hosts['api'].address}:8000", headers=headers, timeout=60) as http:
            yield http, running


def wait_until_healthy(one: Container, check: Sequence[str], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while one.run(*check).returncode != 0:
        assert time.monotonic() < deadline, f"not healthy: {one.log.read_text()[-2000:]}"
        time.sleep(1)


def answered(services: Services, path: str, seconds: float = 300.0) -> dict[str, Any]:
    """What the service answers, once it does."""
    http, running = services
    deadline = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError):
            answer = http.get(path)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
        assert running["api"].process.poll() is None, running["api"].log.read_text()
        assert time.monotonic() < deadline, running["api"].log.read_text()
        time.sleep(1)


def test_service_answers_and_its_own_health_check_says_so(services: Services) -> None:
    assert answered(services, "/healthz")["status"] == "ok"
    api = services[1]["api"]
    check = next(line for line in (COMPOSE.parent / "Dockerfile").read_text().splitlines() if "urllib.request" in line)
    code = check.split('"-c", "')[1].rsplit('"]', 1)[0].replace('\\"', '"')
    assert api.run("python", "-c", code).returncode == 0
    assert api.run("id", "-u").stdout.strip() == str(USER)
    for place in ("/opt/slicemamba", "/home/slicemamba", "/usr/local"):
        assert "Read-only file system" in api.run("touch", f"{place}/x").stderr


def test_search_runs_on_head_and_worker(services: Services) -> None:
    http, running = services
    answered(services, "/readyz")
    answer = http.post("/v1/searches", json=SEARCH)
    assert answer.status_code == 202, answer.text
    one = f"/v1/searches/{answer.json()['id']}"
    deadline = time.monotonic() + 900
    while (found := answered(services, one))["state"] not in ("SUCCEEDED", "FAILED", "CANCELLED"):
        assert time.monotonic() < deadline, found
        time.sleep(2)
    assert found["state"] == "SUCCEEDED", (found, running["head"].log.read_text()[-2000:])
    assert answered(services, f"{one}/pareto")["num_completed"] == 4
    assert "test" in answered(services, f"{one}/result")["retrained"]["scores"]
