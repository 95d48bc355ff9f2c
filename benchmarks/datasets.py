"""SliceMamba beside VM-UNet, U-Net and Attention U-Net on small samples of real data, all trained alike.

    python -m benchmarks.datasets --out FOLDER

For each data set in SLICEMAMBA_DATA every network is retrained by the product's own job (the same images, epochs,
optimiser, augmentation and seed), and scored on test. Each training is a run in FOLDER; started again, finished ones
are not done again. FOLDER/datasets.md then holds the tables: scores with intervals over images, trivial predictions,
and paired differences from SliceMamba. The budget is for a minute or so a training on two cores: the scores say how
the networks compare at that budget, not how good they can get.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.scan import machine
from cluster.config import parse_job
from cluster.driver import run_job
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import list_datasets
from slicemamba.errors import InputError
from slicemamba.evaluation.compare import METRICS, PERCENT, comparison_tables, enter

SETS = ("isic", "isic2018", "kvasir", "clinicdb", "retina")
NETWORKS = {"slicemamba-2x2": "slicemamba", "vm-unet": "vm_unet", "unet": "unet", "attention-unet": "attention_unet"}
BUDGET: dict[str, Any] = {
    "data": {"image_size": [64, 64], "intensity": "zscore"},
    "model": {"embed_dim": 24, "drop_path_rate": 0.0},
    "retrain": {"epochs": 20, "batch_size": 8, "learning_rate": 2e-3, "t_max": 20, "validate_every": 5, "seed": 0},
    "resources": {"train": {"cpus": min(2, os.cpu_count() or 1)}},
}


def train(data: Mapping[str, Any], folder: Path, budget: Mapping[str, Any]) -> list[Path]:
    """Runs of all networks on one data set, one after the other; a finished run takes no time."""
    fixed = str(Architecture.uniform((2, 2), ModelConfig.model_validate(budget["model"]).depths))
    runs = []
    for name, network in NETWORKS.items():
        print(f"{data['name']}: {name}", flush=True)
        values = {"kind": "retrain", "name": f"{data['name']}-{name}", "network": network}
        values["architecture"] = fixed if network == "slicemamba" else None
        run = RunFolder(folder / name)
        run_job(parse_job({**budget, **values, "data": {**budget["data"], **data}}), run)
        runs.append(run.path)
    return runs


def tables_of(runs: Sequence[Path]) -> str:
    """The runs of one data set as Markdown: scores, trivial predictions, differences, and what training took."""
    device = torch.device("cpu")
    scores, *differences = comparison_tables([enter(run, "test", default_cache_dir(), device) for run in runs])
    results = [RunFolder(run).read_json("result.json") or {} for run in runs]
    trivial = [_trivial_row(name, values) for name, values in results[0]["trivial"]["test"].items()]
    scores = replace(scores, rows=(*scores.rows[: len(runs)], *trivial, *scores.rows[len(runs) :]))
    took = [f"{run.name} {_seconds(result):.0f} s" for run, result in zip(runs, results, strict=True)]
    return "\n".join(table.to_markdown() for table in [scores, *differences]) + f"\nTraining: {', '.join(took)}.\n"


def _trivial_row(name: str, values: Mapping[str, float]) -> tuple[str, ...]:
    cells = [f"{values[metric] * (100 if metric in PERCENT else 1):.2f}" for metric in METRICS]
    return ("trivial", name, *cells, "–", "–")


def _seconds(result: Mapping[str, Any]) -> float:
    return sum(float(epoch["seconds"]) for epoch in result["retrained"]["epochs"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of datasets.md")
    parser.add_argument("--sets", nargs="+", default=SETS, help=f"default: {' '.join(SETS)}")
    chosen = parser.parse_args(arguments)
    missing = sorted(set(chosen.sets) - set(list_datasets()))
    if missing:
        raise InputError(f"no data set {', '.join(missing)} in SLICEMAMBA_DATA; known: {', '.join(list_datasets())}")
    settings, height = BUDGET["retrain"], BUDGET["data"]["image_size"][0]
    parts = [
        f"`python -m benchmarks.datasets`: {machine()}. All networks: {height}×{height} pixels, embed_dim "
        f"{BUDGET['model']['embed_dim']}, {settings['epochs']} epochs, batch {settings['batch_size']}, AdamW "
        f"{settings['learning_rate']}, seed {settings['seed']}, from scratch.\n"
    ]
    for name in chosen.sets:
        parts.append(tables_of(train({"name": name}, chosen.out / name, BUDGET)))
        (chosen.out / "datasets.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"written: {chosen.out / 'datasets.md'}")


if __name__ == "__main__":
    main()
