"""Published network, convolutional skeleton and U-Net at equal training time, on small samples of real images.

    python -m benchmarks.studies.networks run --processes 2       # trains what is missing, the first seeds first
    python -m benchmarks.studies.networks table                   # what is there, as Markdown

Every finished training is a line of ``benchmarks/results/networks.jsonl``; what is there is not trained again, so a
study may be stopped at any time and go on elsewhere. Equal time means equal processor seconds of one thread: a step of
each network is timed, all of them in turns, and each training has as many epochs as fit the budget. The times are kept
beside the results, so that trainings on another machine have the same numbers of steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from slicemamba.architecture import parse_block
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.trainer import State, fit, steps_per_epoch

RESULTS = Path("benchmarks/results/networks.jsonl")
TIMES = Path("benchmarks/results/networks-times.json")
SETS = ("kvasir1000", "busi", "isic2018_500")
PUBLISHED = {"embed_dim": 44, "drop_path_rate": 0.0}
CONV = {"skeleton": "conv", "embed_dim": 16, "drop_path_rate": 0.0}
UNET = {"embed_dim": 24}  # widths 16 to 256, as the skeleton's
COLUMNS = ("network", "MFLOPs", "epochs", "Dice by seed", "mean", "to U-Net, points")
BATCH, SECONDS, IMAGE = 8, 150.0, (64, 64)
SCRATCH = {
    "batch_size": BATCH,
    "learning_rate": 2e-3,
    "min_learning_rate": 0.0,
    "warmup_epochs": 1,
    "clip_grad_norm": 1.0,
    "ema_decay": 0.99,
}


@dataclass(frozen=True)
class Row:
    """A network of the study; ``block`` is what all its blocks take, None of MONAI's U-Net."""

    model: Mapping[str, Any]
    block: str | None = None

    def build(self) -> nn.Module:
        model = ModelConfig.model_validate(self.model)
        if self.block is None:
            return ConvUNet("unet", model, 1)
        return SliceMambaUNet(model, 1, model.uniform(parse_block(self.block)))


ROWS = {
    "unet": Row(UNET),
    "conv -": Row(CONV, "-"),
    "conv 2x2": Row(CONV, "2x2"),
    "conv c3": Row(CONV, "c3"),
    "conv c7": Row(CONV, "c7"),
    "published 2x2": Row(PUBLISHED, "2x2"),
    "published 1x1": Row(PUBLISHED, "1x1"),
    "published 4x4": Row(PUBLISHED, "4x4"),
    "published 8x8": Row(PUBLISHED, "8x8"),
    "published c3": Row(PUBLISHED, "c3"),
}


def load(name: str, split: str) -> SegmentationData:
    config = DataConfig.model_validate({"name": name, "image_size": IMAGE, "intensity": "zscore"})
    return load_split(config, split, default_cache_dir())


def step_seconds() -> dict[str, float]:
    """Processor seconds of a training step of each network, one thread, measured in turns; kept in ``TIMES``."""
    if TIMES.is_file():
        found: dict[str, float] = json.loads(TIMES.read_text())["seconds"]
        return found
    torch.set_num_threads(1)
    images = torch.randn(BATCH, 3, *IMAGE)
    networks = {name: row.build().train() for name, row in ROWS.items()}
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(12):
        for name, network in networks.items():
            started = time.process_time()
            network(images).square().mean().backward()
            times[name].append(time.process_time() - started)
    seconds = {name: statistics.median(values[2:]) for name, values in times.items()}
    TIMES.write_text(json.dumps({"batch": BATCH, "image": IMAGE, "seconds": seconds}, indent=1) + "\n")
    return seconds


