"""The demonstration, as ``make demo`` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_processes import started_with
from PIL import Image


def demo(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", "demo", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "SLICEMAMBA_CACHE": str(tmp_path / "cache")}


def test_bad_input_is_told_before_anything_is_started(tmp_path: Path, environment: dict[str, str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for arguments, says in (
        (["--out", str(mine)], "do not belong to a demonstration"),
        (["--out", str(tmp_path / "out"), "--data", str(tmp_path / "nowhere")], "is not a folder"),
        (["--out", str(tmp_path / "out"), "--data", str(mine)], "train"),
    ):
        done = demo(*arguments, environment=environment)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert "Starting Ray" not in done.stdout
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["synthetic", "isic2018"])
def test_demonstration_leaves_its_results_and_nothing_running(
    tmp_path: Path, environment: dict[str, str], request: pytest.FixtureRequest, name: str
) -> None:
    data = [] if name == "synthetic" else ["--data", str(request.getfixturevalue("data_root") / name)]
    out = tmp_path / "out"
    done = demo("--out", str(out), *data, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Frontier (after the finals, search split)" in done.stdout
    result = json.loads((out / "result.json").read_text())
    test = result["retrained"]["scores"]["test"]["dice"]
    assert test > max(scores["dice"] for scores in result["trivial"]["test"].values())
    for file in ("pareto.png", "slicing.png", "predictions/predictions.png"):
        with Image.open(out / file) as picture:
            assert min(picture.size) > 100
    assert (out / "retrained" / "weights.safetensors").is_file()
    assert started_with(environment) == []
