"""docker/Dockerfile without a container engine: linted, and held to what the project says elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from deployment import (
    DOCKER,
    ROOT,
    check_command,
    pinned,
    program,
    project_version,
    pyproject,
    run_tool,
    unknown_variables,
)

DOCKERFILE = DOCKER / "Dockerfile"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCKERFILE.read_text(encoding="utf-8")


def stage(text: str, name: str) -> str:
    """Instructions of one stage."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^(?:# ----|FROM) |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_hadolint_finds_nothing() -> None:
    run_tool(program("hadolint"), "--config", DOCKER / "hadolint.yaml", DOCKERFILE)


def test_yaml_files_are_tidy() -> None:
    folders = [DOCKER, ROOT / "CITATION.cff", ROOT / ".yamllint.yaml"]
    run_tool(program("yamllint"), "--strict", "--config-file", ROOT / ".yamllint.yaml", *folders)


def test_both_images_share_one_python_which_the_pinned_versions_were_tried_on(text: str) -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-slim-bookworm$", text, re.MULTILINE)
    assert base
    assert f"pass with on Python {base[1]}," in (ROOT / "constraints.txt").read_text()
    assert base[0].partition("=")[2] in stage(text, "runtime")  # the label that names the base
    bases = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    ours = [base for base, name in bases if name in ("build", "runtime")]
    assert ours == ["${PYTHON_IMAGE}"] * 2
    assert {name: base for base, name in bases}["cpu"] == {name: base for base, name in bases}["gpu"] == "runtime"


def test_compilers_cuda_is_the_one_of_the_copied_folder(text: str) -> None:
    image = re.search(r"^ARG CUDA_IMAGE=nvidia/cuda:(\d+\.\d+)\.\d+-devel-", text, re.MULTILINE)
    assert image
    assert f"COPY --from=cuda /usr/local/cuda-{image[1]} /usr/local/cuda" in stage(text, "build-gpu")
    assert f"torch {'.'.join(pinned('torch').split('.')[:2])}" in text


def test_the_cpu_image_takes_torch_from_an_index_without_cuda(text: str) -> None:
    build = stage(text, "build-cpu")
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in build
    assert build.index("--no-deps --index-url") < build.index("--requirement requirements.txt")
    assert "cuda" not in build.lower()


def test_mamba_ssm_keeps_its_scan_and_is_not_older_than_the_project_asks(text: str) -> None:
    build = stage(text, "build-gpu")
    for setting in ("MAMBA_KEEP_CUDA_BUILD", "MAMBA_FORCE_BUILD", "CAUSAL_CONV1D_FORCE_BUILD"):
        assert f"{setting}=TRUE" in build
    wanted = pyproject()["project"]["optional-dependencies"]["cuda"]
    for package in ("mamba-ssm", "causal-conv1d"):
        least = next(line.partition(">=")[2] for line in wanted if line.startswith(package))
        taken = re.search(rf"^ARG {package.upper().replace('-', '_')}_VERSION=(\S+)$", build, re.MULTILINE)
        assert taken
        assert [int(part) for part in re.findall(r"\d+", taken[1])] >= [int(part) for part in least.split(".")]


def test_the_image_runs_without_root_and_says_its_version(text: str) -> None:
    for name in ("runtime", "gpu"):
        assert re.findall(r"^USER (\S+)$", stage(text, name), re.MULTILINE)[-1] == "1000:1000"
    assert f'image.version="{project_version()}"' in text
    tags = re.findall(r"slicemamba-nas:(\S+)-(?:cpu|gpu)", text)
    assert set(tags) == {project_version()}


def test_variables_and_command_are_the_projects(text: str) -> None:
    block = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage(text, "runtime") + stage(text, "gpu"), re.MULTILINE)
    names = [name for lines in block for name in re.findall(r"(?:^|\s)([A-Z_]+)=", lines)]
    assert "SLICEMAMBA_RUNS_DIR" in names
    assert unknown_variables(names) == set()
    command = re.search(r"^CMD (\[.*\])$", stage(text, "runtime"), re.MULTILINE)
    assert command
    check_command(json.loads(command[1]))


def test_all_that_is_copied_is_sent_to_the_builder(text: str) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert {name for name in copied if name != "."} <= kept
    assert {name for name in kept if not (ROOT / name).exists()} == set()
    built = pyproject()
    assert set(built["project"]["license-files"]) <= kept
    assert {package.partition(".")[0] for package in built["tool"]["setuptools"]["packages"]} <= kept
    listed = {name for line in (ROOT / "MANIFEST.in").read_text().splitlines() for name in line.split()[1:]}
    assert {name for name in listed if "/" not in name and "*" not in name} <= kept


def test_programs_are_found_in_login_shells_too(text: str, tmp_path: Path) -> None:
    line = re.search(r"&& (echo .*) > /etc/profile\.d/\w+\.sh$", stage(text, "runtime"), re.MULTILINE)
    assert line
    profile = tmp_path / "profile.sh"
    subprocess.run(["sh", "-c", f"{line[1]} > {profile}"], check=True)
    done = subprocess.run(["sh", "-c", f"PATH=/bin; . {profile}; echo $PATH"], capture_output=True, text=True)
    assert done.stdout == "/opt/slicemamba/bin:/bin\n"


def test_health_is_asked_at_the_port_that_is_served(text: str) -> None:
    from api.server.routes import health

    assert "/healthz" in {route.path for route in health.router.routes}  # type: ignore[attr-defined]
    check = re.search(r'^    CMD \["python", "-c", (".*")\]$', stage(text, "runtime"), re.MULTILINE)
    assert check
    compile(json.loads(check[1]), "HEALTHCHECK", "exec")
    assert "os.environ['SLICEMAMBA_PORT']}/healthz" in check[1]


def test_the_entrypoint_reads_the_password_from_its_file_and_becomes_the_command(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("geheim $1 '\n")
    entrypoint = DOCKER / "entrypoint.sh"
    assert os.access(entrypoint, os.X_OK)
    show = [str(entrypoint), "sh", "-c", 'printf %s "${PGPASSWORD-none}"; exit 7']
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PGPASSWORD")}
    for variables, says in (({"PGPASSWORD_FILE": str(secret)}, "geheim $1 '"), ({}, "none")):
        done = subprocess.run(show, env={**environment, **variables}, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (7, says)
    absent = subprocess.run(show, env={**environment, "PGPASSWORD_FILE": "/none"}, capture_output=True, text=True)
    assert absent.returncode not in (0, 7)
