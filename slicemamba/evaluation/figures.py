"""Predictions beside masks, as pictures: one file an image, a grid for a paper, and how the scores are spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from slicemamba.data.base import SegmentationData
from slicemamba.data.reading import IGNORED
from slicemamba.errors import InputError, name_some
from slicemamba.evaluation.drawing import (
    AGREEMENT_COLOUR,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Colour,
    Pixels,
    class_colour,
    draw_outlines,
    enlarge,
    enlargement,
    outline,
    paint,
    paint_agreement,
    proportioned,
    tile,
)
from slicemamba.evaluation.evaluate import Evaluation
from slicemamba.evaluation.per_image import foreground_dice
from slicemamba.files import file_name, save_figure, writing
from slicemamba.text import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 4
_SPACER = 0.08  # between the two halves of a grid, in widths of a picture
_ERROR: Colour = (255, 255, 255)
_IGNORED_COLOUR: Colour = (110, 110, 110)


def save_predictions(folder: Path, data: SegmentationData, scored: Evaluation, limit: int = 16) -> list[Path]:
    """Writes one picture an image, worst first, and ``predictions.png``, a grid of them with a legend.

    Files are named ``<rank>_<name>_dice<score>.png``; see ``comparison`` for what they show. Those of an earlier call,
    as of another network, are removed.

    Args:
        folder: made where absent.
        data, scored: a split and what ``evaluate`` returned for it.
        limit: pictures written; the worst and the best halves of them when the split holds more.

    Returns:
        The written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("[0-9]*_*_dice[01].[0-9][0-9][0-9].png"):
        earlier.unlink()
    dice = foreground_dice(scored.counts)
    ranked = np.argsort(dice, kind="stable")
    if len(ranked) > limit:
        best = limit // 2  # of an odd number, one more of the worst
        ranked = np.concatenate([ranked[: limit - best], ranked[len(ranked) - best :]])
    files = []
    for rank, i in enumerate(ranked):
        row = tile(panels(data, scored, i), columns=3, gap=_GAP)
        file = folder / file_name(f"{rank:02d}_{data.names[i]}", f"_dice{dice[i]:.3f}.png")
        with writing(file) as draft:
            Image.fromarray(row).save(draft)
        files.append(file)
    overview = folder / "predictions.png"
    save_figure(plot_grid(data, scored, ranked.tolist()), overview, dpi=110)
    return [*files, overview]


def save_figures(
    folder: Path, data: SegmentationData, scored: Evaluation, *, cases: Sequence[str] = (), limit: int = 16
) -> list[Path]:
    """Writes ``cases/`` (see ``save_predictions``), ``grid`` of chosen cases and ``scores``, both as PNG and PDF.

    Args:
        folder: made where absent.
        data, scored: as for ``save_predictions``.
        cases: names of images for the grid, in its order; by default five from the worst to the best.
        limit: pictures in ``cases/``.

    Raises:
        InputError: the split has no image of such a name.
    """
    check_cases(data, cases)
    chosen = _chosen(data, scored, cases)
    files = save_predictions(folder / "cases", data, scored, limit)
    for name, figure in (("grid", plot_grid(data, scored, chosen)), ("scores", plot_scores(data, scored))):
        for suffix in (".png", ".pdf"):
            files.append(folder / (name + suffix))
            save_figure(figure, files[-1], dpi=150)
    return files


def panels(data: SegmentationData, scored: Evaluation, index: int) -> list[Pixels]:
    """The three pictures of an image, in its own proportions; see ``comparison``."""
    inside = data.inside(index)
    drawn = comparison(
        data.picture(index), np.asarray(data.masks[index][inside]), scored.labels[index][inside], data.num_classes
    )
    return [proportioned(one, data.proportion(index)) for one in drawn]


def comparison(image: Pixels, truth: Pixels, prediction: Pixels, num_classes: int) -> list[Pixels]:
    """image (H, W, 3), truth and prediction (H, W) labels → [image with outlines, truth, prediction with errors].

    Binary: yellow is the truth and blue the prediction. On the image both are outlined; beside the truth in white, the
    prediction is white where they agree, blue where it marks too much and yellow where it misses. Label tasks: every
    class has its colour; the image bears the outlines of the truth, and white lines surround what is wrong in the
    prediction. Ignored pixels are grey beside the truth and bear no prediction. Small images are enlarged by a whole
    factor to a side of at least 256 pixels.
    """
    factor = enlargement(truth.shape)
    ignored = enlarge(truth == IGNORED, factor)
    truth, prediction = (np.where(truth == IGNORED, np.uint8(0), labels) for labels in (truth, prediction))
    image, truth, prediction = (enlarge(a, factor) for a in (image, truth, prediction))
    if num_classes == 1:
        drawn = draw_outlines(draw_outlines(image, truth, TRUTH_COLOUR), prediction, PREDICTION_COLOUR)
        return [drawn, _greyed(paint_agreement(truth, truth), ignored), paint_agreement(truth, prediction)]
    marked = paint(prediction)
    marked[outline((truth != prediction).astype(np.uint8), width=1)] = _ERROR
    return [draw_outlines(image, truth), _greyed(paint(truth), ignored), marked]


