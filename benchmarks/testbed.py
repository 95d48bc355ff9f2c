"""A search whose outcome is known: a small space, evaluated in full with a supernet trained on real data.

``python -m benchmarks.testbed make`` trains the supernet on Kvasir-SEG (its folder in SLICEMAMBA_DATA) and writes the
scores of all 4096 slicings to ``tests/assets/testbed_kvasir.json``; some ten minutes on one core.
``python -m benchmarks.testbed compare`` runs all searchers on that table, and on synthetic ones, over many seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nas.config import SearchConfig, SpaceConfig
from nas.evaluator import Evaluator
from nas.space import SearchSpace
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.models.supernet import Supernet
from slicemamba.training.trainer import EpochReport, fit

TABLE = Path(__file__).parents[1] / "tests" / "assets" / "testbed_kvasir.json"
SCORES = ("miou", "hd95", "sensitivity", "specificity")

DATA = DataConfig(name="kvasir", image_size=(64, 64), intensity="zscore")
MODEL = ModelConfig(embed_dim=16, encoder_depths=(1, 2), decoder_depths=(2, 1), drop_path_rate=0.0)
TRAIN = TrainConfig(epochs=400, batch_size=8, learning_rate=2e-3, t_max=400, validate_every=400)
CHOICES = SpaceConfig()


def make() -> None:
    """Trains the supernet as published (one uniformly drawn path a step, weights of its own for each choice)."""
    torch.manual_seed(TRAIN.seed)
    space = SearchSpace(CHOICES.choices, MODEL.depths)
    supernet = Supernet(MODEL, DATA.num_classes, CHOICES.choices, CHOICES.weight_sharing)
    with tempfile.TemporaryDirectory() as cache:
        train, search = (load_split(DATA, split, Path(cache)) for split in ("train", "search"))
        started = time.perf_counter()
        losses: list[float] = []

        def show(report: EpochReport, _: Any) -> None:
            losses.append(report.loss)
            if report.epoch % 20 == 0:
                print(f"epoch {report.epoch}: loss {report.loss:.4f}", flush=True)

        fit(supernet, train, TRAIN, validate=dict, on_epoch=show, draw=space.sample)
        trained = time.perf_counter()
        measure = Evaluator(supernet, search, SearchConfig(objectives=("miou", "hd95"), batch_size=len(search)))
        rows = []
        for number, genes in enumerate(product(range(len(space.choices)), repeat=space.num_blocks)):
            rows.append(measure(space.decode(list(genes))))
            if number % 256 == 255:
                print(f"{number + 1} of {space.size} slicings", flush=True)
    table = {
        "what": "scores on the search split of every slicing, the last block's choice counting fastest",
        "commit": _commit(),
        "data": DATA.model_dump(mode="json", include={"name", "image_size", "intensity"}),
        "num_images": {"train": len(train), "search": len(search)},
        "model": MODEL.model_dump(mode="json"),
        "space": CHOICES.model_dump(mode="json"),
        "train": TRAIN.model_dump(mode="json"),
        "last_loss": round(losses[-1], 4),
        "seconds": {"train": round(trained - started), "evaluate": round(time.perf_counter() - trained)},
        "scores": {name: [round(row[name], 5) for row in rows] for name in SCORES},
    }
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps(table) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(rows)} slicings")


def _commit() -> str:
    shown = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("make",))
    parser.parse_args()
    make()


if __name__ == "__main__":
    main()
