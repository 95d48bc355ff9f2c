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
from collections.abc import Sequence
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
from nas.searchers import make_searcher
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


@dataclass(frozen=True, eq=False)
class Landscape:
    """A space with the metrics of each of its architectures.

    Attributes:
        losses: (size, objectives), in the order of the space's genes, the last block's choice counting fastest.
        reference: of hypervolumes, by the rule of ``nas.study.reference_point``.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    losses: npt.NDArray[np.float64]

    @property
    def reference(self) -> npt.NDArray[np.float64]:
        fixed = self.losses[[self.index(self.space.encode(architecture)) for architecture in self.space.fixed()]]
        worst: npt.NDArray[np.float64] = fixed.max(axis=0)
        return worst + 0.1 * np.abs(worst)

    def index(self, genes: Sequence[int]) -> int:
        return int(np.ravel_multi_index(genes, (len(self.space.choices),) * self.space.num_blocks))

    def search(self, config: SearchConfig) -> npt.NDArray[np.int64]:
        """The rows that a search evaluates, in its order: one after the other, no fixed slicings first."""
        searcher, known, rows = make_searcher(config, self.space), set(), []
        for _ in range(config.num_trials):
            architecture = searcher.ask(known)
            assert architecture is not None  # with nothing under way, every searcher has a proposal
            rows.append(self.index(self.space.encode(architecture)))
            known.add(architecture)
            values = zip(self.objectives, self.losses[rows[-1]].tolist(), strict=True)
            searcher.tell(architecture, {o: v if o == "hd95" else -v for o, v in values})
        return np.array(rows)

    def progress(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """After each evaluation, how much is missing: with one objective the regret, the distance of the best found to
        the best there is; with more, the share of the whole space's hypervolume that is not covered.
        """
        if len(self.objectives) == 1:
            regret: npt.NDArray[np.float64] = np.minimum.accumulate(self.losses[rows, 0]) - self.losses.min()
            return regret
        front, covered = ParetoFront(len(self.objectives), self.reference), []
        for row in rows:
            front.add(self.losses[row])
            covered.append(front.hypervolume)
        return 1 - np.array(covered) / hypervolume(self.losses, self.reference)


def read_table(objectives: tuple[str, ...]) -> Landscape:
    """The table of ``make``."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    scores = [dict(zip(table["scores"], row, strict=True)) for row in zip(*table["scores"].values(), strict=True)]
    depths = ModelConfig.model_validate(table["model"]).depths
    choices = SpaceConfig.model_validate(table["space"]).choices
    return Landscape(SearchSpace(choices, depths), objectives, loss_matrix(scores, objectives))


def draw_landscape(objectives: tuple[str, ...], interactions: int, seed: int) -> Landscape:
    """A random landscape of the table's size (Kauffman's NK model): the loss is the mean over the blocks of a random
    number for the choices of the block and of ``interactions`` others; without any, blocks add up.
    """
    rng = np.random.default_rng([seed, interactions])
    space = SearchSpace(CHOICES.choices, MODEL.depths)
    num_blocks, num_choices = space.num_blocks, len(space.choices)
    genes = np.indices((num_choices,) * num_blocks).reshape(num_blocks, -1)
    losses = np.zeros((space.size, len(objectives)))
    for column, block in product(range(len(objectives)), range(num_blocks)):
        others = rng.permutation(np.delete(np.arange(num_blocks), block))[:interactions]
        parts = rng.random((num_choices,) * (1 + interactions))
        losses[:, column] += parts[tuple(genes[[block, *others]])] / num_blocks
    return Landscape(space, objectives, losses)


SEARCHERS: tuple[str, ...] = get_args(SearcherName)
OURS = ("nsga2", "local", "regularized_evolution")
ONE, TWO = ("miou",), ("miou", "hd95")
TASKS = {
    "Kvasir, mIoU": ("table", ("miou",)),
    "Kvasir, mIoU and HD95": ("table", ("miou", "hd95")),
    "Kvasir, sensitivity and specificity": ("table", ("sensitivity", "specificity")),
    "separable, one objective": (0, ONE),
    "separable, two objectives": (0, TWO),
    "epistatic (2), one objective": (2, ONE),
    "epistatic (2), two objectives": (2, TWO),
    "rugged (4), one objective": (4, ONE),
}
BUDGETS = (16, 32, 48, 64, 96, 128, 192, 256)


