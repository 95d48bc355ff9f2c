"""Compares ways of training a supernet: uniform or fair sampling, separate or shared weights, on Kvasir images.

``python -m benchmarks.supernet_sampling`` prints a Markdown table. Each supernet is trained for the same steps on the
train split in SLICEMAMBA_DATA, and then scores the same sampled slicings on the search split. Runs of several seeds are
shown as mean ± standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import product

import numpy as np
import torch

from nas.config import SearchConfig
from nas.evaluator import Evaluator
from nas.sampling import PathSampler, Sampling
from nas.space import SearchSpace
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import resolve_root
from slicemamba.models.complexity import num_parameters
from slicemamba.models.supernet import Supernet, WeightSharing
from slicemamba.training.trainer import fit, steps_per_epoch

SLICINGS = 24


def one(
    model: ModelConfig,
    space: SearchSpace,
    train: SegmentationData,
    search: SegmentationData,
    sampling: Sampling,
    sharing: WeightSharing,
    config: TrainConfig,
) -> dict[str, float]:
    """Trains one supernet and scores it."""
    torch.manual_seed(config.seed)
    supernet = Supernet(model, 1, space.choices, sharing)
    sampler = PathSampler(space, sampling, config.seed)
    losses: list[float] = []
    started = time.process_time()
    fit(supernet, train, config, validate=dict, on_epoch=lambda report, _: losses.append(report.loss), draw=sampler)
    seconds = time.process_time() - started
    evaluate = Evaluator(supernet, search, SearchConfig(batch_size=6))
    rng = np.random.default_rng(0)
    slicings = dict.fromkeys([*space.fixed(), *(space.sample(rng) for _ in range(SLICINGS))])
    dice = [evaluate(slicing)["dice"] for slicing in slicings]
    updates = sampler.update_counts(config.epochs * steps_per_epoch(len(train), config.batch_size))
    return {
        "parameters": num_parameters(supernet) / 1e6,
        "fewest": int(updates.min()),
        "most": int(updates.max()),
        "loss": losses[-1],
        "mean": statistics.fmean(dice),
        "spread": statistics.pstdev(dice),
        "best": max(dice),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    data = resolve_root(DataConfig(name="kvasir", image_size=(chosen.size, chosen.size), intensity="zscore"))
    train, search = (load_split(data, split, default_cache_dir()) for split in ("train", "search"))
    model = ModelConfig(embed_dim=chosen.dim)
    space = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), model.depths)
    print(f"{len(train)} images of {chosen.size}×{chosen.size}, C = {chosen.dim}, {chosen.epochs} epochs; scores on")
    print(f"{len(search)} images: Dice of {len(space.choices)} fixed and {SLICINGS} sampled slicings\n")
    print("| weights | sampling | M weights | updates a choice | training loss | mean Dice | spread | best | CPU s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    sharings: tuple[WeightSharing, ...] = ("shared", "separate")
    samplings: tuple[Sampling, ...] = ("uniform", "fair")
    for sharing, sampling in product(sharings, samplings):
        rows = []
        for seed in range(chosen.seeds):
            config = TrainConfig(
                epochs=chosen.epochs,
                batch_size=6,
                learning_rate=4e-3,
                t_max=chosen.epochs,
                clip_grad_norm=1.0,
                validate_every=chosen.epochs,
                seed=seed,
            )
            rows.append(one(model, space, train, search, sampling, sharing, config))
        values = {name: [row[name] for row in rows] for name in rows[0]}
        cells = [f"{statistics.fmean(v):.4f} ± {statistics.pstdev(v):.4f}" for v in map(values.get, SHOWN) if v]
        updates = f"{min(values['fewest']):.0f}–{max(values['most']):.0f}"
        seconds = f"{statistics.fmean(values['seconds']):.0f}"
        print(
            f"| {sharing} | {sampling} | {values['parameters'][0]:.2f} | {updates} | {' | '.join(cells)} | {seconds} |",
            flush=True,
        )


SHOWN = ("loss", "mean", "spread", "best")


if __name__ == "__main__":
    main()
