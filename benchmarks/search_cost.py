"""Times a search's evaluations: the published loop against ours, on the same candidates, network and weights.

``python -m benchmarks.search_cost`` prints a Markdown table. It trains a small supernet on the Kvasir images in
SLICEMAMBA_DATA, then runs the same evolution search with each way of evaluating:

- published: for each candidate, every image and mask is decoded from its file and resized by a data loader made for it,
  all images are run, and a confusion matrix is made on the CPU from the pixels. (The published search augments at
  random and drops the last batch too; both are left out, so that all ways measure the same.)
- ours, with the savings added one after the other: images kept ready and counts on the device; activations reused;
  racing; several worker processes.

The seed is the same, so the candidates are the same unless racing changes who becomes a parent. ``--counts`` keeps the
pixel counts of all candidates, of which tests/nas/kvasir_counts.npz is a part.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from optuna.storages import InMemoryStorage
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from nas.config import RacingConfig, SearchConfig
from nas.evaluator import CandidateEvaluation, Evaluator
from nas.racing import Leaders
from nas.sampling import PathSampler
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.space import SearchSpace
from nas.study import Study, Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture, SliceSize
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import resolve_root
from slicemamba.data.reading import resize_image, resize_mask
from slicemamba.data.splits import split_pairs
from slicemamba.data.transforms import to_input
from slicemamba.models.conv_skeleton import Features
from slicemamba.models.supernet import Supernet
from slicemamba.training.trainer import fit

Counts = npt.NDArray[np.uint32]
Evaluate = Callable[[Architecture, list[Counts], list[Counts]], Any]
Start = Callable[[Architecture, list[Counts], list[Counts]], "Future[Any]"]
Parts = tuple[DataConfig, tuple[str, ...]]


class Files(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks from their files, decoded and resized each time."""

    def __init__(self, config: DataConfig, splits: Sequence[str]) -> None:
        assert config.root is not None
        pairs = split_pairs(config.root, config)
        self._pairs = [pair for split in splits for pair in pairs[split]]
        self._config = config

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair, config = self._pairs[index], self._config
        with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
            pixels = resize_image(np.array(image.convert("RGB")), config.image_size)
            labels = resize_mask((np.array(mask.convert("L")) > 127).astype(np.uint8), config.image_size)
        return to_input(pixels[None], config.intensity)[0], torch.from_numpy(labels.copy())


@torch.inference_mode()
def published(supernet: Supernet, files: Files, batch_size: int, architecture: Architecture) -> dict[str, float]:
    """Scores of a slicing as the published search takes them."""
    predictions, truths = [], []
    for images, masks in DataLoader(files, batch_size=batch_size):
        predictions.append((supernet(images, architecture)[:, 0].sigmoid() > 0.5).numpy().ravel())
        truths.append(masks.numpy().ravel() > 0)
    counts = confusion_matrix(np.concatenate(truths), np.concatenate(predictions), labels=[False, True])
    (_, fp), (fn, tp) = counts.tolist()
    return {"miou": tp / (tp + fp + fn), "dice": 2 * tp / (2 * tp + fp + fn)}


@dataclass
class Run:
    """One way of evaluating, and what it took; ``blocks`` counts each block's runs, once an image, where known."""

    name: str
    wall: float = 0.0
    cpu: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    counts: dict[int, Counts] = field(default_factory=dict)
    blocks: npt.NDArray[np.int64] | None = None


