"""The pages on extending, done to the letter in a copy of the sources: new files, edits, and the checks they name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, ROOT, apply_diff, blocks

COPIED = ("slicemamba", "nas", "cluster", "api", "tests", "pyproject.toml")
PAGES = sorted((DOCS / "extending").glob("*.md"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources, with the compiled scan, and with commands that run this copy."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for command, arguments in (("python", ""), ("slicemamba", "-m api.cli")):
        script = tmp_path / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_holds(page: Path, copy: Path) -> None:
    checked = 0
    for block in blocks(page):
        if block.title == "check":
            checked += 1
            _run(block.text, copy)
        elif block.language == "diff":
            path = copy / block.title
            path.write_text(apply_diff(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        elif block.title:
            path = copy / block.title
            assert not path.exists(), f"{block.title} is there already"
            path.write_text(block.text, encoding="utf-8")
            _run(f"python -m ruff check --quiet {block.title} && python -m ruff format --check {block.title}", copy)
    assert checked


def _run(commands: str, folder: Path) -> None:
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    environment.pop("SLICEMAMBA_SCAN", None)
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "no tests ran" not in done.stdout
