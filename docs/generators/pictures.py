"""The pictures of the concept pages: ``python -m docs.generators.pictures`` draws them anew into docs/images/concepts.

Orders, depths, fronts and hypervolumes come from the code that they explain, not from drawings by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from nas.config import SpaceConfig
from nas.pareto import hypervolume, pareto_mask
from nas.space import SearchSpace
from slicemamba.architecture import format_block
from slicemamba.config import ModelConfig
from slicemamba.ops.slicing import AXES, Axis, scan_orders, slice_order

FOLDER = Path(__file__).parents[1] / "images" / "concepts"
SIDE = 8
SIZES = ((1, 1), (2, 2), (2, 4), (4, 2))
# Okabe and Ito's, told apart by colour-blind readers; the same as in the reports.
BLUE, ORANGE, GREEN, GREY, PINK = "#0072b2", "#d55e00", "#009e73", "#999999", "#cc79a7"
TINTS = ("#dcecf7", "#fbe6d9")
TEXT = "#1a1a1b"


def slicing_orders() -> Figure:
    """Both slicings of an 8×8 map in four sizes, as the scan walks them."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    for row, axis in enumerate(AXES):
        for column, size in enumerate(SIZES):
            axes = figure.add_subplot(len(AXES), len(SIZES), row * len(SIZES) + column + 1)
            _walk(axes, slice_order(SIDE, SIDE, size, axis).numpy(), axis, size)
            along = f"{size[0]} row{'s' * (size[0] > 1)}" if row == 0 else f"{size[1]} column{'s' * (size[1] > 1)}"
            axes.set_title(f"{size[0]}×{size[1]}: {axis} slices of {along}", fontsize=10)
    return figure