def _greyed(picture: Pixels, where: npt.NDArray[np.bool_]) -> Pixels:
    picture[where] = _IGNORED_COLOUR
    return picture


def plot_grid(data: SegmentationData, scored: Evaluation, indices: Sequence[int]) -> Figure:
    """Rows of image | truth | prediction with name and Dice; two images a row when there are many."""
    from matplotlib.figure import Figure

    side_by_side = 2 if len(indices) > 6 else 1
    lines = -(-len(indices) // side_by_side)
    cell = 1.7
    tallest = max(1 / data.proportion(i) for i in indices)
    size = (
        cell * (3 * side_by_side + _SPACER * (side_by_side - 1)) + 0.2,
        lines * (cell * tallest + 0.22) + 0.5,
    )
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.015, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    widths = ([1, 1, 1, _SPACER] * side_by_side)[:-1]
    axes = figure.subplots(lines, len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set_axis_off()
    dice = foreground_dice(scored.counts)
    for place, i in enumerate(indices):
        line, first = place // side_by_side, place % side_by_side * 4
        for axis, picture in zip(axes[line, first : first + 3], panels(data, scored, i), strict=True):
            axis.imshow(picture, interpolation="nearest")
        axes[line, first].set_title(figure_text(_short(data.names[i])), fontsize=7, loc="left", pad=2)
        axes[line, first + 2].set_title(f"Dice {dice[i]:.3f}", fontsize=7, loc="right", pad=2)
        if line == 0:
            axes[line, first + 1].set_title("truth", fontsize=7, pad=2)
            axes[line, first + 2].set_title("prediction", fontsize=7, pad=2)
    _legend(figure, data, scored)
    return figure


def plot_scores(data: SegmentationData, scored: Evaluation) -> Figure:
    """Histogram of the images' Dice, with its mean and median, and how many images lie below each value."""
    from matplotlib.figure import Figure

    dice = foreground_dice(scored.counts)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(dice, bins=np.linspace(0, 1, 21).tolist(), color="#0072b2", edgecolor="white")
    for value, style, name in ((dice.mean(), "-", "mean"), (float(np.median(dice)), "--", "median")):
        left.axvline(value, color="#d55e00", linestyle=style, label=f"{name} {value:.3f}")
    left.set(xlabel="Dice of an image", ylabel="images", xlim=(0, 1))
    left.yaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    right.step([0, *np.sort(dice)], np.arange(len(dice) + 1) / len(dice), where="post", color="#0072b2")
    right.set(xlabel="Dice of an image", ylabel="share of images at or below", xlim=(0, 1), ylim=(0, 1))
    right.grid(alpha=0.3)
    figure.suptitle(f"{data.split}, {len(dice)} images", fontsize=10)
    return figure


def check_cases(data: SegmentationData, cases: Sequence[str]) -> None:
    """Raises InputError where the split has no image of such a name."""
    unknown = [name for name in cases if name not in data.names]
    if unknown:
        raise InputError(
            f"the split {data.split} has no image named {name_some(unknown)}; it has {name_some(list(data.names))}"
        )


def _chosen(data: SegmentationData, scored: Evaluation, cases: Sequence[str]) -> list[int]:
    if cases:
        return [data.names.index(name) for name in cases]
    ranked = np.argsort(foreground_dice(scored.counts), kind="stable")
    places = np.unique(np.linspace(0, len(ranked) - 1, min(5, len(ranked))).round().astype(int))
    chosen: list[int] = ranked[places].tolist()
    return chosen


def _legend(figure: Figure, data: SegmentationData, scored: Evaluation) -> None:
    from matplotlib.patches import Patch

    if data.num_classes == 1:
        entries = [
            ("truth; missed by the prediction", TRUTH_COLOUR),
            ("prediction; marked wrongly", PREDICTION_COLOUR),
            ("both agree", AGREEMENT_COLOUR),
        ]
    else:
        shown = np.union1d(np.unique(data.masks[data.masks != IGNORED]), np.unique(scored.labels))
        entries = [(f"class {label}", class_colour(int(label))) for label in shown if label > 0]
        entries.append(("outline: wrong", _ERROR))
    if (data.masks == IGNORED).any():
        entries.append(("not scored", _IGNORED_COLOUR))
    patches = [
        Patch(facecolor=f"#{red:02x}{green:02x}{blue:02x}", edgecolor="0.3", label=name)
        for name, (red, green, blue) in entries
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(3, len(patches)), fontsize=7, frameon=False)


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
