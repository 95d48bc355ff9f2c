"""Inference of exported networks on a CPU: ONNX Runtime beside the network with its native operators.

``python -m benchmarks.exported`` prints a Markdown table: milliseconds a batch and the ratio of the two, one thread
each, by turns. Networks with scans and without; weights are random, which changes nothing of the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.scan import machine
from benchmarks.training_step import slice_mamba
from slicemamba.architecture import SKIP, Block, format_block, parse_block
from slicemamba.config import ModelConfig
from slicemamba.evaluation.export import FILES, export_programs
from slicemamba.models.unet import SliceMambaUNet

CASES = (
    ("published", parse_block("2x4")),
    ("published", parse_block("c3")),
    ("conv", parse_block("2x4")),
    ("conv", SKIP),
)


def onnx_session(network: SliceMambaUNet, size: int, folder: Path) -> Callable[[Tensor], object]:
    """Exports and checks the network; one thread, as the network has."""
    import onnxruntime

    export_programs(network, [torch.randn(2, 3, size, size), torch.randn(1, 3, size, size)], folder, ["onnx"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / FILES["onnx"], options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image.numpy()})


def milliseconds(run: Callable[[Tensor], object], image: Tensor) -> float:
    start = time.process_time()
    with torch.no_grad():
        run(image)
    return 1e3 * (time.process_time() - start)


def row(skeleton: str, block: Block, dim: int, size: int, batch: int, rounds: int) -> str:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"skeleton": skeleton, "embed_dim": dim})
    network = slice_mamba(config, block).eval()
    image = torch.randn(batch, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(network, size, Path(folder))
        times = [(milliseconds(network, image), milliseconds(session, image)) for _ in range(rounds + 1)][1:]
    own, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)  # paired, as the speed of a shared machine varies
    return f"| {skeleton} | {format_block(block)} | {own:.0f} | {other:.0f} | {ratio:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; C = {chosen.dim}, {chosen.size}², batch {chosen.batch}, processor time\n")
    print("| skeleton | blocks | native ms | ONNX Runtime ms | ONNX Runtime / native |")
    print("| --- | --- | ---: | ---: | ---: |")
    for skeleton, block in CASES:
        print(row(skeleton, block, chosen.dim, chosen.size, chosen.batch, chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