def directions() -> Figure:
    """The four directions of one slicing, with the place of each position in the sequence."""
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    titles = ("horizontal slices", "the same reversed", "vertical slices", "the same reversed")
    for i, (order, title) in enumerate(zip(scan_orders(SIDE, SIDE, (2, 4)).numpy(), titles, strict=True)):
        axes = figure.add_subplot(1, 4, i + 1)
        _walk(axes, order, AXES[i // 2], (2, 4), line=0.8, alpha=0.45)
        for place, position in enumerate(order):
            axes.text(position % SIDE, position // SIDE, str(place), ha="center", va="center", fontsize=7, color=TEXT,
                      zorder=4)  # fmt: skip
        axes.set_title(f"{i + 1}. {title}", fontsize=10)
    return figure


def _walk(
    axes: Axes, order: np.ndarray, axis: Axis, size: tuple[int, int], line: float = 1.6, alpha: float = 1.0
) -> None:
    """The slices as tinted bands, and the path through their positions from a dot to an arrow."""
    thickness = size[0] if axis == "horizontal" else size[1]
    for number, start in enumerate(range(0, SIDE, thickness)):
        across = (SIDE, thickness) if axis == "horizontal" else (thickness, SIDE)
        corner = (-0.5, start - 0.5) if axis == "horizontal" else (start - 0.5, -0.5)
        axes.add_patch(Rectangle(corner, *across, facecolor=TINTS[number % 2], edgecolor="none", zorder=0))
    edges = np.arange(0.5, SIDE - 1)
    axes.hlines(edges, -0.5, SIDE - 0.5, color="white", linewidth=0.8, zorder=1)
    axes.vlines(edges, -0.5, SIDE - 0.5, color="white", linewidth=0.8, zorder=1)
    x, y = order % SIDE, order // SIDE
    near = np.hypot(np.diff(x), np.diff(y)) < 1.5  # other steps are jumps to the next line
    for chosen, color, width, style in ((near, BLUE, line, "-"), (~near, GREY, 0.7, (0, (3, 2)))):
        steps = np.full((3, len(near), 2), np.nan)  # start, end, and a gap
        steps[0, chosen], steps[1, chosen] = np.stack([x, y], 1)[:-1][chosen], np.stack([x, y], 1)[1:][chosen]
        drawn = steps.transpose(1, 0, 2)[chosen].reshape(-1, 2)
        axes.plot(*drawn.T, color=color, linewidth=width, linestyle=style, alpha=alpha, zorder=2)
    axes.plot(x[0], y[0], "o", color=GREEN, markersize=7 if alpha == 1 else 12, zorder=3, alpha=alpha)
    axes.plot(x[-1], y[-1], "s", color=ORANGE, markersize=7 if alpha == 1 else 12, zorder=3, alpha=alpha)
    axes.set(xlim=(-0.6, SIDE - 0.4), ylim=(SIDE - 0.4, -0.6), aspect="equal")
    axes.axis("off")


def block() -> Figure:
    """The S³ block: what happens to a map in it."""
    figure, axes = _canvas(11, 3.4)
    boxes = [
        (0.6, "LayerNorm"),
        (2.1, "Linear\nC → 2·D"),
        (3.6, "depthwise\n3×3, SiLU"),
        (5.5, "slice into m rows\nand n columns,\n4 directions"),
        (7.6, "selective scan\nof each, sum"),
        (9.3, "LayerNorm"),
        (10.7, "×"),
        (11.8, "Linear\nD → C"),
        (13.2, "+"),
    ]
    edges = []
    for x, text in boxes:
        scan = "slice" in text or "scan" in text
        width, height = (0.45, 0.45) if text in "×+" else (1.7 if scan else 1.2, 1.0)
        edges.append(_box(axes, x, 1.2, width, height, text, ORANGE if scan else BLUE))
    for (_, right), (left, _) in pairwise(edges):
        _arrow(axes, (right, 1.2), (left, 1.2))
    _arrow(axes, (-0.9, 1.2), (0.0, 1.2))
    _arrow(axes, (edges[-1][1], 1.2), (14.3, 1.2))
    axes.text(-0.95, 1.3, "map", ha="left", va="bottom", fontsize=9)
    _elbow(axes, 2.1, 0.7, 10.7, 0.97, -0.1, "gate: SiLU of the other half")
    _elbow(axes, -0.6, 1.2, 13.2, 1.43, 2.3, "what came in (with stochastic depth on the other way)")
    axes.set(xlim=(-1.1, 14.5), ylim=(-0.6, 2.8))
    return figure


def network() -> Figure:
    """The U shape with the published depths."""
    config = ModelConfig()
    figure, axes = _canvas(9.5, 5.0)
    levels = len(config.encoder_depths)
    left = [(1.6 + 1.25 * level, -1.2 * level) for level in range(levels)]
    right = [(13.4 - x, y) for x, y in left]
    for level, depth in enumerate(config.encoder_depths):
        _stage(axes, *left[level], depth, level + 1, level)
    for number, depth in enumerate(config.decoder_depths):
        _stage(axes, *right[levels - 1 - number], depth, levels + number + 1, levels - 1 - number)
    for level in range(levels - 1):
        _arrow(axes, (left[level][0], left[level][1] - 0.35), (left[level + 1][0], left[level + 1][1] + 0.35))
        _arrow(axes, (right[level + 1][0], right[level + 1][1] + 0.35), (right[level][0], right[level][1] - 0.35))
    _arrow(axes, (left[-1][0] + 0.95, left[-1][1]), (right[-1][0] - 0.95, right[-1][1]))
    for (start, y), (end, _) in zip(left[1:], right[1:], strict=False):
        _arrow(axes, (start - 0.15, y + 0.5), (end + 0.15, y + 0.5), color=GREEN, dashed=True)
    axes.text(6.7, left[1][1] + 0.57, "skip: what the stage gets, added", ha="center", fontsize=8, color=GREEN)
    for x, text in ((-0.9, "image\nH×W"), (14.3, "logits\nH×W")):
        axes.text(x, 0, text, ha="center", va="center", fontsize=9)
    _arrow(axes, (-0.4, 0), (0.65, 0))
    _arrow(axes, (12.75, 0), (13.8, 0))
    axes.text(0.12, 0.1, "4×4\npatches", ha="center", va="bottom", fontsize=7.5)
    axes.text(13.28, 0.1, "expand\n×4, head", ha="center", va="bottom", fontsize=7.5)
    axes.text(0.95, -0.75, "merge 2×2: half the size,\ntwice the channels", fontsize=7.5, va="center", ha="center")
    axes.text(12.4, -0.75, "expand ×2", fontsize=7.5, va="center", ha="center")
    axes.set(xlim=(-1.6, 15.0), ylim=(-4.1, 0.8))
    return figure


def _stage(axes: Axes, x: float, y: float, depth: int, number: int, level: int) -> None:
    channels = "C" if level == 0 else f"{2**level}·C"
    text = f"stage {number}: {depth} block{'s' * (depth > 1)}\n{channels} at 1/{4 * 2**level}"
    _box(axes, x, y, 1.9, 0.7, text, BLUE)


def supernet() -> Figure:
    """All choices of all blocks, one drawn path, and what one more draw shares with it."""
    model, choices = ModelConfig(), SpaceConfig().choices
    space = SearchSpace(choices, model.depths)
    rng = np.random.default_rng(3)
    path = np.array(space.encode(space.sample(rng)))
    other = path.copy()
    other[12:] = rng.integers(len(choices), size=len(path) - 12)
    figure, axes = _canvas(11, 2.9)
    for number in range(space.num_blocks):
        for row, choice in enumerate(choices):
            taken, also = row == path[number], row == other[number]
            color, width = (ORANGE, 1.4) if taken else (BLUE, 1.2) if also else ("#c4c4c8", 0.6)
            axes.add_patch(
                Rectangle((number - 0.36, -row - 0.3), 0.72, 0.6, facecolor=TINTS[1] if taken else "#f1f1f3",
                          edgecolor=color, linewidth=width)
            )  # fmt: skip
            axes.text(number, -row, format_block(choice), ha="center", va="center", fontsize=6.5, color=TEXT)
    axes.plot(range(len(path)), -path, color=ORANGE, linewidth=1.6, zorder=-1)
    axes.plot(range(11, len(path)), -other[11:], color=BLUE, linewidth=1.4, linestyle=(0, (3, 2)), zorder=-1)
    starts = np.cumsum([0, *model.depths])
    for stage, (start, end) in enumerate(pairwise(starts), 1):
        axes.text((start + end - 1) / 2, 0.75, f"stage {stage}", ha="center", fontsize=8)
        if start:
            axes.axvline(start - 0.5, ymin=0.12, ymax=0.94, color="#c4c4c8", linewidth=0.7)
    axes.text(0, -4.0, "one path: an architecture, one of 4²²", color=ORANGE, fontsize=9, ha="left", va="center")
    axes.text(21.4, -4.0, "another that begins alike starts where it differs", color=BLUE, fontsize=9, ha="right",
              va="center")  # fmt: skip
    axes.set(xlim=(-0.7, 21.7), ylim=(-4.4, 1.1))
    return figure


def search_loop() -> Figure:
    """Ask, evaluate, tell; and what makes it cheap and safe."""
    figure, axes = _canvas(10, 3.2)
    searcher = _box(axes, 1.5, 2.2, 2.4, 1.0, "searcher\nproposes a slicing", BLUE)
    study = _box(axes, 6.4, 2.2, 2.6, 1.0, "study\nwrites every trial down", GREEN)
    workers = _box(axes, 11.3, 2.2, 2.7, 1.0, "evaluating workers\nscore it with the\nsupernet's weights", ORANGE)
    _arrow(axes, (searcher[1], 2.45), (study[0], 2.45))
    _arrow(axes, (study[1], 2.45), (workers[0], 2.45))
    _arrow(axes, (workers[0], 1.95), (study[1], 1.95))
    _arrow(axes, (study[0], 1.95), (searcher[1], 1.95))
    for x, above, below in ((3.9, "ask", "tell"), (8.8, "evaluate", "metrics")):
        axes.text(x, 2.55, above, ha="center", va="bottom", fontsize=9)
        axes.text(x, 1.85, below, ha="center", va="top", fontsize=9)
    notes = [
        (1.5, "never proposes what was\nevaluated; its state follows\nfrom what it was told"),
        (6.4, "a stopped search goes on:\na new searcher is told the\nsame again, in the same order"),
        (11.3, "reuse: start at the first block\nthat differs from earlier ones\nracing: stop when it has lost"),
    ]
    for x, text in notes:
        axes.text(x, 1.5, text, ha="center", va="top", fontsize=8.5, color="#55555a")
    axes.text(
        1.5, 2.85, "first the fixed slicings\nand a warm start", ha="center", va="bottom", fontsize=8.5, color="#55555a"
    )
    axes.text(6.4, 2.85, "Pareto front, hypervolume", ha="center", va="bottom", fontsize=8.5, color="#55555a")
    axes.set(xlim=(-0.2, 13.0), ylim=(0.6, 3.4))
    return figure


def front() -> Figure:
    """A Pareto front of two objectives and the hypervolume that it dominates."""
    rng = np.random.default_rng(4)
    latency = rng.uniform(6, 14, 60)
    dice = 0.90 - 1.1 / latency - np.abs(rng.normal(0, 0.035, 60))
    rows = np.column_stack([-dice, latency])
    mask = pareto_mask(rows)
    worst = (-0.62, 14.5)
    best = rows[mask][np.argsort(rows[mask][:, 1])]
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    steps_x = np.append(np.repeat(best[:, 1], 2)[1:], worst[1])
    steps_y = np.repeat(-best[:, 0], 2)
    axes.fill_between(steps_x, steps_y, -worst[0], facecolor=TINTS[0], edgecolor=BLUE, label="hypervolume")
    axes.plot(steps_x, steps_y, color=BLUE, linewidth=1)
    axes.plot(rows[~mask][:, 1], -rows[~mask][:, 0], "o", color=GREY, markersize=4, label="dominated")
    axes.plot(best[:, 1], -best[:, 0], "o", color=ORANGE, markersize=6, label="Pareto front")
    axes.plot(worst[1], -worst[0], "x", color=TEXT, markersize=8, label="reference point")
    axes.set(xlabel="latency (ms) ↓", ylabel="Dice ↑", xlim=(5.5, 15), ylim=(0.6, 0.86))
    axes.set_title(
        f"{mask.sum()} of {len(rows)} dominated by none; hypervolume {hypervolume(rows, worst):.2f}", fontsize=9
    )
    axes.legend(loc="lower right", fontsize=8, frameon=False, bbox_to_anchor=(0.93, 0.08))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    return figure, axes


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> tuple[float, float]:
    """Draws a box around its middle and returns its left and right edge."""
    style = f"round,pad=0,rounding_size={0.12 * min(1.0, height)}"
    axes.add_patch(
        FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, facecolor="white",
                       edgecolor=color, linewidth=1.3)
    )  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=TEXT)
    return x - width / 2, x + width / 2


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = TEXT, dashed: bool = False
) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1.0, color=color, shrinkA=1,
                        shrinkB=1, linestyle=(0, (4, 2)) if dashed else "-")
    )  # fmt: skip


