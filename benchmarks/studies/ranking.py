"""How well a supernet ranks: its scores of sixteen networks beside those that they get when trained alone.

python -m benchmarks.studies.ranking supernets              # one by each sampling, of as many operations; resumes
python -m benchmarks.studies.ranking run --processes 2      # the networks trained alone
python -m benchmarks.studies.ranking finals --processes 2   # trained on from a supernet's weights, as the finals do
python -m benchmarks.studies.ranking table

The networks are drawn from the space of the preset `laptop`, spread evenly over their FLOPs; the fixed ones are among
those that may be drawn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.studies import networks, trainings
from benchmarks.studies.trainings import CONV, FOLDER, SETS, Row, Study
from cluster.config import SearchJob, load_job
from cluster.rounds import finals_training
from cluster.run_folder import RunFolder
from nas.audit import rank_agreement
from nas.evaluator import Evaluator
from slicemamba.architecture import Architecture
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.checkpoints import load_network
from slicemamba.models.complexity import cost
from slicemamba.models.supernet import Supernet
from slicemamba.training.trainer import State, fit, trained_weights

RUNS = Path("runs/ranking")
SCORES = FOLDER / "ranking-supernets.jsonl"
SAMPLINGS = ("uniform", "sandwich")
NUM_NETWORKS, DRAWN = 16, 200
ALIKE = 0.2
"""Networks whose FLOPs differ by less have a like cost."""
SECONDS, SEEDS = 90.0, 2
"""Of the slowest of the fixed networks; all train for as many epochs."""


@cache
def preset() -> SearchJob:
    job = load_job(Path("configs/laptop.yaml"))
    assert isinstance(job, SearchJob)
    return job


@cache
def study() -> Study:
    """The networks by their places in the order of FLOPs."""
    space, rng = preset().search_space, np.random.default_rng(0)
    drawn = [*space.fixed(), *(space.sample(rng) for _ in range(DRAWN))]
    by_flops = sorted((_flops(one), str(one)) for one in drawn)
    places = np.linspace(0, len(by_flops) - 1, NUM_NETWORKS).round().astype(int)
    rows = {f"n{number:02}": Row(CONV, by_flops[place][1]) for number, place in enumerate(places)}
    return Study("ranking", rows, reference="n00", seconds=SECONDS)


def _flops(architecture: Architecture) -> float:
    return cost(preset().model, 1, architecture, preset().data.image_size)["flops"]


def supernets(options: argparse.Namespace) -> None:
    """Trains what is missing, and scores the networks with its weights on the search split."""
    for dataset in options.sets:
        for sampling in SAMPLINGS:
            kind = f"supernet, {sampling}"
            if any(line["set"] == dataset and line["kind"] == kind for line in _scores()):
                continue
            run = RunFolder(_trained_supernet(dataset, sampling))
            supernet = load_network(run.path / "supernet")
            assert isinstance(supernet, Supernet)
            data = trainings.load(preset().data.image_size, dataset, "search")
            evaluator = Evaluator(supernet, data, preset().search)
            status = run.read_status()
            seconds = None if status is None else round(status.progress["supernet"].seconds, 1)
            dice = {name: evaluator(Architecture.parse(str(row.block)))["dice"] for name, row in study().rows.items()}
            for name, score in dice.items():  # all were scored before the first is kept: a kind is there or it is not
                _append({"set": dataset, "kind": kind, "network": name, "dice": score, "seconds": seconds})


def _trained_supernet(dataset: str, sampling: str) -> Path:
    """The folder of a run. A step of a sandwich takes several paths, so its training has as many epochs less."""
    supernet = preset().supernet.model_copy(update={"sampling": sampling})
    epochs = max(2, round(preset().supernet.epochs / supernet.paths_per_step))
    out = RUNS / f"{dataset}-{sampling}"
    document = yaml.safe_load(Path("configs/laptop.yaml").read_text())
    job = {part: document[part] for part in ("recipe", "data", "model", "space")}
    job["data"] = {"name": dataset, "image_size": list(preset().data.image_size), "intensity": "zscore"}
    job["supernet"] = {"epochs": epochs, "validate_every": epochs, "sampling": sampling}
    job |= {"kind": "supernet", "name": f"{dataset}-{sampling}", "resources": {"train": {"cpus": 2}}}
    out.mkdir(parents=True, exist_ok=True)
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(job))
    command = [str(Path(sys.executable).parent / "slicemamba"), "train-supernet", str(config), "--out", str(out)]
    subprocess.run(command, check=True)
    return out


def finals(options: argparse.Namespace) -> None:
    """Trains each network on from each supernet, as long as finals do, and scores it on the search images."""
    done = {(line["set"], line["kind"], line["network"]) for line in _scores()}
    tasks = [
        (dataset, sampling, name, str(row.block))
        for dataset in options.sets
        for sampling in SAMPLINGS
        for name, row in study().rows.items()
        if (dataset, f"finals, {sampling}", name) not in done and (RUNS / f"{dataset}-{sampling}/supernet").is_dir()
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(_final, tasks):
            _append(line)
            print(f"{line['set']} {line['kind']} {line['network']}: {line['dice']:.3f}", flush=True)


def _final(task: tuple[str, str, str, str]) -> dict[str, Any]:
    dataset, sampling, name, architecture = task
    torch.set_num_threads(1)
    job, image = preset(), preset().data.image_size
    assert job.finals_settings is not None
    supernet = load_network(RUNS / f"{dataset}-{sampling}/supernet")
    assert isinstance(supernet, Supernet)
    network = supernet.extract(Architecture.parse(architecture))
    training = finals_training(job, job.finals_settings)
    torch.manual_seed(training.seed)
    states: list[State] = []

    def keep(report: Any, state: Callable[[], State]) -> None:
        if report.epoch == report.epochs:
            states.append(state())

    fit(network, trainings.load(image, dataset, "train"), training, validate=dict, on_epoch=keep)
    network.load_state_dict(trained_weights(states[0]))
    data = trainings.load(image, dataset, "search")
    scored = evaluate(network.eval(), data, batch_size=16, device=torch.device("cpu"), with_hd95=False)
    return {"set": dataset, "kind": f"finals, {sampling}", "network": name, "dice": scored.metrics["dice"]}


def run(options: argparse.Namespace) -> None:
    """Trains what is missing alone, all for as many epochs, as a search retrains whatever it names."""
    done = {(line["network"], line["set"], line["seed"]) for line in study().finished()}
    a_step = trainings.step_seconds(networks.STUDY)["conv 2x2"]
    tasks = [
        (study(), name, dataset, seed, SECONDS, a_step)
        for seed in range(SEEDS)
        for dataset in options.sets
        for name in study().rows
        if (name, dataset, seed) not in done
    ]
    print(f"{len(tasks)} trainings of {SECONDS:g} s at most", flush=True)
    trainings.work_off(tasks, study().results, options.processes)


def table(options: argparse.Namespace) -> None:
    """Kendall's τ of each kind of score with the mean Dice on test of the networks trained alone."""
    print("| data set | scores | networks | τ | τ of like cost (pairs) |\n| --- | --- | --- | --- | --- |")
    for dataset in options.sets:
        by_network: dict[str, dict[int, float]] = defaultdict(dict)
        for line in study().finished():
            if line["set"] == dataset:
                by_network[line["network"]][line["seed"]] = line["dice"]
        alone = {name: statistics.mean(found.values()) for name, found in by_network.items()}
        for kind, scores in _kinds(dataset, by_network):
            names = [name for name in study().rows if name in alone and name in scores]
            if len(names) < 3:
                continue
            truth = {name: alone[name] if kind != "one seed alone" else by_network[name][1] for name in names}
            tau = rank_agreement([scores[name] for name in names], [truth[name] for name in names])["kendall"]
            told = f"{tau['value']:.2f} ({tau['low']:.2f} … {tau['high']:.2f})"
            print(f"| {dataset} | {kind} | {len(names)} | {told} | {_like_cost(names, scores, truth)} |")


