"""A training where a user's own surroundings get in the way of Ray, of imports and of clients: it works there, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = """\
kind: retrain
data: {name: synthetic, image_size: [32, 32], synthetic: {num_train: 4, num_val: 2, num_search: 2, num_test: 2}}
model: {embed_dim: 8, encoder_depths: [1, 1], decoder_depths: [1, 1], d_state: 2}
architecture: 's1:2x2|s2:2x2|s3:2x2|s4:2x2'
retrain: {epochs: 1, batch_size: 2}
"""
UPLOADED = 600 << 20  # bytes, more than Ray takes


def surround(folder: Path) -> None:
    """Modules of the user's own with names of ours, and a project that `uv run` would have Ray upload."""
    (folder / "nas").mkdir(parents=True)
    for name in ("cluster.py", "slicemamba.py", "nas/__init__.py"):
        (folder / name).write_text("raise RuntimeError('a module of the user')")
    (folder / "pyproject.toml").write_text("[project]\nname = 'mine'\nversion = '1'\n")
    with (folder / "scan.bin").open("wb") as file:
        file.truncate(UPLOADED)
    (folder / "über.yaml").write_text(JOB, encoding="utf-8")
    # What `uv run` is told by: the command line of a parent.
    command = f"'{sys.executable}' -P -m api.cli retrain über.yaml --address local; exit $?"
    (folder / "run").write_text(command + "\n", encoding="utf-8")


def environment(tmp_path: Path) -> dict[str, str]:
    """No home folder that could be written to, a proxy that does not answer, a temporary folder of a long path."""
    given = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_") and "proxy" not in name.lower()
    }
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    temporary = tmp_path / "temporary" / ("long" * 30)
    temporary.mkdir(parents=True, exist_ok=True)
    places = {
        "HOME": "/dev/null/home",
        "TMPDIR": str(temporary),
        "SLICEMAMBA_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return given | proxies | places | {"RAY_worker_niceness": "0"}  # or workers starve where all cores are busy


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.long
def test_training_works_whatever_lies_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "mein Ordner"
    surround(folder)
    done = subprocess.run(
        ["uv", "run"],
        executable="/bin/bash",
        cwd=folder,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads((folder / "runs/über/result.json").read_text(encoding="utf-8"))
    assert "dice" in result["retrained"]["scores"]["test"]


@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RAY_TMPDIR", "{}/" + "long/" * 20, "set RAY_TMPDIR to a short one"),
        ("SLICEMAMBA_CACHE", "", "set SLICEMAMBA_CACHE to another"),  # then it is in the home folder
    ],
)
def test_what_cannot_be_got_round_names_the_variable(tmp_path: Path, name: str, value: str, says: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    given = environment(tmp_path) | {name: value.format(tmp_path)}
    Path(value.format(tmp_path) or tmp_path).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "api.cli", "retrain", "job.yaml", "--address", "local"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode in (1, 2)
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
