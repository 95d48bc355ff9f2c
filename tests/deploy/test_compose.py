"""docker/compose.yaml: valid, without open doors, and every name in it is one that exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deployment import DOCKER, check_command, pinned, program, project_version, read_yaml, run_tool, unknown_variables

FILE = DOCKER / "compose.yaml"
EXAMPLE = DOCKER / ".env.example"
OURS = ("api", "head", "worker", "worker-gpu")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(FILE)
    return found


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_follows_the_specification() -> None:
    run_tool(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE)


def test_every_variable_is_in_the_example_which_gives_no_secret_away() -> None:
    text = FILE.read_text(encoding="utf-8")
    example = values(EXAMPLE.read_text(encoding="utf-8"))
    secrets = {item["environment"] for item in read_yaml(FILE)["secrets"].values()}
    used = dict(re.findall(r"\$\{([A-Z_]+)(?::[-?]([^}]*))?\}", text))
    assert set(used) | secrets == set(example)
    assert {name: example[name] for name in secrets} == dict.fromkeys(secrets, "")
    defaults = {name: default for name, default in used.items() if name != "DATA_DIR"}
    assert defaults == {name: example[name] for name in defaults}


def test_services_listen_on_this_machine_alone(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in ports)
    assert "--host" not in str(project["services"]["api"].get("command"))


def test_commands_and_variables_exist(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert unknown_variables(list(service.get("environment", {}))) == set(), name
        command = service.get("command", [])
        if name in OURS and command:
            check_command([re.sub(r"\$\{[A-Z_]+:-(\d+)\}", r"\1", part) for part in command])
    assert {"head", "worker", "worker-gpu"} == {name for name in project["services"] if _starts_ray(project, name)}


def _starts_ray(project: dict[str, Any], name: str) -> bool:
    return list(project["services"][name].get("command", []))[:2] == ["ray", "start"]


def test_images_are_pinned_and_ours_is_this_version(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        image, _, tag = service["image"].partition(":")
        assert re.search(r"\d", tag), f"{name}: {service['image']}"
        assert (image == "slicemamba-nas") == (name in OURS)
        if name in OURS:
            assert tag == f"{project_version()}-{service['build']['target']}"
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_all_who_wait_wait_for_something_that_reports_its_health(project: dict[str, Any]) -> None:
    services = project["services"]
    checked = {name for name, service in services.items() if "healthcheck" in service} | {"api"}  # by its image
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert other in checked
    assert set(services) - checked == {"grafana"}


def test_the_run_database_and_the_trials_are_on_the_head_and_in_the_service(project: dict[str, Any]) -> None:
    services = project["services"]
    urls = {services[name]["environment"]["SLICEMAMBA_STUDY_URL"] for name in ("api", "head")}
    urls.add(services["api"]["environment"]["SLICEMAMBA_DATABASE_URL"])
    database = services["db"]["environment"]
    assert urls == {f"postgresql+psycopg://{database['POSTGRES_USER']}@db/{database['POSTGRES_DB']}"}
    runs = {next(str(volume) for volume in services[name]["volumes"] if "/runs" in str(volume)) for name in OURS}
    assert runs == {"runs:/runs"}
    assert pinned("psycopg")  # of the extra that the image installs


def test_mounted_files_exist(project: dict[str, Any]) -> None:
    found = [
        volume.split(":")[0]
        for service in project["services"].values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and volume.startswith(".")
    ]
    assert len(found) == 5
    for file in found:
        assert (DOCKER / file).is_file(), file


def test_the_client_resolves_it_and_refuses_it_without_the_data(tmp_path: Path) -> None:
    """Where a Docker client with compose is installed; it needs no engine for this."""
    docker = program("docker")
    if shutil.which(docker) is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    filled = tmp_path / "env"
    command = [docker, "compose", "--env-file", str(filled), "--file", str(FILE)]
    command += ["--profile", "gpu", "--profile", "monitoring", "config"]
    filled.write_text(EXAMPLE.read_text(encoding="utf-8"))
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "DATA_DIR" in refused.stderr, shlex.join(command)
    filled.write_text(re.sub(r"=$", "=/tmp", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert "worker-gpu:" in run_tool(*command)
