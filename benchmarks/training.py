"""Training steps of the full-width network (C = 96, 256×256): time and peak memory, by precision and batch.

python -m benchmarks.training
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import numpy as np
import torch

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.synthetic import draw_lesion
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.trainer import fit


def measure(precision: str, batch_size: int, accumulate_steps: int, steps: int) -> tuple[list[list[float]], float]:
    """Wall and processor seconds of each step, and the process's peak resident memory in GiB."""
    torch.manual_seed(0)
    config = TrainConfig.model_validate(
        {"epochs": 1, "batch_size": batch_size, "precision": precision, "accumulate_steps": accumulate_steps}
    )
    model = ModelConfig()
    pairs = [draw_lesion(0, "train", index, (256, 256)) for index in range(steps * batch_size)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    names = tuple(str(index) for index in range(len(images)))
    data = SegmentationData(images, masks, names, "train", num_classes=1, intensity="zscore")
    network = SliceMambaUNet(model, 1, Architecture.uniform((2, 4), model.depths))
    times = [(time.perf_counter(), time.process_time())]
    losses: list[float] = []

    def on_step(done: int, total: int, loss: float) -> None:
        times.append((time.perf_counter(), time.process_time()))
        losses.append(loss)

    fit(network, data, config, validate=dict, on_epoch=lambda report, state: None, on_step=on_step)
    assert np.isfinite(losses).all()
    return np.diff(times, axis=0).tolist(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {options.steps} steps each")
    print("| precision | batch | parts | step, wall s | step, processor s | peak memory GiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    context = multiprocessing.get_context("spawn")  # a process each, as a peak is of a process
    for case in (("float32", 1, 1), ("bf16", 1, 1), ("float32", 2, 1), ("float32", 2, 2), ("bf16", 2, 1)):
        with context.Pool(1) as pool:
            seconds, memory = pool.apply(measure, (*case, options.steps))
        wall, processor = (statistics.median(column) for column in zip(*seconds[1:], strict=True))  # the first warms up
        print(f"| {' | '.join(map(str, case))} | {wall:.2f} | {processor:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
