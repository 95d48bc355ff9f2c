"""What the tests of ``docker/`` share: its files, and what the project really offers to be named there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PACKAGES = ("slicemamba", "nas", "cluster", "api")
# Of others: Ray's tokens and reports, libpq's password, what the images of PostgreSQL, Redis and Grafana read.
FOREIGN_VARIABLES = {
    "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED", "PGPASSWORD", "REDISCLI_AUTH",
    "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_PASSWORD_FILE", "PGDATA", "PATH", "PYTHONUNBUFFERED",
    "MPLCONFIGDIR", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
}  # fmt: skip
OUR_FOREIGN = {"PGPASSWORD_FILE"}  # docker/entrypoint.sh reads it


def program(name: str) -> str:
    """Path of a tool of the development environment, or of the system; skips the test where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run_tool(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """Its output; fails the test with it when it exits with anything but 0."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **(environment or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def own_variables() -> frozenset[str]:
    """All SLICEMAMBA_* variables that the code reads."""
    texts = (path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return frozenset(name for text in texts for name in re.findall(r'"(SLICEMAMBA_[A-Z_]*[A-Z])"', text))


def unknown_variables(names: Sequence[str]) -> set[str]:
    known = own_variables() | FOREIGN_VARIABLES | OUR_FOREIGN
    return {name for name in names if name not in known and not name.startswith("GF_")}


def pinned(package: str) -> str:
    """Version in constraints.txt."""
    found = re.search(rf"^{re.escape(package)}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def project_version() -> str:
    version: str = pyproject()["project"]["version"]
    return version


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def check_command(arguments: Sequence[str]) -> None:
    """Parses a command as its program would, without running it; ``ray``, ``slicemamba`` or a program of the image."""
    name, *rest = arguments
    if name not in ("ray", "slicemamba"):
        return
    if name == "ray":
        from ray.scripts.scripts import cli as found
    else:
        from api.cli import app

        found = typer.main.get_command(app)
    command: click.Command = found
    while isinstance(command, click.Group):
        word = rest.pop(0)
        following = command.get_command(click.Context(command), word)
        assert following is not None, f"{name} has no command {word!r}"
        command = following
    command.make_context(name, [part for part in rest if "$" not in part])


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a document, however deep."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)
