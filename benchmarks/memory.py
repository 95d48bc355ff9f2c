"""Measures the memory that the native scan takes beyond its inputs and its results, forward and in training.

``python -m benchmarks.memory`` prints a Markdown table for the four stages of the network, on Linux. Each case is run
once to warm up; then the process's peak resident size is reset, and read again after a second run. Results are y and,
in training, the gradients of y and of all inputs. "× inputs" is relative to the inputs of the scan alone at that shape
(u, delta, A, B, C) in all rows, also for slice_scan, which never holds delta for a whole sequence.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.scan import STAGES, STATES, Contender, alone, forced, machine, scan_inputs, slice_inputs, whole
from slicemamba.ops import available_backends

MEGABYTE = 1e6


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is resident now, VmHWM its peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def reset_peak() -> None:
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still resident would hide what a run takes
    Path("/proc/self/clear_refs").write_text("5")


def results(run: Contender, inputs: list[Tensor], backward: bool) -> list[Tensor]:
    own = [tensor.detach().requires_grad_(backward) for tensor in inputs]
    with torch.set_grad_enabled(backward):
        y = run(*own)
    if not backward:
        return [y]
    grad_y = torch.ones_like(y)
    return [y, grad_y, *torch.autograd.grad(y, own, grad_y)]


def size(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def extra(run: Contender, inputs: list[Tensor], backward: bool) -> int:
    """Bytes beyond inputs and results at the peak of one run."""
    results(run, inputs, backward)
    reset_peak()
    before = resident("VmRSS")
    made = results(run, inputs, backward)
    return resident("VmHWM") - before - size(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=1)
    chosen = parser.parse_args()
    if sys.platform != "linux":
        parser.exit(2, f"This benchmark reads /proc, which only Linux has, and this is {sys.platform}.\n")
    if (reason := available_backends()["native"]) != "usable":
        parser.exit(2, f"The native backend is what this measures, but {reason}\n")
    torch.manual_seed(0)
    print(f"{machine()}\n")
    columns = [f"{part}, {way}" for part in ("scan", "slice_scan") for way in ("forward", "training")]
    print(f"| (B, K·Dm, L, N) | inputs MB | {' | '.join(f'{column} MB | × inputs' for column in columns)} |")
    print("| --- |" + " ---: |" * (1 + 2 * len(columns)))
    for side, channels in STAGES:
        given = scan_inputs(chosen.batch, side, channels)
        cells = [f"{size(given) / MEGABYTE:.1f}"]
        for run, inputs in ((alone, given), (whole, slice_inputs(chosen.batch, side, channels))):
            for backward in (False, True):
                taken = extra(forced("native", run), inputs, backward)
                cells += [f"{taken / MEGABYTE:.1f}", f"{taken / size(given):.2f}"]
        shape = f"({chosen.batch}, {4 * channels}, {side * side}, {STATES})"
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
