"""What ``python -m build`` makes: complete without the checkout, with or without a compiler, and it runs the demo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("slicemamba", "nas", "cluster", "api", "configs")
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    "CITATION.cff",
)


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Its output. PYTHONPATH is taken away, so that nothing comes from the checkout by accident."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files without what was built in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    for name in (*SOURCES, "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(source: Path, out: Path, **variables: str) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it: so the sdist holds all that a build needs."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], out, **variables)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def travelling(folder: Path) -> set[str]:
    """All files of the packages but those that only a build needs."""
    found = (path for package in PACKAGES for path in (folder / package).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if path.suffix not in (".cpp", ".h")}


def test_without_a_compiler_the_wheel_is_whole_but_for_the_native_scan(source: Path, tmp_path: Path) -> None:
    sdist, wheel = build(source, tmp_path, CC="false", CXX="false")
    assert travelling(source) <= members(wheel)
    assert not [name for name in members(wheel) if name.endswith(".so")]
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.relative_to(source).as_posix() for path in (source / "slicemamba/ops").glob("*.[ch]*")} <= packed
    assert {"CITATION.cff", "LICENSE", "NOTICE", "constraints.txt"} <= packed
    top = {name.partition("/")[0] for name in members(wheel)}
    assert top - set(PACKAGES) == {next(name for name in top if name.endswith(".dist-info"))}


def environment_with(wheel: Path, folder: Path) -> Path:
    """A fresh virtual environment that takes the libraries from this one, and the project from the wheel alone.

    A .pth file in it adds this environment's libraries; .pth files among those are not followed, so an editable
    install of the checkout is not seen.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index",
         "--ignore-installed", "--disable-pip-version-check", str(wheel)],
        folder,
    )  # fmt: skip
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(3600)
def test_the_wheel_in_a_fresh_environment_and_an_empty_folder_runs_the_demonstration(
    source: Path, tmp_path: Path
) -> None:
    _, wheel = build(source, tmp_path)
    native = [name for name in members(wheel) if name.startswith("slicemamba/ops/_scan") and name.endswith(".so")]
    assert len(native) == 1
    programs = environment_with(wheel, tmp_path / "environment")
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run(
        [str(programs / "python"), "-c", "import api, slicemamba; print(api.__file__, slicemamba.__file__)"], empty
    )
    assert where.count(str(tmp_path / "environment")) == 2
    command = str(programs / "slicemamba")
    cache = {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    found = run([command, "doctor"], empty, **cache)
    assert next(line for line in found.splitlines() if "scan on CPU" in line).count("native") == 1
    assert "laptop" in run([command, "config", "list"], empty, **cache)
    assert run([command, "demo"], empty, **cache).count("Frontier (after the finals, search split)") == 1
    result = json.loads((empty / "demo-output" / "result.json").read_text())
    assert result["retrained"]["scores"]["test"]["dice"] > 0.5
    assert {path.name for path in empty.iterdir()} <= {"demo-output", "runs"}
