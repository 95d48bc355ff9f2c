"""What of the GPU benchmark can be checked without a GPU: the contenders, the tables, the way it declines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_cases import relative

from benchmarks import gpu
from slicemamba.architecture import Block
from slicemamba.models.bss import BSS
from slicemamba.ops import reference


def test_a_mixer_scans_with_the_contender(monkeypatch):
    monkeypatch.setenv("SLICEMAMBA_SCAN", "reference")
    calls = []

    def scan(*args, **kwargs):
        calls.append(1)
        return reference.selective_scan(*args, **kwargs)

    mixer, x = BSS(8, d_state=4), torch.randn(1, 5, 6, 8)
    expected = mixer(x, Block(2, 4))
    with gpu.Contender("published", scan).in_place():
        assert relative(mixer(x, Block(2, 4)), expected) < 1e-5
    assert calls == [1]
    with gpu.Contender("torch").in_place():
        assert relative(mixer(x, Block(2, 4)), expected) < 1e-5


def test_lines_fit_their_header():
    head = gpu.header("title", ["triton", "torch"]).splitlines()[-2]
    assert head == "| | triton ms | torch ms | torch / triton |"
    assert gpu.line("(1, 2)", [0.5, 2.0]) == "| (1, 2) | 0.500 | 2.000 | 4.0 |"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_exits_with_2():
    # A test before may have started a Ray, for whose workers the working directory is no place to import from.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    root = Path(__file__).parents[2]
    process = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert process.returncode == 2
    assert process.stderr.startswith("This benchmark needs an NVIDIA GPU")
