"""A contact sheet: some images of each split with the outlines of their masks, to be looked at before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.catalog import SYNTHETIC, resolve_root
from slicemamba.data.reading import IGNORED, as_picture, read_pair
from slicemamba.data.splits import SPLITS, split_pairs
from slicemamba.data.synthetic import draw_lesion, split_size
from slicemamba.files import save_figure
from slicemamba.text import figure_text

# Bright enough for CT, and lost neither on skin nor on mucosa.
COLOURS = ("#ffd800", "#00b7ff", "#ff3ea5", "#2bdc5c", "#ff7a00", "#b07cff", "#00e5d0", "#ff4040")
THUMBNAIL = 300  # pixels of the longer side, about
Row = list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]


def write_contact_sheet(config: DataConfig, path: Path, *, per_split: int = 8) -> Path:
    """Writes a PNG with a row for each split: images at even distances in the order of their names, classes outlined.

    Args:
        config: a data set that has passed ``check_dataset``.
        path: the file; its folder is made where absent.
        per_split: images a split.

    Returns:
        ``path``.
    """
    rows = _rows(resolve_root(config), per_split)
    columns = max(len(row) for row, _ in rows.values())
    figure = Figure(figsize=(1.7 * columns + 0.4, 1.95 * len(rows) + 0.3), layout="constrained", dpi=110)
    grid = np.atleast_2d(figure.subplots(len(rows), columns, squeeze=False))
    for axes, (split, (row, count)) in zip(grid, rows.items(), strict=True):
        for place in axes:
            place.set(xticks=[], yticks=[], frame_on=False)
        axes[0].set_ylabel(f"{split}, {count} images")
        for place, (name, picture, mask) in zip(axes, row, strict=False):
            _draw(place, name, picture, mask)
    figure.suptitle(figure_text(config.name), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=110)
    return path


def _rows(config: DataConfig, per_split: int) -> dict[str, tuple[Row, int]]:
    """(name, picture, mask) of the chosen images of each split, and how many the split holds."""
    if config.name == SYNTHETIC:
        sizes = {split: split_size(config.synthetic, split) for split in SPLITS}
        seed, size = config.synthetic.seed, config.image_size
        return {
            split: ([(str(i), *draw_lesion(seed, split, i, size)) for i in _spread(count, per_split)], count)
            for split, count in sizes.items()
        }
    assert config.root is not None  # resolve_root has set it
    rows = {}
    for split, pairs in split_pairs(config.root, config).items():
        chosen = [pairs[index] for index in _spread(len(pairs), per_split)]
        row = []
        for pair in chosen:
            image, mask = read_pair(pair, config)
            step = max(1, round(max(mask.shape) / THUMBNAIL))
            row.append((pair.name, as_picture(image[::step, ::step]), mask[::step, ::step]))
        rows[split] = (row, len(pairs))
    return {split: rows[split] for split in SPLITS}


def _spread(count: int, wanted: int) -> list[int]:
    """Indices at even distances, without the ends, where volumes hold little."""
    wanted = min(count, wanted)
    return [int((index + 0.5) * count / wanted) for index in range(wanted)]


def _draw(axes: Any, name: str, picture: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    axes.imshow(picture)
    for label in np.unique(mask[(mask > 0) & (mask != IGNORED)]):
        axes.contour(mask == label, levels=[0.5], colors=[COLOURS[(label - 1) % len(COLOURS)]], linewidths=1.2)
    axes.set_title(figure_text(name if len(name) <= 22 else f"…{name[-21:]}"), fontsize=6, pad=2)
