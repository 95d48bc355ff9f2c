"""A search whose outcome is known: a small space, evaluated in full with a supernet trained on real data.

``python -m benchmarks.testbed make`` trains the supernet on Kvasir-SEG (its folder in SLICEMAMBA_DATA) and writes the
scores of all 4096 slicings to ``tests/assets/testbed_kvasir.json``; some ten minutes on one core.
``python -m benchmarks.testbed compare --out DIR`` runs all searchers on that table and on synthetic landscapes of the
same size, over many seeds, one candidate after the other and without the fixed slicings, and writes ``searchers.csv``
(means with 95 % intervals), ``searchers.png`` and ``searchers.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from nas.config import SearchConfig, SearcherName, SpaceConfig
from nas.evaluator import Evaluator
from nas.objectives import loss_matrix
from nas.pareto import ParetoFront, hypervolume
from nas.sampling import PathSampler
from nas.searchers import make_searcher
from nas.space import SearchSpace
from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.models.supernet import Supernet
from slicemamba.training.trainer import EpochReport, fit

Losses = npt.NDArray[np.float64]
Results = dict[str, dict[str, Losses]]  # of each task and searcher what is missing, (seeds, budgets)

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

        fit(supernet, train, TRAIN, validate=dict, on_epoch=show, draw=PathSampler(space, "uniform", TRAIN.seed))
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


@dataclass(frozen=True, eq=False)
class Landscape:
    """A space with the losses of each of its architectures.

    Attributes:
        losses: of the architecture with these genes, one an objective.
        best: the least loss of the first objective in the whole space.
        reference, whole: reference point by the rule of ``nas.study.reference_point``, and the hypervolume of the whole
            space from there; with several objectives.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    losses: Callable[[Sequence[int]], Losses]
    best: float
    reference: Losses
    whole: float

    def search(self, config: SearchConfig) -> Losses:
        """Losses of what a search evaluates, in its order: one after the other, no fixed slicings first."""
        searcher, known, rows = make_searcher(config, self.space), set(), []
        for _ in range(config.num_trials):
            architecture = searcher.ask(known)
            assert architecture is not None  # with nothing under way, every searcher has a proposal
            rows.append(self.losses(self.space.encode(architecture)))
            known.add(architecture)
            values = zip(self.objectives, rows[-1].tolist(), strict=True)
            searcher.tell(architecture, {o: v if o == "hd95" else -v for o, v in values})
        return np.array(rows)

    def missing(self, rows: Losses) -> Losses:
        """After each evaluation, how much is missing: with one objective the regret, the distance of the best found to
        the best there is; with more, the share of the whole space's hypervolume that is not covered.
        """
        if len(self.objectives) == 1:
            return np.minimum.accumulate(rows[:, 0]) - self.best
        front, covered = ParetoFront(len(self.objectives), self.reference), []
        for row in rows:
            front.add(row)
            covered.append(front.hypervolume)
        return 1 - np.array(covered) / self.whole


def _enumerated(space: SearchSpace, objectives: tuple[str, ...], everything: Losses) -> Landscape:
    """Of the losses of all architectures, (size, objectives), the last block's choice counting fastest."""
    shape = (len(space.choices),) * space.num_blocks
    fixed = everything[[np.ravel_multi_index(space.encode(a), shape) for a in space.fixed()]].max(axis=0)
    reference = fixed + 0.1 * np.abs(fixed)
    return Landscape(
        space,
        objectives,
        lambda genes: everything[np.ravel_multi_index(tuple(genes), shape)],
        float(everything[:, 0].min()),
        reference,
        hypervolume(everything, reference) if len(objectives) > 1 else 0.0,
    )