def run_one(work: tuple[str, str, int]) -> list[float]:
    """What is missing at each budget, of one searcher, task and seed; all with the published settings."""
    task, searcher, seed = work
    kind, objectives = TASKS[task]
    landscape = read_table(objectives) if kind == "table" else draw_landscape(objectives, int(kind), seed)
    config = SearchConfig.model_validate(
        {"searcher": searcher, "objectives": objectives, "num_trials": BUDGETS[-1], "seed": seed}
    )
    missing = landscape.progress(landscape.search(config))
    return [float(missing[budget - 1]) for budget in BUDGETS]


def compare(out: Path, num_seeds: int, searchers: Sequence[str], processes: int) -> None:
    """All searchers on all tasks with the same seeds; a synthetic landscape is drawn anew for each seed."""
    out.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for task, searcher in product(TASKS, searchers):
            runs = pool.map(run_one, [(task, searcher, seed) for seed in range(num_seeds)], chunksize=4)
            results[task, searcher] = np.array(runs)
            print(f"{task}: {searcher} {results[task, searcher].mean(axis=0).round(4).tolist()}", flush=True)
    _write_csv(out / "searchers.csv", results)
    _plot(out / "searchers.png", results, searchers)
    (out / "searchers.md").write_text(_tables(results, searchers, num_seeds), encoding="utf-8")


def _half_width(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half of the 95 % interval of the mean over seeds, (seeds, budgets) → (budgets,)."""
    width: npt.NDArray[np.float64] = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return width


def _write_csv(path: Path, results: dict[tuple[str, str], npt.NDArray[np.float64]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "searcher", "evaluations", "seeds", "mean_missing", "half_width_95"])
        for (task, searcher), runs in results.items():
            for budget, mean, half in zip(BUDGETS, runs.mean(axis=0), _half_width(runs), strict=True):
                writer.writerow([task, searcher, budget, len(runs), f"{mean:.6f}", f"{half:.6f}"])


def _plot(path: Path, results: dict[tuple[str, str], npt.NDArray[np.float64]], searchers: Sequence[str]) -> None:
    figure = Figure(figsize=(16, 7.5), layout="constrained")
    panels = figure.subplots(2, len(TASKS) // 2).flat
    for axes, task in zip(panels, TASKS, strict=True):
        for searcher in searchers:
            runs = results[task, searcher]
            mean, half = runs.mean(axis=0), _half_width(runs)
            (line,) = axes.plot(BUDGETS, mean, lw=1.6, ls="-" if searcher in OURS else "--", label=searcher)
            axes.fill_between(BUDGETS, mean - half, mean + half, color=line.get_color(), alpha=0.15, lw=0)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("evaluations")
        axes.set_ylabel("regret" if len(TASKS[task][1]) == 1 else "share of hypervolume missing")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _tables(results: dict[tuple[str, str], npt.NDArray[np.float64]], searchers: Sequence[str], num_seeds: int) -> str:
    """A Markdown table a task: means, the best and all within its interval in bold."""
    text = ""
    for task, (_, objectives) in TASKS.items():
        what = "regret" if len(objectives) == 1 else "share of the hypervolume missing"
        text += f"\n**{task}** ({what} × 1000, mean of {num_seeds} seeds ± half the 95 % interval)\n\n"
        text += f"| searcher | {' | '.join(map(str, BUDGETS))} |\n| --- |{' ---: |' * len(BUDGETS)}\n"
        best = [min(results[task, s].mean(axis=0)[b] for s in searchers) for b in range(len(BUDGETS))]
        for searcher in searchers:
            runs = results[task, searcher]
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
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=SEARCHERS)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.command == "make":
        make()
    else:
        compare(chosen.out, chosen.seeds, chosen.searchers, chosen.processes)


if __name__ == "__main__":
    main()
