"""The tutorial, run to the letter in an empty folder; what it shows as output is what its commands print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from pages import DOCS, ROOT, blocks

from cluster.local import free_ports, ray_head, started

PROGRAMS = {"python": "", "slicemamba": "-m api.cli", "ray": "-m ray.scripts.scripts"}
READY_SECONDS = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty, and beside it the programs that the tutorial names, as those of this checkout."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    (tmp_path / "tutorial").mkdir()
    return tmp_path / "tutorial"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3000)
def test_tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, environment = "", _environment(folder)
    for name, value in environment.items():  # for Ray's head too: its jobs run the programs that it finds
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        for block in blocks(DOCS / "tutorial.md"):
            if block.language == "text":
                assert list(_missing(block.text, printed)) == [], printed
            elif block.title:
                (folder / block.title).write_text(block.text, encoding="utf-8")
            elif "\nray start" in block.text:  # with ports and a token of its own, and stopped at the end
                head = stack.enter_context(ray_head(num_cpus=2, log=folder.parent / "ray.log"))
                environment |= {name: head.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
                environment |= {"RAY_API_SERVER_ADDRESS": head.dashboard, "SLICEMAMBA_RAY_ADDRESS": head.dashboard}
            elif block.text.startswith("slicemamba serve"):
                service = ["sh", "-ec", f'cd "{folder}"\n{block.text}']
                stack.enter_context(
                    started(service, environment=os.environ | environment, log=folder.parent / "service.log")
                )
                _wait_for(environment["SLICEMAMBA_URL"])
            else:
                printed = _run(block.text, folder, environment)
    names = {path.name for path in (folder / "masks").iterdir()}
    assert {f"photo_{number}.png" for number in range(4)} <= names
    assert (folder / "bundle/model_portable.pt2").is_file()
    assert (folder / "runs/job/result.json").is_file()
    assert (folder / "result/report.html").is_file()


def _environment(folder: Path) -> dict[str, str]:
    (port,) = free_ports(1)
    return {
        "PATH": f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLICEMAMBA_CACHE": str(folder.parent / "cache"),
        "SLICEMAMBA_PORT": str(port),
        "SLICEMAMBA_URL": f"http://127.0.0.1:{port}",
        "COLUMNS": "100",
        "RAY_AUTH_MODE": "disabled",
    }


def _run(commands: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-ec", commands],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-5000:]}"
    return done.stdout


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/healthz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"{url} does not answer")


def _missing(shown: str, printed: str) -> Iterator[str]:
    """Lines that the page shows and that were not printed after those before; ``…`` stands for any lines."""
    lines = iter([_plain(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        wanted = _plain(line)
        if wanted not in ("", "…") and wanted not in lines:  # goes on behind the line that was found
            yield line


def _plain(line: str) -> str:
    """A line without what differs between machines: numbers, and the widths of tables."""
    line = re.sub(r"[-+−]?\d+(?:\.\d+)?(?:e-\d+)?", "0", line)
    return re.sub(r"\s+", " ", re.sub(r"[━─┃│┏┓┡┩└┘├┤╇┳┴┬┼┻╋]+", "|", line)).strip()
