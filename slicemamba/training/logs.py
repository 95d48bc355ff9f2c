"""What a training leaves for people: TensorBoard scalars as it goes, and its curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicemamba.files import save_figure
from slicemamba.text import figure_text
from slicemamba.training.trainer import EpochReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS, SCORE, BEST = "#0072b2", "#009e73", "#d55e00"


class TensorBoardLog:
    """Scalars of one training, an epoch a step.

    Args:
        folder: of the event files. A training that goes on after a stop writes another file into it, which tells
            TensorBoard to forget what earlier ones hold of the epochs that are run again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None  # opened with the first epoch, whose number it must know

    def add(self, report: EpochReport) -> None:
        """Writes ``loss``, ``learning_rate``, ``seconds`` and ``val_…`` of an epoch."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=report.epoch)  # type: ignore[no-untyped-call]
        values = report.flat()
        for name in ("loss", "learning_rate", "seconds", *(name for name in values if name.startswith("val_"))):
            self._writer.add_scalar(name, values[name], report.epoch)
        self._writer.flush()


def plot_training(path: Path, curves: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> None:
    """Writes a picture with a row for each training: its loss, and its validation score with the best one marked.

    Args:
        path: PNG to write.
        curves: of each training its name, the name of its score (``val_dice``), and its epoch reports, flat.
    """
    from matplotlib.figure import Figure  # workers keep scalars and draw nothing; it takes a second to load

    figure = Figure(figsize=(10, 3.4 * len(curves)), layout="constrained")
    rows = figure.subplots(len(curves), 2, squeeze=False, sharex="row")
    for (name, score, epochs), (left, right) in zip(curves, rows, strict=True):
        _plot(left, epochs, "loss", LOSS)
        ending = " (stopped early)" if epochs[-1].get("stopped_early") else ""
        left.set_title(f"{figure_text(name)}: training loss{ending}")
        validated = [row for row in epochs if row.get(score) is not None]
        _plot(right, validated, score, SCORE)
        if not validated:  # all of a network that gives values which are not finite
            right.set_title(f"{figure_text(name)}: {score} is nowhere finite")
            continue
        best = max(validated, key=lambda row: row[score])
        right.plot(best["epoch"], best[score], "*", color=BEST, markersize=12, zorder=3)
        right.set_title(f"{figure_text(name)}: {score}, best {best[score]:.4f} in epoch {best['epoch']}")
    save_figure(figure, path, dpi=150)


def _plot(axes: Axes, epochs: Sequence[Mapping[str, Any]], column: str, colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) <= 30 else None
    axes.plot([row["epoch"] for row in epochs], [row[column] for row in epochs], color=colour, marker=marker, ms=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel(column)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