def _elbow(axes: Axes, x: float, y: float, end_x: float, end_y: float, via: float, text: str) -> None:
    """A line down or up, across, and back, with its name in the middle."""
    axes.plot([x, x, end_x], [y, via, via], color=TEXT, linewidth=1.0)
    _arrow(axes, (end_x, via), (end_x, end_y))
    axes.text((x + end_x) / 2, via + 0.08, text, ha="center", va="bottom", fontsize=8)


PICTURES: dict[str, Callable[[], Figure]] = {
    "slicing-orders.svg": slicing_orders,
    "directions.png": directions,
    "block.svg": block,
    "network.svg": network,
    "supernet.svg": supernet,
    "search-loop.svg": search_loop,
    "front.svg": front,
}


def draw(folder: Path = FOLDER) -> list[Path]:
    """Writes all pictures and returns their paths. One version of Matplotlib writes the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "slicemamba", "svg.fonttype": "none", "font.family": "sans-serif"}):
        for name, make in PICTURES.items():
            paths.append(folder / name)
            metadata = {"Date": None, "Creator": None} if name.endswith(".svg") else {"Software": None}
            make().savefig(paths[-1], metadata=metadata, facecolor="white", dpi=85)
    return paths


if __name__ == "__main__":
    for path in draw():
        print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size / 1000:.0f} kB")
