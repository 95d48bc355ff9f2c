"""Times a BSS mixer, the whole network's inference and a training step, native against torch and reference scans.

``python -m benchmarks.network`` prints a Markdown table. The published width is C = 96 at 256×256, batch 1; ``--dim``
and ``--size`` take others. The reference walks through every position in Python, so it is timed once, and without
gradients.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.scan import machine
from slicemamba.architecture import Architecture, Block
from slicemamba.config import ModelConfig
from slicemamba.models.bss import BSS
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.losses import segmentation_loss

BACKENDS = ("native", "torch", "reference")


def seconds(run: Callable[[], object], backend: str) -> float:
    os.environ["SLICEMAMBA_SCAN"] = backend
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def row(name: str, run: Callable[[], object], backends: tuple[str, ...], rounds: int) -> None:
    """Prints medians of rounds in which every backend runs once; the reference runs in the first alone."""
    seconds(run, "native")
    times: dict[str, list[float]] = {backend: [] for backend in backends}
    for i in range(rounds):
        for backend in backends:
            if i == 0 or backend != "reference":
                times[backend].append(seconds(run, backend))
    took = {backend: statistics.median(values) for backend, values in times.items()}
    cells = [f"{1e3 * took[backend]:.0f}" if backend in took else "–" for backend in BACKENDS]
    ratios = [f"{took[b] / took['native']:.1f}" if b in took else "–" for b in BACKENDS[1:]]
    print(f"| {name} | {' | '.join(cells)} | {' | '.join(ratios)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=chosen.dim)
    network = SliceMambaUNet(config, 1, Architecture.uniform((2, 4), config.depths))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    mixer = BSS(chosen.dim).eval()
    image = torch.rand(chosen.batch, 3, chosen.size, chosen.size)
    mask = (torch.rand(chosen.batch, chosen.size, chosen.size) > 0.5).long()
    features = torch.randn(chosen.batch, chosen.size // 4, chosen.size // 4, chosen.dim)

    @torch.no_grad()
    def infer() -> None:
        network.eval()(image)

    @torch.no_grad()
    def mix() -> None:
        mixer(features, Block(2, 4))

    def mix_and_return() -> None:
        mixer(features, Block(2, 4)).sum().backward()

    def step() -> None:
        optimizer.zero_grad()
        segmentation_loss(network.train()(image), mask).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    print(f"{machine()}; C = {chosen.dim}, {chosen.size}×{chosen.size}, batch {chosen.batch}\n")
    print("| | native ms | torch ms | reference ms | torch / native | reference / native |")
    print("| --- |" + " ---: |" * 5)
    row("BSS of stage 1, forward", mix, BACKENDS, chosen.rounds)
    row("BSS of stage 1, forward and backward", mix_and_return, ("native", "torch"), chosen.rounds)
    row("network, inference", infer, BACKENDS, chosen.rounds)
    row("network, training step", step, ("native", "torch"), min(3, chosen.rounds))


if __name__ == "__main__":
    main()
