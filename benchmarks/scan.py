"""Times the slice scan at the four stages of the network, against sequential torch loops, in one run.

"published" is the loop as published references have it: decays and inputs of all steps are made first, (B, K·Dm, L, N),
and then walked through. "plain" is this project's own loop, which makes them step by step and is several times faster.

``python -m benchmarks.scan`` prints a Markdown table; ``--part scan`` times the scan alone (projections and step sizes
given) in place of the whole operator (projections, order, scan, sum of the directions). On a machine that others use
too, ``--clock cpu`` compares the least processor time of one thread in place of the median of wall times.
SLICEMAMBA_ISA=avx2|baseline forces a lower instruction set on the native backend.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slicemamba.ops import available_backends, cpu, reference, selective_scan, slice_scan

STAGES = ((64, 192), (32, 384), (16, 768), (8, 1536))  # side of the map, channels
STATES = 16
Contender = Callable[..., Tensor]
Clock = Callable[[], float]


def slice_inputs(batch: int, side: int, channels: int) -> list[Tensor]:
    rank = -(-channels // 32)  # R = ceil(C / 16), and the mixer doubles C
    steps = torch.empty(4, channels).uniform_(-6.9, -2.3)  # log of steps between 0.001 and 0.1
    return [
        torch.randn(batch, side, side, channels),
        torch.randn(4, rank + 2 * STATES, channels) * channels**-0.5,
        torch.randn(4, channels, rank) * rank**-0.5,
        torch.log(torch.expm1(torch.exp(steps))),
        torch.log(torch.arange(1.0, STATES + 1)).repeat(4 * channels, 1),
        torch.ones(4 * channels),
    ]


def scan_inputs(batch: int, side: int, channels: int) -> list[Tensor]:
    length = side * side
    return [
        torch.randn(batch, 4 * channels, length),
        torch.empty(batch, 4 * channels, length).uniform_(0.001, 0.1),
        -torch.arange(1.0, STATES + 1).repeat(4 * channels, 1),
        torch.randn(batch, 4, STATES, length),
        torch.randn(batch, 4, STATES, length),
    ]


def forced(backend: str, run: Contender) -> Contender:
    def call(*inputs: Tensor) -> Tensor:
        os.environ["SLICEMAMBA_SCAN"] = backend
        return run(*inputs)

    return call


def whole(*inputs: Tensor) -> Tensor:
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    return slice_scan(x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D, (2, 4))


def alone(*inputs: Tensor) -> Tensor:
    u, delta, A, B, C = inputs
    return selective_scan(u, delta, A, B, C)


def plain_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return reference.selective_scan(u, delta, A, B, C)


def published_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    B, C = (tensor.repeat_interleave(u.shape[1] // B.shape[1], dim=1) for tensor in (B, C))  # (B, K·Dm, N, L)
    decays = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    inputs = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h = torch.zeros_like(decays[:, :, 0])
    outputs = []
    for decay_t, input_t, C_t in zip(decays.unbind(2), inputs.unbind(2), C.unbind(3), strict=True):
        h = decay_t * h + input_t
        outputs.append(torch.einsum("bdn,bdn->bd", h, C_t))
    return torch.stack(outputs, dim=2)


def seconds(run: Contender, inputs: list[Tensor], backward: bool, clock: Clock) -> float:
    """Time of one call; gradients of all inputs where ``backward``, and none recorded where not."""
    own = [tensor.detach().requires_grad_(backward) for tensor in inputs]
    start = clock()
    with torch.set_grad_enabled(backward):
        y = run(*own)
    if backward:
        torch.autograd.grad(y, own, torch.ones_like(y))
    return clock() - start


def compare(
    contenders: dict[str, Contender], inputs: list[Tensor], backward: bool, rounds: int, clock: Clock
) -> dict[str, float]:
    """Time of each, side by side: every round runs the slow ones once and the fast one ten times."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    seconds(contenders["native"], inputs, backward, clock)
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name] += [seconds(run, inputs, backward, clock) for _ in range(10 if name == "native" else 1)]
    typical = statistics.median if clock is time.perf_counter else min
    return {name: typical(values) for name, values in times.items()}


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), model)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{model}, {torch.get_num_threads()} threads, {cpu.instruction_set()}, torch {torch.__version__}, "
        f"commit {commit.stdout.strip() if commit.returncode == 0 else 'unknown'}"
    )


def table(part: str, backward: bool, batch: int, rounds: int, clock: Clock) -> None:
    run = whole if part == "slice_scan" else alone
    loops = {} if part == "slice_scan" else {"published": published_loop}
    plain = forced("reference", whole) if part == "slice_scan" else plain_loop
    contenders = {**loops, "plain": plain, "torch": forced("torch", run), "native": forced("native", run)}
    others = [name for name in contenders if name != "native"]
    print(f"\n### {part}, {'forward and backward' if backward else 'forward'}\n")
    print(f"| (B, K·Dm, L, N) | {' ms | '.join(contenders)} ms | native × {' | native × '.join(others)} |")
    print("| --- |" + " ---: |" * (2 * len(contenders) - 1))
    for side, channels in STAGES:
        make = slice_inputs if part == "slice_scan" else scan_inputs
        took = compare(contenders, make(batch, side, channels), backward, rounds, clock)
        cells = [f"{1e3 * took[name]:.2f}" for name in contenders]
        cells += [f"{took[name] / took['native']:.0f}" for name in others]
        print(f"| ({batch}, {4 * channels}, {side * side}, {STATES}) | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=("slice_scan", "scan", "both"), default="both")
    parser.add_argument("--passes", choices=("forward", "training", "both"), default="both")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = parser.parse_args()
    if (reason := available_backends()["native"]) != "usable":
        parser.exit(2, f"The native backend is what this measures, but {reason}\n")
    torch.manual_seed(0)
    if chosen.clock == "cpu":
        torch.set_num_threads(1)
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    print(machine())
    for part in ("scan", "slice_scan") if chosen.part == "both" else (chosen.part,):
        for backward in (False, True) if chosen.passes == "both" else (chosen.passes == "training",):
            table(part, backward, chosen.batch, chosen.rounds, clock)


if __name__ == "__main__":
    main()
