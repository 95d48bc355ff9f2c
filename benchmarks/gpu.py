"""Times the slice scan, a BSS mixer, inference and a training step on a GPU: Triton against torch and published scans.

``python -m benchmarks.gpu`` prints Markdown tables for batch 32 at the four stages of the network. "published" is the
path of the published code: four permuted copies, mamba_ssm's CUDA scan, and the way back; where mamba_ssm cannot be
had, the torch backend's scan takes its place. All run in one process, medians by CUDA events after a warm-up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.scan import STAGES, slice_inputs
from slicemamba.architecture import Architecture, Block
from slicemamba.config import ModelConfig
from slicemamba.models import bss
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.ops import available_backends, mamba, selective_scan, slice_scan
from slicemamba.ops.inputs import SliceInputs
from slicemamba.ops.mamba import Scan
from slicemamba.training.losses import segmentation_loss

SLICE_SIZE = (2, 4)
DIM, SIZE = 96, 256  # the published width and image size


def published_scan() -> Scan:
    """mamba_ssm's selective scan, or the torch backend's where mamba_ssm cannot be had."""
    if (reason := available_backends()["mamba_ssm"]) == "usable":
        return mamba.selective_scan_fn()
    print(f'"published" scans with the torch backend, for mamba_ssm is {reason}.', file=sys.stderr)
    return selective_scan


class Contender:
    """A slice scan to be timed: a backend of the project, or the published path around a selective scan."""

    def __init__(self, name: str, scan: Scan | None = None) -> None:
        self._scan = scan
        self.name = name

    def __call__(self, x: Tensor, *parameters: Any) -> Tensor:
        if self._scan is None:
            return slice_scan(x, *parameters)
        *weights, slice_size = parameters
        with torch.autocast(x.device.type, enabled=False):
            return mamba.slice_scan(SliceInputs(x.float(), *weights), slice_size, self._scan).to(x.dtype)

    def in_place(self) -> AbstractContextManager[object]:
        """Within it, mixers scan with this contender."""
        os.environ["SLICEMAMBA_SCAN"] = self.name if self._scan is None else "torch"
        return mock.patch.object(bss, "slice_scan", self)


def milliseconds(run: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(run, warmup=100, rep=400, return_mode="median"))


def row(title: str, contenders: list[Contender], make: Callable[[Contender], Callable[[], object]]) -> str:
    """A line of a table: each contender's median, and how many times that of the first the others take."""
    took = []
    for contender in contenders:
        with contender.in_place():
            took.append(milliseconds(make(contender)))
    return line(title, took)


def line(title: str, took: list[float]) -> str:
    cells = [f"{value:.3f}" for value in took] + [f"{value / took[0]:.1f}" for value in took[1:]]
    return f"| {title} | {' | '.join(cells)} |"


def header(title: str, names: list[str]) -> str:
    columns = [f"{name} ms" for name in names] + [f"{name} / {names[0]}" for name in names[1:]]
    return f"\n### {title}\n\n| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"


def scan_tables(contenders: list[Contender], batch: int, dtype: torch.dtype) -> None:
    for backward in (False, True):
        title = f"slice_scan, {'forward and backward' if backward else 'forward'}, {str(dtype)[6:]}"
        print(header(title, [contender.name for contender in contenders]))
        for side, channels in STAGES:
            inputs = [tensor.cuda().requires_grad_(backward) for tensor in slice_inputs(batch, side, channels)]
            inputs[0] = inputs[0].detach().to(dtype).requires_grad_(backward)
            shape = f"({batch}, {side}, {side}, {channels})"
            print(row(shape, contenders, lambda c, i=inputs, b=backward: lambda: call(c, i, b)), flush=True)  # type: ignore[misc]


def call(scan: Scan, inputs: list[Tensor], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        y = scan(*inputs, SLICE_SIZE)
    if backward:
        torch.autograd.grad(y, inputs, torch.ones_like(y))


def network_table(contenders: list[Contender], batch: int, dtype: torch.dtype) -> None:
    """A BSS mixer at stage 1, the network's inference, and a training step; under autocast if dtype is a half one."""
    config = ModelConfig()
    network = SliceMambaUNet(config, 1, Architecture.uniform(SLICE_SIZE, config.depths)).cuda()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    mixer = bss.BSS(DIM).cuda()
    image = torch.rand(batch, 3, SIZE, SIZE, device="cuda")
    mask = (torch.rand(batch, SIZE, SIZE, device="cuda") > 0.5).long()
    features = torch.randn(batch, SIZE // 4, SIZE // 4, DIM, device="cuda")
    precision = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)

    @torch.no_grad()
    def mix() -> None:
        with precision:
            mixer(features, Block(*SLICE_SIZE))

    @torch.no_grad()
    def infer() -> None:
        with precision:
            network.eval()(image)

    def step() -> None:
        optimizer.zero_grad()
        with precision:
            loss = segmentation_loss(network.train()(image).float(), mask)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    title = f"C = {DIM}, {SIZE}×{SIZE}, batch {batch}, {str(dtype)[6:]}"
    print(header(title, [contender.name for contender in contenders]))
    for name, run in (("BSS of stage 1, forward", mix), ("network, inference", infer), ("training step", step)):
        print(row(name, contenders, lambda _, chosen=run: chosen), flush=True)  # type: ignore[misc]


def machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"commit {commit.stdout.strip() if commit.returncode == 0 else 'unknown'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the maps")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "This benchmark needs an NVIDIA GPU: torch.cuda.is_available() is False on this machine.\n")
    if (reason := available_backends()["triton"]) != "usable":
        parser.exit(2, f"This benchmark times the Triton backend, but it is {reason}.\n")
    torch.manual_seed(0)
    contenders = [Contender("triton"), Contender("torch"), Contender("published", published_scan())]
    dtype = getattr(torch, chosen.dtype)
    print(machine())
    scan_tables(contenders, chosen.batch, dtype)
    network_table(contenders, chosen.batch, dtype)


if __name__ == "__main__":
    main()
