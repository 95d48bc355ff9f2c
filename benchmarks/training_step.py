"""Training steps on a CPU, side by side: the native operators, torch's own in their place, and other networks.

``python -m benchmarks.training_step`` prints a Markdown table: images a second in training (forward, backward and
AdamW) with ``--dim`` and ``--size``. Contenders take turns in one run. "torch ops" is the same network with the
depthwise convolution, its SiLU, and the instance norm in torch's operators (the scan is native in both). Of the conv
skeleton without blocks, the neighbour is MONAI's BasicUNet of the width whose FLOPs are nearest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

from benchmarks.scan import machine
from slicemamba.architecture import SKIP, Block, parse_block
from slicemamba.config import ModelConfig
from slicemamba.models import bss, conv_skeleton
from slicemamba.models.complexity import count_flops
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.ops import reference
from slicemamba.training.losses import segmentation_loss

Step = Callable[[], None]


def torch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    return reference.instance_norm_act(x, weight, bias, eps, slope)


TORCH_OPS = (
    (bss, "depthwise_silu", reference.depthwise_silu),
    (conv_skeleton, "instance_norm_act", torch_norm),
)


@contextmanager
def torch_ops() -> Iterator[None]:
    """Torch's operators in the place of the native convolution and norm."""
    patches = [mock.patch.object(module, name, function) for module, name, function in TORCH_OPS]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def training_step(network: nn.Module, batch: int, size: int) -> Step:
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=random)
    masks = (torch.rand(batch, size, size, generator=random) > 0.5).long()

    def step() -> None:
        optimizer.zero_grad()
        segmentation_loss(network(images), masks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def in_torch_ops(step: Step) -> Step:
    def run() -> None:
        with torch_ops():
            step()

    return run


def slice_mamba(config: ModelConfig, block: Block) -> SliceMambaUNet:
    return SliceMambaUNet(config, 1, config.uniform(block))


def basic_unet(flops: float, size: int) -> BasicUNet:
    """Of the width, doubled at each level as its own default is, whose FLOPs are nearest."""

    def of_width(width: int) -> BasicUNet:
        return BasicUNet(2, 3, 1, features=(width, width, 2 * width, 4 * width, 8 * width, width))

    with torch.device("meta"):  # no weights are needed to count
        distance = {w: abs(count_flops(of_width(w), (size, size)) - flops) for w in range(4, 65, 2)}
    return of_width(min(distance, key=lambda width: distance[width]))


def contenders(dim: int, size: int, batch: int) -> dict[str, dict[str, tuple[nn.Module, Step]]]:
    """For each skeleton, name -> network and its step; the first is what the others are compared with."""
    published, conv = ModelConfig(embed_dim=dim), ModelConfig(skeleton="conv", embed_dim=dim)
    scanning, plain = slice_mamba(published, parse_block("2x4")), slice_mamba(conv, SKIP)
    unet = basic_unet(count_flops(plain, (size, size)), size)
    named = {
        "published": {
            "2x4": scanning,
            "2x4, torch ops": scanning,
            "c3": slice_mamba(published, parse_block("c3")),
        },
        "conv": {
            "no blocks": plain,
            "no blocks, torch ops": plain,
            f"BasicUNet, {unet.conv_0.conv_0.conv.out_channels} channels": unet,
            "c3": slice_mamba(conv, parse_block("c3")),
            "2x4": slice_mamba(conv, parse_block("2x4")),
        },
    }
    result: dict[str, dict[str, tuple[nn.Module, Step]]] = {}
    for skeleton, networks in named.items():
        result[skeleton] = {}
        for name, network in networks.items():
            step = training_step(network.train(), batch, size)
            result[skeleton][name] = network, in_torch_ops(step) if "torch ops" in name else step
    return result


def measure(steps: dict[str, Step], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each in each round; what they take turns in also varies between rounds. The first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if round_:
                times[name].append(clock() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: one thread's processor time")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    if chosen.clock == "cpu":
        torch.set_num_threads(1)
    clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
    print(f"{machine()}; C = {chosen.dim}, {chosen.size}², batch {chosen.batch}, {chosen.clock} time\n")
    print("| skeleton | network | GFLOPs an image | images/s | × the first | in rounds |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for skeleton, networks in contenders(chosen.dim, chosen.size, chosen.batch).items():
        times = measure({name: step for name, (_, step) in networks.items()}, chosen.rounds, clock)
        first = next(iter(times.values()))
        for name, seconds in times.items():
            # paired by round, as the speed of a shared machine varies from one to the next
            ratios = sorted(a / b for a, b in zip(first, seconds, strict=True))
            gflops = count_flops(networks[name][0].eval(), (chosen.size, chosen.size)) / 1e9
            speed = chosen.batch / statistics.median(seconds)
            spread = f"{ratios[0]:.2f} … {ratios[-1]:.2f}"
            print(f"| {skeleton} | {name} | {gflops:.3f} | {speed:.1f} | {statistics.median(ratios):.2f} | {spread} |")


if __name__ == "__main__":
    main()