def search(name: str, config: SearchConfig, space: SearchSpace, start: Start, workers: int = 1) -> Run:
    """Runs a search; ``start`` begins to evaluate a trial, given the counts that it races against."""
    run = Run(name)
    study = Study(InMemoryStorage(), name, space, config.objectives, config.searcher)
    session = SearchSession(
        study,
        make_searcher(config, space),
        origin=config.searcher,
        num_trials=config.num_trials,
        enqueue=space.fixed(),
        leaders=Leaders(config) if config.racing else None,
    )
    began = time.perf_counter(), cpu_seconds()
    pending: dict[Future[Any], Trial] = {}
    while not session.finished:
        while len(pending) < workers and (trial := session.ask()) is not None:
            raced = [[run.counts[number] for number in numbers] for numbers in (trial.reference, trial.peers)]
            pending[start(Architecture.parse(trial.architecture), *raced)] = trial
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            trial, result = pending.pop(future), future.result()
            if isinstance(result, dict):
                session.tell(trial.number, result)
                continue
            run.counts[trial.number] = result.counts
            if result.pruned:
                session.prune(trial.number, None, result.work)
            else:
                session.tell(trial.number, result.metrics, None, result.work)
    run.wall, run.cpu = time.perf_counter() - began[0], cpu_seconds() - began[1]
    run.trials = study.trials()
    return run


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started, ended or not."""
    process = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def at_once(evaluate: Evaluate) -> Start:
    """Evaluates in this process, before it returns."""

    def start(architecture: Architecture, references: list[Counts], peers: list[Counts]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(evaluate(architecture, references, peers))
        return future

    return start


def counting_blocks(supernet: Supernet, run: Callable[[], Run]) -> Run:
    """The run with its ``blocks``."""
    blocks = np.zeros(sum(supernet.config.depths), dtype=np.int64)
    advance = supernet.advance

    def counted(features: Features, block: int, slice_size: SliceSize) -> Features:
        blocks[block] += len(features.x)
        return advance(features, block, slice_size)

    supernet.advance = counted  # type: ignore[method-assign]
    done = run()
    supernet.advance = advance  # type: ignore[method-assign]
    done.blocks = blocks
    return done


_evaluator: list[Evaluator] = []  # of a worker process


def open_worker(model: ModelConfig, weights: Path, space: SearchSpace, parts: Parts, config: SearchConfig) -> None:
    torch.set_num_threads(1)
    _evaluator.append(Evaluator(loaded(model, space, weights), load_parts(parts), config))


def evaluate_in_worker(
    architecture: Architecture, references: list[Counts], peers: list[Counts]
) -> CandidateEvaluation:
    return _evaluator[0].score(architecture, references, peers)


def block_flops(supernet: Supernet, space: SearchSpace, size: tuple[int, int]) -> tuple[npt.NDArray[np.float64], float]:
    """FLOPs of each block, with what stands around it, and of what is outside all blocks, for one image."""
    network = supernet.extract(space.fixed()[0])
    each = []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            features = network.embed(torch.zeros(1, 3, *size))
        outside = counter.get_total_flops()
        for block, slice_size in enumerate(space.fixed()[0].blocks()):
            with FlopCounterMode(display=False) as counter:
                features = network.advance(features, block, slice_size)
            each.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            network.logits(features, size)
    return np.array(each, dtype=np.float64), float(outside + counter.get_total_flops())


def load_parts(parts: Parts) -> SegmentationData:
    """Several splits as one."""
    config, splits = parts
    loaded = [load_split(config, split, default_cache_dir()) for split in splits]
    return SegmentationData(
        np.concatenate([part.images for part in loaded]),
        np.concatenate([part.masks for part in loaded]),
        tuple(name for part in loaded for name in part.names),
        "search",
        config.num_classes,
        config.intensity,
    )


def train(model: ModelConfig, space: SearchSpace, data: SegmentationData, epochs: int, path: Path) -> None:
    """Trains a supernet and writes its weights."""
    torch.manual_seed(0)
    supernet = Supernet(model, 1, space.choices, "separate")
    config = TrainConfig(
        epochs=epochs, batch_size=6, learning_rate=4e-3, t_max=epochs, validate_every=epochs, clip_grad_norm=1.0
    )
    sampler = PathSampler(space, "fair", config.seed)
    fit(supernet, data, config, validate=dict, on_epoch=lambda report, state: None, draw=sampler)
    torch.save(supernet.state_dict(), path)


def loaded(model: ModelConfig, space: SearchSpace, path: Path) -> Supernet:
    supernet = Supernet(model, 1, space.choices, "separate").eval().requires_grad_(False)
    supernet.load_state_dict(torch.load(path, weights_only=True))
    return supernet


def falsely_pruned(run: Run, evaluator: Evaluator) -> int:
    """How many of the candidates given up would have scored better than what they were raced against."""
    done = {trial.number: trial for trial in run.trials}
    wrong = 0
    for trial in run.trials:
        if trial.state is TrialState.PRUNED:
            miou = evaluator(Architecture.parse(trial.architecture))["miou"]
            wrong += miou > min(done[number].metrics["miou"] for number in trial.reference)
    return wrong


def on_the_published_scan(evaluate: Evaluate, space: SearchSpace) -> float:
    """CPU seconds of one candidate with the scan that walks through every position, as the published code's does."""
    os.environ["SLICEMAMBA_SCAN"] = "reference"
    began = cpu_seconds()
    evaluate(space.fixed()[0], [], [])
    del os.environ["SLICEMAMBA_SCAN"]
    return cpu_seconds() - began