def train(name: str, dataset: str, seed: int, seconds: float, a_step: float) -> dict[str, Any]:
    """Trains one network for the budget and scores its averaged weights on test."""
    torch.set_num_threads(1)
    data = load(dataset, "train")
    epochs = max(2, round(seconds / a_step / steps_per_epoch(len(data), BATCH)))
    config = TrainConfig.model_validate(
        {**SCRATCH, "epochs": epochs, "t_max": epochs - 1, "seed": seed, "validate_every": epochs}
    )
    torch.manual_seed(seed)
    network = ROWS[name].build()
    losses: list[float] = []
    scored: dict[str, Any] = {}

    def score() -> dict[str, float]:  # called once, after the last epoch, with the averaged weights
        result = evaluate(network, load(dataset, "test"), batch_size=16, device=torch.device("cpu"), with_hd95=False)
        scored.update(dice=result.metrics["dice"], counts=result.counts[:, 0, :3].tolist())
        return {"dice": result.metrics["dice"]}

    def note(report: Any, state: Callable[[], State]) -> None:
        losses.append(round(report.loss, 4))

    started = time.process_time()
    fit(network, data, config, validate=score, on_epoch=note)
    return {
        "network": name,
        "set": dataset,
        "seed": seed,
        "seconds": seconds,
        "epochs": epochs,
        "steps": epochs * steps_per_epoch(len(data), BATCH),
        "cpu_seconds": round(time.process_time() - started, 1),
        "params": num_parameters(network),
        "flops": count_flops(network, IMAGE),
        "commit": _commit(),
        "losses": losses,
        **scored,
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def finished() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def missing(sets: list[str], rows: list[str], seeds: int, seconds: float) -> Iterator[tuple[Any, ...]]:
    """What is to be trained, seed by seed, so that a study that is stopped has complete rows."""
    done = {(line["network"], line["set"], line["seed"], line["seconds"]) for line in finished()}
    times = step_seconds()
    for seed in range(seeds):
        for dataset in sets:
            for name in rows:
                if (name, dataset, seed, seconds) not in done:
                    yield name, dataset, seed, seconds, times[name]


def _run(task: tuple[Any, ...]) -> dict[str, Any]:
    return train(*task)


def run(chosen: argparse.Namespace) -> None:
    tasks = list(missing(chosen.sets, chosen.rows, chosen.seeds, chosen.seconds))
    print(f"{len(tasks)} trainings of {chosen.seconds:g} s", flush=True)
    with multiprocessing.get_context("spawn").Pool(chosen.processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(_run, tasks):
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{line['set']} {line['network']} seed {line['seed']}: {line['dice']:.3f}", flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Mean Dice over seeds with its spread, and the difference to U-Net of equal seed with a two-level interval."""
    lines = [line for line in finished() if line["seconds"] == chosen.seconds]
    for dataset in chosen.sets:
        by_name: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for line in lines:
            if line["set"] == dataset:
                by_name[line["network"]][line["seed"]] = line
        print(f"\n{dataset}\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
        for name in [name for name in ROWS if name in by_name]:
            runs = by_name[name]
            dice = [100 * run["dice"] for _, run in sorted(runs.items())]
            common = sorted(set(runs) & set(by_name["unet"]))
            difference = _difference(runs, by_name["unet"], common) if name != "unet" and common else "–"
            first = next(iter(runs.values()))
            print(
                f"| {name} | {first['flops'] / 1e6:.0f} | {first['epochs']} | {', '.join(f'{d:.1f}' for d in dice)} "
                f"| {statistics.mean(dice):.1f} | {difference} |"
            )


def _difference(runs: Mapping[int, Any], others: Mapping[int, Any], seeds: list[int]) -> str:
    """Mean difference in Dice points; 95 % of a bootstrap that draws seeds, then images, again."""
    rng = np.random.default_rng(0)
    first, second = (np.array([each[seed]["counts"] for seed in seeds], dtype=float) for each in (runs, others))

    def dice(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        tp, fp, fn = np.moveaxis(counts.sum(axis=1), -1, 0)
        return np.asarray(200 * tp / (2 * tp + fp + fn))

    draws = []
    for _ in range(2000):
        a, b = (rng.integers(len(seeds), size=len(seeds)) for _ in range(2))
        images = rng.integers(first.shape[1], size=first.shape[1])
        draws.append(dice(first[a][:, images]).mean() - dice(second[b][:, images]).mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{dice(first).mean() - dice(second).mean():+.1f} ({low:+.1f} … {high:+.1f})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="processor seconds of a training")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    {"run": run, "table": table}[chosen.command](chosen)


if __name__ == "__main__":
    main()