def _kinds(dataset: str, alone: dict[str, dict[int, float]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each kind of scores by network; of one seed alone, which is set beside the other: what noise leaves room for."""
    if all(len(found) > 1 for found in alone.values()):
        yield "one seed alone", {name: found[0] for name, found in alone.items()}
    lines = [line for line in _scores() if line["set"] == dataset]
    for kind in dict.fromkeys(line["kind"] for line in lines):
        yield kind, {line["network"]: line["dice"] for line in lines if line["kind"] == kind}


def _like_cost(names: list[str], scores: dict[str, float], truth: dict[str, float]) -> str:
    flops = {name: _flops(Architecture.parse(str(study().rows[name].block))) for name in names}
    signs = [
        np.sign((scores[a] - scores[b]) * (truth[a] - truth[b]))
        for a, b in combinations(names, 2)
        if abs(flops[a] - flops[b]) < ALIKE * max(flops[a], flops[b])
    ]
    return f"{np.mean(signs):.2f} ({len(signs)})" if signs else "–"


def _scores() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SCORES.read_text().splitlines()] if SCORES.is_file() else []


def _append(line: dict[str, Any]) -> None:
    with SCORES.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("supernets", "run", "finals", "table"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    {"supernets": supernets, "run": run, "finals": finals, "table": table}[chosen.command](chosen)