def table(runs: list[Run], num_images: int, flops: tuple[npt.NDArray[np.float64], float]) -> None:
    each, outside = flops
    first, best = runs[0], pareto_front(runs[0].trials, ("miou", "dice"))[0]
    heads = ("evaluation", "wall s", "CPU s", "ratio, wall", "ratio, CPU", "blocks run", "FLOPs", "pruned", "best mIoU")
    print("| " + " | ".join((*heads, "its slicing")) + " |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for run in runs:
        images = sum(trial.work.get("images", num_images) for trial in run.trials)
        naive = num_images * len(run.trials)
        computed = sum(trial.work.get("blocks_computed", len(each) * num_images) for trial in run.trials)
        share = (
            "–"
            if run.blocks is None
            else f"{(each @ run.blocks + outside * images) / naive / (each.sum() + outside):.2f}"
        )
        found = pareto_front(run.trials, ("miou", "dice"))[0]
        print(
            f"| {run.name} | {run.wall:.1f} | {run.cpu:.1f} | {first.wall / run.wall:.1f} | {first.cpu / run.cpu:.1f} "
            f"| {computed / len(each) / naive:.2f} | {share} "
            f"| {sum(trial.state is TrialState.PRUNED for trial in run.trials)} | {found.metrics['miou']:.6f} "
            f"| {'the same' if found.architecture == best.architecture else 'another'} |"
        )


def blocks_over_time(run: Run, num_blocks: int, num_images: int) -> None:
    """Prints the share of blocks run over the first fifth of the candidates, the first two fifths, and so on."""
    computed = np.cumsum([trial.work["blocks_computed"] for trial in run.trials])
    print("| candidates | blocks run |\n| ---: | ---: |")
    for fifth in range(1, 6):
        count = len(computed) * fifth // 5
        print(f"| {count} | {computed[count - 1] / (count * num_blocks * num_images):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--splits", nargs="+", default=["search", "val", "test"], help="candidates are scored on these")
    parser.add_argument("--workers", type=int, default=2, help="of the last row")
    parser.add_argument("--weights", type=Path, help="keep the trained supernet here, and take it from here")
    parser.add_argument("--only-reuse", action="store_true", help="only the share of blocks run, as the search goes on")
    parser.add_argument("--counts", type=Path, help="keep all candidates' pixel counts here (.npz)")
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))

    size = (chosen.size, chosen.size)
    data_config = resolve_root(DataConfig(name="kvasir", image_size=size, intensity="zscore"))
    model = ModelConfig(embed_dim=chosen.dim)
    space = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), model.depths)
    parts = (data_config, tuple(chosen.splits))
    data = load_parts(parts)
    weights = chosen.weights or Path(tempfile.mkdtemp()) / "supernet.pt"
    if not weights.exists():
        train(model, space, load_split(data_config, "train", default_cache_dir()), chosen.epochs, weights)
    supernet = loaded(model, space, weights)
    files = Files(data_config, chosen.splits)
    for i in range(len(data)):  # both ways get the same pixels
        image, mask = files[i]
        assert torch.equal(image, to_input(data.images[i : i + 1], data.intensity)[0])
        assert (mask.numpy() == data.masks[i]).all()

    plain = SearchConfig(num_trials=chosen.candidates, batch_size=chosen.batch, activation_cache_mb=0)
    reusing = plain.model_copy(update={"activation_cache_mb": 2048})
    racing = reusing.model_copy(update={"racing": RacingConfig()})

    def theirs(architecture: Architecture, references: list[Counts], peers: list[Counts]) -> dict[str, float]:
        return published(supernet, files, chosen.batch, architecture)

    def run(name: str, config: SearchConfig) -> Run:
        evaluator = Evaluator(supernet, data, config)
        return counting_blocks(supernet, lambda: search(name, config, space, at_once(evaluator.score)))

    if chosen.only_reuse:
        blocks_over_time(run("activations reused", reusing), sum(model.depths), len(data))
        return
    theirs(space.fixed()[0], [], [])  # to warm up
    runs = [
        counting_blocks(supernet, lambda: search("published loop", plain, space, at_once(theirs))),
        run("images ready, counts on the device", plain),
        run("… and activations reused", reusing),
        run("… and racing", racing),
    ]
    with ProcessPoolExecutor(
        chosen.workers, get_context("spawn"), open_worker, (model, weights, space, parts, racing)
    ) as pool:
        for future in [pool.submit(evaluate_in_worker, space.fixed()[0], [], []) for _ in range(2 * chosen.workers)]:
            future.result()  # the workers have started
        name = f"… and {chosen.workers} workers"
        runs.append(search(name, racing, space, partial(pool.submit, evaluate_in_worker), chosen.workers))

    print(
        f"{len(data)} images of {chosen.size}×{chosen.size}, C = {chosen.dim}, {chosen.candidates} candidates,", end=" "
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    table(runs, len(data), block_flops(supernet, space, size))
    named = [[trial.architecture for trial in each.trials] for each in runs]
    print(f"\nThe same candidates as the published loop: {', '.join(str(each == named[0]) for each in named[1:])}.")
    wrong = falsely_pruned(runs[3], Evaluator(supernet, data, reusing))
    print(f"Given up though they would have scored better than what they were raced against: {wrong}.")
    print(f"Published loop on the published scan: {on_the_published_scan(theirs, space):.1f} CPU s a candidate.")
    if chosen.counts is not None:
        np.savez_compressed(chosen.counts, counts=np.stack([runs[2].counts[i] for i in range(chosen.candidates)]))


if __name__ == "__main__":
    main()
