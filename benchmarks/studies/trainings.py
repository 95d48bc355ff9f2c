"""What the studies share: trainings of equal time on small samples of real images, each a line of a file, and a table.

    python -m benchmarks.studies.networks run --processes 2       # trains what is missing, the first seeds first
    python -m benchmarks.studies.networks table                   # what is there, as Markdown
    python -m benchmarks.studies.networks curves                  # the losses of what is there, as a picture

Every finished training is a line of ``benchmarks/results/<study>.jsonl``; what is there is not trained again, so a
study may be stopped at any time and go on elsewhere. Equal time means equal processor seconds of one thread: a step of
each row is timed, all of them in turns, and each training has as many epochs as fit the budget. The times are kept
beside the results, so that trainings on another machine have the same numbers of steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import sem, t
from torch import nn

from benchmarks.studies import organs
from slicemamba.architecture import Architecture, parse_block
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.statistics import Training, difference_of_trainings
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.checkpoints import save_network
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.initialise import initialise
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.recipes import SCRATCH
from slicemamba.training.prior import start_at_prior
from slicemamba.training.trainer import State, fit, steps_per_epoch

FOLDER = Path("benchmarks/results")
SETS = ("kvasir1000", "busi", "isic2018_500")
CONV = {"skeleton": "conv", "embed_dim": 16, "drop_path_rate": 0.0}
COLUMNS = ("network", "MFLOPs", "epochs", "Dice by seed", "mean")
RECIPE = {name: value for name, value in SCRATCH.items() if name not in ("epochs", "validate_every")}


@dataclass(frozen=True)
class Row:
    """One way to train one network.

    Attributes:
        model: its settings. block: what all its blocks take, or a whole architecture; None of MONAI's U-Net.
        train: what differs from the recipe ``scratch``. source: another set on which it is trained first, for as long.
        beside: the row that it is set beside in the table; None for the study's reference.
    """

    model: Mapping[str, Any]
    block: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    beside: str | None = None

    def build(self, num_classes: int) -> ConvUNet | SliceMambaUNet:
        model = ModelConfig.model_validate(self.model)
        if self.block is None:
            return ConvUNet("unet", model, num_classes)
        whole = Architecture.parse(self.block) if "|" in self.block else model.uniform(parse_block(self.block))
        return SliceMambaUNet(model, num_classes, whole)

    def start(self, data: SegmentationData) -> ConvUNet | SliceMambaUNet:
        """The network as it goes into training on these images."""
        network = self.build(data.num_classes)
        if {**RECIPE, **self.train}.get("prior_bias", False):
            start_at_prior(network, data)
        return network

    @property
    def batch_size(self) -> int:
        return int(self.train.get("batch_size", RECIPE["batch_size"]))


@dataclass(frozen=True)
class Study:
    """Rows to compare.

    Attributes:
        name: of its files. rows: by what the table calls them. reference: the row that the others are set beside.
        seconds: processor seconds of a training. sets: data sets. image: (H, W) of their images.
    """

    name: str
    rows: Mapping[str, Row]
    reference: str
    seconds: float
    sets: tuple[str, ...] = SETS
    image: tuple[int, int] = (64, 64)

    @property
    def results(self) -> Path:
        return FOLDER / f"{self.name}.jsonl"

    @property
    def times(self) -> Path:
        return FOLDER / f"{self.name}-times.json"

    def finished(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()] if self.results.is_file() else []


def load(image: tuple[int, int], name: str, split: str) -> SegmentationData:
    if name == organs.NAME:
        return organs.draw(split)
    config = DataConfig.model_validate({"name": name, "image_size": image, "intensity": "zscore"})
    return load_split(config, split, default_cache_dir())


def step_seconds(study: Study) -> dict[str, float]:
    """Processor seconds of a training step of each row, one thread, measured in turns; kept in the study's file.

    Rows that the study has got since are measured beside its reference, by whose time of then and now they are scaled.
    """
    known: dict[str, float] = json.loads(study.times.read_text())["seconds"] if study.times.is_file() else {}
    missing = [name for name in study.rows if name not in known]
    if not missing:
        return known
    num_classes = load(study.image, study.sets[0], "train").num_classes
    names = dict.fromkeys([*missing, study.reference])
    networks: dict[str, nn.Module] = {name: study.rows[name].build(num_classes).train() for name in names}
    now = measured_steps(study, networks)
    scale = known[study.reference] / now[study.reference] if known else 1.0
    seconds = known | {name: now[name] * scale for name in missing}
    study.times.write_text(json.dumps({"image": study.image, "seconds": seconds}, indent=1) + "\n")
    return seconds


def measured_steps(study: Study, networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Processor seconds of a training step of each network, measured in turns now."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(24):
        for name, network in networks.items():
            images = torch.randn(study.rows[name].batch_size, 3, *study.image)
            started = time.process_time()
            network(images).square().mean().backward()
            times[name].append(time.process_time() - started)
    # The lower quartile: on a shared machine a step is disturbed more often than not.
    quartile = {name: statistics.quantiles(values[2:], n=4)[0] for name, values in times.items()}
    work = {
        name: (study.rows[name].batch_size, count_flops(network, study.image), num_parameters(network))
        for name, network in networks.items()
    }
    # Rows of the same operations, such as slicings of one network, have one time: what differs is noise.
    return {name: statistics.mean(quartile[other] for other in work if work[other] == work[name]) for name in networks}


def train(study: Study, name: str, dataset: str, seed: int, seconds: float, a_step: float) -> dict[str, Any]:
    """Trains one row for the budget, after its source where it has one, and scores its averaged weights on test."""
    torch.set_num_threads(1)
    row = study.rows[name]
    torch.manual_seed(seed)
    data = load(study.image, dataset, "train")
    network = row.start(data)
    started = time.process_time()
    if row.source is not None:
        other = load(study.image, row.source, "train")
        before = row.start(other)
        _fit(before, row, other, seed, seconds, a_step, dict)
        with tempfile.TemporaryDirectory() as folder:
            save_network(Path(folder), before)
            initialise(network, Path(folder), network.architecture if isinstance(network, SliceMambaUNet) else None)
    scored: dict[str, Any] = {}

    def score() -> dict[str, float]:  # called once, after the last epoch, with the averaged weights
        result = evaluate(
            network, load(study.image, dataset, "test"), batch_size=16, device=torch.device("cpu"), with_hd95=False
        )
        scored.update(dice=result.metrics["dice"], counts=result.counts[..., :3].tolist())
        return {"dice": result.metrics["dice"]}

    epochs, steps, losses = _fit(network, row, data, seed, seconds, a_step, score)
    return {
        "network": name,
        "set": dataset,
        "seed": seed,
        "seconds": seconds,
        "epochs": epochs,
        "steps": steps,
        "cpu_seconds": round(time.process_time() - started, 1),
        "params": num_parameters(network),
        "flops": count_flops(network, study.image),
        "commit": _commit(),
        "losses": losses,
        **scored,
    }


def _fit(
    network: nn.Module,
    row: Row,
    data: SegmentationData,
    seed: int,
    seconds: float,
    a_step: float,
    validate: Callable[[], dict[str, float]],
) -> tuple[int, int, list[float]]:
    """Epochs, steps and the loss of each epoch; leaves the averaged weights in the network."""
    a_epoch = steps_per_epoch(len(data), row.batch_size)
    epochs = max(2, round(seconds / a_step / a_epoch))
    settings = {**RECIPE, **row.train, "epochs": epochs, "seed": seed, "validate_every": epochs}
    losses: list[float] = []
    averaged: dict[str, Any] = {}

    def kept() -> dict[str, float]:
        averaged.update({name: weight.clone() for name, weight in network.state_dict().items()})
        return validate()

    def note(report: Any, state: Callable[[], State]) -> None:
        losses.append(round(report.loss, 4))

    fit(network, data, TrainConfig.model_validate(settings), validate=kept, on_epoch=note)
    network.load_state_dict(averaged)
    return epochs, epochs * a_epoch, losses


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def missing(study: Study, sets: list[str], rows: list[str], seeds: int, seconds: float) -> Iterator[tuple[Any, ...]]:
    """What is to be trained, seed by seed, so that a study that is stopped has complete rows."""
    done = {(line["network"], line["set"], line["seed"], line["seconds"]) for line in study.finished()}
    times = step_seconds(study)
    for seed in range(seeds):
        for dataset in sets:
            for name in rows:
                if (name, dataset, seed, seconds) not in done:
                    yield study, name, dataset, seed, seconds, times[name]


def _train(task: tuple[Any, ...]) -> dict[str, Any]:
    return train(*task)


def run(study: Study, chosen: argparse.Namespace) -> None:
    tasks = list(missing(study, chosen.sets, chosen.rows, chosen.seeds, chosen.seconds))
    print(f"{len(tasks)} trainings of {chosen.seconds:g} s", flush=True)
    work_off(tasks, study.results, chosen.processes)


def work_off(tasks: list[tuple[Any, ...]], results: Path, processes: int) -> None:
    """Trains, so many at once, and appends a line for each that has ended."""
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(_train, tasks):
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{line['set']} {line['network']} seed {line['seed']}: {line['dice']:.3f}", flush=True)


def table(study: Study, chosen: argparse.Namespace) -> None:
    """Mean Dice over seeds, and the difference to the reference with a two-level interval."""
    lines = [line for line in study.finished() if line["seconds"] == chosen.seconds]
    print_table(study, lines, chosen.sets)
    if len(chosen.sets) > 1:
        print_over_sets(study, lines)


def print_table(study: Study, lines: list[dict[str, Any]], sets: list[str]) -> None:
    """A table for each of the sets that there are lines of."""
    columns = (*COLUMNS, "difference, points")
    for dataset in sets:
        by_name: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for line in lines:
            if line["set"] == dataset:
                by_name[line["network"]][line["seed"]] = line
        if not by_name:
            continue
        print(f"\n{dataset}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for name in [name for name in study.rows if name in by_name]:
            print(f"| {' | '.join(_cells(study, name, by_name))} |")


def print_over_sets(
    study: Study, lines: list[dict[str, Any]], beside: str | None = None, rows: list[str] | None = None
) -> None:
    """Differences in pairs of one set and one seed, with a t interval over the pairs.

    Args:
        beside: the row that all are set beside, in place of their own. rows: that are shown; None: all.
    """
    dice = {(line["network"], line["set"], line["seed"]): 100 * line["dice"] for line in lines}
    print("\nall sets\n\n| network | pairs | lowest … highest | mean difference, points |\n| --- | --- | --- | --- |")
    for name, row in study.rows.items():
        other = beside or row.beside or study.reference
        gains = [dice[key] - dice[other, *key[1:]] for key in dice if key[0] == name and (other, *key[1:]) in dice]
        if name == other or len(gains) < 2 or (rows is not None and name not in rows):
            continue
        mean, half = statistics.mean(gains), float(t.ppf(0.975, len(gains) - 1)) * sem(gains)
        told = f"{mean:+.1f} ({mean - half:+.1f} … {mean + half:+.1f}) to {other}"
        print(f"| {name} | {len(gains)} | {min(gains):+.1f} … {max(gains):+.1f} | {told} |")


def _cells(study: Study, name: str, by_name: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    beside = study.rows[name].beside or study.reference
    runs, others = by_name[name], by_name.get(beside, {})
    dice = [100 * run["dice"] for _, run in sorted(runs.items())]
    common = sorted(set(runs) & set(others))
    first = next(iter(runs.values()))
    return [
        name,
        f"{first['flops'] / 1e6:.0f}",
        str(first["epochs"]),
        ", ".join(f"{one:.1f}" for one in dice),
        f"{statistics.mean(dice):.1f}",
        f"{_difference(study, runs, others, common)} to {beside}" if name != beside and common else "–",
    ]


def _difference(study: Study, runs: Mapping[int, Any], others: Mapping[int, Any], seeds: list[int]) -> str:
    """Mean difference in Dice points, with the interval over images and, of several seeds, over these."""
    first, second = ([_training(study, of[seed]["counts"]) for seed in seeds] for of in (runs, others))
    found = difference_of_trainings(first, second, "dice")
    return f"{100 * found.difference:+.1f} ({100 * found.interval.low:+.1f} … {100 * found.interval.high:+.1f})"


def _training(study: Study, counts: list[Any]) -> Training:
    """(N, classes, 3) of a line, without the true negatives, which follow; (N, 3) in lines of binary masks."""
    marked = np.array(counts)
    marked = marked if marked.ndim == 3 else marked[:, None]
    rest = study.image[0] * study.image[1] - marked.sum(axis=-1, keepdims=True)
    return Training(np.concatenate([marked, rest], axis=-1))


def curves(study: Study, chosen: argparse.Namespace) -> None:
    """Loss over steps, a line for each training and a panel for each set, as ``docs/images/<study>.png``."""
    figure = Figure(figsize=(4.5 * len(chosen.sets) + 2.5, 4), layout="constrained")
    panels = figure.subplots(1, len(chosen.sets), squeeze=False)[0]
    for panel, dataset in zip(panels, chosen.sets, strict=True):
        for line in study.finished():
            if line["set"] == dataset and line["network"] in chosen.rows and line["seconds"] == chosen.seconds:
                place = chosen.rows.index(line["network"])
                steps = np.linspace(0, line["steps"], len(line["losses"]) + 1)[1:]
                label = line["network"] if line["seed"] == 0 else None
                panel.plot(steps, line["losses"], color=f"C{place}", linewidth=1, label=label)
        panel.set(title=dataset, xlabel="optimiser steps", ylabel="loss (cross-entropy + Dice)", yscale="log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(Path("docs/images") / f"{study.name}.png", dpi=110)


def main(study: Study, about: str | None, arguments: list[str] | None = None) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("command", choices=("run", "table", "curves"))
    parser.add_argument("--sets", nargs="+", default=list(study.sets), choices=study.sets)
    parser.add_argument("--rows", nargs="+", default=list(study.rows), choices=list(study.rows))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=study.seconds, help="processor seconds of a training")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    {"run": run, "table": table, "curves": curves}[chosen.command](study, chosen)