def read_table(objectives: tuple[str, ...]) -> Landscape:
    """The table of ``make``."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    scores = [dict(zip(table["scores"], row, strict=True)) for row in zip(*table["scores"].values(), strict=True)]
    depths = ModelConfig.model_validate(table["model"]).depths
    choices = SpaceConfig.model_validate(table["space"]).choices
    return _enumerated(SearchSpace(choices, depths), objectives, loss_matrix(scores, objectives))


def draw_landscape(
    objectives: tuple[str, ...], depths: tuple[int, ...], interactions: int, rng: np.random.Generator
) -> Landscape:
    """A random landscape (Kauffman's NK model with adjacent neighbours): the loss is the mean over the blocks of a
    uniformly random number for the choices of the block and of the ``interactions`` next ones; with none, blocks add
    up.
    """
    space = SearchSpace(CHOICES.choices, depths)
    ends = [min(block + interactions + 1, space.num_blocks) for block in range(space.num_blocks)]
    parts = [
        [rng.random((len(space.choices),) * (end - block)) / space.num_blocks for block, end in enumerate(ends)]
        for _ in objectives
    ]

    def losses(genes: npt.ArrayLike) -> Losses:
        rows = np.asarray(genes)
        columns = [
            sum(part[tuple(rows[i:end])] for i, (part, end) in enumerate(zip(own, ends, strict=True))) for own in parts
        ]
        return np.stack(columns, axis=-1)

    if space.num_blocks <= MODEL_BLOCKS:
        return _enumerated(
            space,
            objectives,
            losses(np.indices((len(space.choices),) * space.num_blocks).reshape(space.num_blocks, -1)),
        )
    if len(objectives) > 1:
        raise ValueError("the hypervolume of a space too large to enumerate is not known")
    return Landscape(space, objectives, losses, _least(parts[0], interactions), np.zeros(1), 0.0)


def _least(parts: list[Losses], interactions: int) -> float:
    """The least sum of the parts, by dynamic programming from the last block to the first."""
    rest = np.zeros(())
    for part in reversed(parts):  # the rest by the choices of this block and the next ones
        total = part + rest
        rest = total.min(axis=-1) if total.ndim > interactions else total
    return float(rest.min())


SEARCHERS: tuple[str, ...] = get_args(SearcherName)
OURS = ("nsga2", "local", "regularized_evolution")
MODEL_BLOCKS = sum(MODEL.depths)
SMALL, PUBLISHED = MODEL.depths, ModelConfig().depths
TASKS: dict[str, tuple[tuple[str, ...], tuple[int, ...], int | None]] = {  # objectives, depths, interactions or table
    "Kvasir, mIoU": (("miou",), SMALL, None),
    "Kvasir, mIoU and HD95": (("miou", "hd95"), SMALL, None),
    "Kvasir, sensitivity and specificity": (("sensitivity", "specificity"), SMALL, None),
    "22 blocks, 2 interactions": (("miou",), PUBLISHED, 2),
    "6 blocks, 2 interactions, two objectives": (("miou", "hd95"), SMALL, 2),
    "6 blocks, 2 interactions": (("miou",), SMALL, 2),
    "22 blocks, separable": (("miou",), PUBLISHED, 0),
    "6 blocks, 4 interactions": (("miou",), SMALL, 4),
}
BUDGETS = (16, 32, 48, 64, 96, 128, 192, 256)


def run_one(work: tuple[str, str, int]) -> list[float]:
    """What is missing at each budget, of one searcher, task and seed; all with the published settings."""
    task, searcher, seed = work
    objectives, depths, interactions = TASKS[task]
    if interactions is None:
        landscape = read_table(objectives)
    else:
        landscape = draw_landscape(objectives, depths, interactions, np.random.default_rng([seed, interactions]))
    config = SearchConfig.model_validate(
        {"searcher": searcher, "objectives": objectives, "num_trials": BUDGETS[-1], "seed": seed}
    )
    missing = landscape.missing(landscape.search(config))
    return [float(missing[budget - 1]) for budget in BUDGETS]


def compare(out: Path, num_seeds: int, num_landscapes: int, searchers: Sequence[str], processes: int) -> None:
    """All searchers on the table with the same seeds, and on the same random landscapes, one a seed.

    TPE, some ten times slower than the others, runs on the table only. What was run into ``out`` before is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "runs.json"
    runs: dict[str, list[list[float]]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for task, searcher in sorted(product(TASKS, searchers), key=lambda work: work[1] == "tpe"):  # the slow one last
            on_table, name = TASKS[task][2] is None, f"{task}: {searcher}"
            if name in runs or (searcher == "tpe" and not on_table):
                continue
            seeds = range(num_seeds if on_table else num_landscapes)
            runs[name] = pool.map(run_one, [(task, searcher, seed) for seed in seeds], chunksize=1)
            kept.write_text(json.dumps(runs), encoding="utf-8")
            print(f"{name} {np.mean(runs[name], axis=0).round(4).tolist()}", flush=True)
    results = {task: {s: np.array(runs[f"{task}: {s}"]) for s in SEARCHERS if f"{task}: {s}" in runs} for task in TASKS}
    _write_csv(out / "searchers.csv", results)
    _plot(out / "searchers.png", results)
    (out / "searchers.md").write_text(_verdicts(results) + _tables(results), encoding="utf-8")


def _half_width(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half of the 95 % interval of the mean over seeds, (seeds, budgets) → (budgets,)."""
    width: npt.NDArray[np.float64] = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return width


def _write_csv(path: Path, results: Results) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "searcher", "evaluations", "seeds", "mean_missing", "half_width_95"])
        for task, searcher, runs in ((t, s, results[t][s]) for t in results for s in results[t]):
            for budget, mean, half in zip(BUDGETS, runs.mean(axis=0), _half_width(runs), strict=True):
                writer.writerow([task, searcher, budget, len(runs), f"{mean:.6f}", f"{half:.6f}"])


def _plot(path: Path, results: Results) -> None:
    figure = Figure(figsize=(16, 7.5), layout="constrained")
    for axes, (task, by_searcher) in zip(figure.subplots(2, len(TASKS) // 2).flat, results.items(), strict=True):
        for searcher, runs in by_searcher.items():
            mean, half = runs.mean(axis=0), _half_width(runs)
            style = {"color": f"C{SEARCHERS.index(searcher)}", "ls": "-" if searcher in OURS else "--"}
            axes.plot(BUDGETS, mean, lw=1.6, label=searcher, **style)
            axes.fill_between(BUDGETS, mean - half, mean + half, color=style["color"], alpha=0.15, lw=0)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("evaluations")
        axes.set_ylabel("regret" if len(TASKS[task][0]) == 1 else "share of hypervolume missing")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _verdicts(results: Results) -> str:
    """A Markdown table: where the 95 % interval of the paired difference lies on one side of 0, budget by budget."""
    text = f"| task | ours | against | {' | '.join(map(str, BUDGETS))} |\n"
    text += f"| --- | --- | --- |{' :---: |' * len(BUDGETS)}\n"
    for (task, runs), ours, other in product(results.items(), ("local", "nsga2"), ("evolution", "optuna_nsga2")):
        if ours in runs and other in runs:
            difference = runs[ours] - runs[other]
            bounds = zip(difference.mean(axis=0), _half_width(difference), strict=True)
            marks = ["better" if mean + half < 0 else "worse" if mean - half > 0 else "=" for mean, half in bounds]
            text += f"| {task} | {ours} | {other} | {' | '.join(marks)} |\n"
    return text


def _tables(results: Results) -> str:
    """A Markdown table a task: means, the best and all whose interval holds its mean in bold."""
    text = ""
    for task, by_searcher in results.items():
        what = "regret" if len(TASKS[task][0]) == 1 else "share of the hypervolume missing"
        num_seeds = len(next(iter(by_searcher.values())))
        text += f"\n**{task}** ({what} × 1000, mean of {num_seeds} seeds ± half the 95 % interval)\n\n"
        text += f"| searcher | {' | '.join(map(str, BUDGETS))} |\n| --- |{' ---: |' * len(BUDGETS)}\n"
        best = np.min([runs.mean(axis=0) for runs in by_searcher.values()], axis=0)
        for searcher, runs in by_searcher.items():
            cells = []
            for mean, half, least in zip(runs.mean(axis=0), _half_width(runs), best, strict=True):
                cell = f"{1000 * mean:.1f} ± {1000 * half:.1f}"
                cells.append(f"**{cell}**" if mean - half <= least else cell)
            text += f"| {searcher} | {' | '.join(cells)} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("make", "compare"))
    parser.add_argument("--out", type=Path, default=Path("testbed-output"))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--landscapes", type=int, default=50)
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=SEARCHERS)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.command == "make":
        make()
    else:
        compare(chosen.out, chosen.seeds, chosen.landscapes, chosen.searchers, chosen.processes)


if __name__ == "__main__":
    main()
