"""A pair of a raw download brought into its final form: image as it is, mask as PNG of the values that are meant."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from slicemamba.data.cases import read_channels
from slicemamba.data.colours import Colour, classes_of_colours, offer_colours
from slicemamba.data.dicom import is_dicom
from slicemamba.data.findings import BadFileError, Fault, Finding, raise_findings, short_path
from slicemamba.data.likeness import Sketch, sketch
from slicemamba.data.pairs import Pair
from slicemamba.data.parallel import Progress, run_parallel
from slicemamba.data.reading import check_fit, content_digest, distinct, read_image, read_mask_values
from slicemamba.data.volumes import base_name
from slicemamba.errors import InputError

IGNORED_GREY = 128
"""What stands in a binary mask of 0 and 255 for pixels to be left out."""

_MOST_ERASED = 0.2
"""Of the marked pixels; soft borders of small lesions lose less."""
_MOST_COUNTED = 64
_TRACE, _MOST_TRACES = 0.005, 0.03
"""Shares of all pixels that values have which mean something, and that all others have together."""
_NOISE, _FEW_VALUES = 32, 8
"""Highest value that compression leaves on black, and how many different values a mask without noise holds."""


@dataclass(frozen=True)
class RawPair:
    """An image and its mask as a download has them.

    Attributes:
        name: of the case.
        images: one file, or one for each channel.
        masks: one file, or several whose marks are united.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def first(self) -> Pair:
        """The first image with the first mask."""
        return Pair(self.name, self.images[0], self.masks[0])


@dataclass(frozen=True)
class Reading:
    """How images and masks of a download are understood.

    Attributes:
        threshold: make masks binary, by a cut at half of their scale; without it they hold class labels.
        any_value: mark all that is not 0 in place of the cut, as masks that number objects need.
        ignore_label: stored value of pixels to be left out.
        colours: of each class, for masks in colour; None: masks have one channel.
        values: that masks mean; others, as JPEG adds them, become the nearest.
        resize_masks: bring masks of another size to that of their image, by nearest neighbour.
        channels, per_channel, window: as in DataConfig; the window is for volumes.
    """

    threshold: bool = True
    any_value: bool = False
    ignore_label: int | None = None
    colours: tuple[Colour, ...] | None = None
    values: tuple[int, ...] | None = None
    resize_masks: bool = False
    channels: int = 3
    per_channel: bool | None = None
    window: tuple[float, float] | None = None

    @property
    def scales_each(self) -> bool:
        """As of DataConfig."""
        return self.channels != 3 if self.per_channel is None else self.per_channel


@dataclass(frozen=True, eq=False)
class Converted:
    """A pair in its final form: its files, and what its pixels told.

    Attributes:
        digest: of the image's content. sketch: of the image, for what looks alike.
        values: that the mask held. counts: pixels of each, of the first 64. pixels: of the mask.
        intermediate: mask pixels neither black nor white. share: the same as a share of all.
        marked, erased: mask pixels that became 255, and those that became 0 though they hold more than noise.
    """

    image: Path
    mask: Path
    digest: str
    sketch: Sketch
    intermediate: int
    share: float
    values: list[float]
    counts: list[int]
    pixels: int
    marked: int = 0
    erased: int = 0


def convert_all(
    pairs: list[RawPair], folder: Path, reading: Reading, source: Path, on_progress: Progress | None
) -> list[Converted]:
    """Puts all images and masks into ``folder``; raises InputError for all faulty files together."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)

    def work(index: int) -> Converted | list[Finding]:
        try:
            return _convert(pairs[index], folder, reading)
        except BadFileError as error:
            return [error.finding]

    results = run_parallel(work, len(pairs), on_progress)
    findings = [finding for result in results if isinstance(result, list) for finding in result]
    if any(finding.fault is Fault.COLOUR_MASK for finding in findings):
        offer_colours([path for pair in pairs for path in pair.masks])
    raise_findings(findings, subject=f"download in {source}")
    converted = [result for result in results if isinstance(result, Converted)]
    _refuse_erasure(converted, source)
    return converted


def _refuse_erasure(converted: list[Converted], source: Path) -> None:
    """Raises InputError where the cut at half of the scale erases a large part of what the masks mark."""
    erased, marked = (sum(getattr(one, name) for one in converted) for name in ("erased", "marked"))
    if erased <= _MOST_ERASED * (erased + marked):
        return
    values = sorted(set().union(*(one.values for one in converted)))
    shown = ", ".join(f"{value:g}" for value in values[:6]) + (f" … {values[-1]:g}" if len(values) > 6 else "")
    raise InputError(
        f"masks in {source} hold the values {shown}, and the cut at half of their scale would erase "
        f"{erased / (erased + marked):.0%} of what they mark. If the values are classes, keep them with --labels; if "
        "they number objects or all of them mean marked, use --marked"
    )


def offer_values(converted: list[Converted]) -> None:
    """Raises InputError where masks of labels hold a few values and traces of many others, as JPEG adds them."""
    counts: Counter[float] = Counter()
    for one in converted:
        counts.update(dict(zip(one.values, one.counts, strict=False)))
    total = counts.total()
    main = sorted(value for value, count in counts.items() if count >= _TRACE * total)
    rest = total - sum(counts[value] for value in main)
    if len(main) > 1 and len(counts) >= len(main) + _FEW_VALUES and rest < _MOST_TRACES * total:
        option = ",".join(f"{value:g}" for value in main)
        raise InputError(
            f"the masks hold {len(counts)} values, but {option} make up {1 - rest / total:.1%} of their pixels. If the "
            f"others are noise, use --labels --values {option}, which makes them the nearest of these; if all are "
            "classes, give them all to --values"
        )


def _convert(raw: RawPair, folder: Path, reading: Reading) -> Converted:
    pair = raw.first
    image = _read_image(raw, reading)
    values, as_stored = _read_mask(raw, reading, (image.shape[0], image.shape[1]))
    check_fit(pair, image, values)
    new_mask = folder / "masks" / f"{pair.name}.png"
    new_image = _write_image(raw, image, folder / "images")
    intermediate = erased = kept = 0
    if reading.threshold:
        left_out = np.zeros(values.shape, bool) if reading.ignore_label is None else values == reading.ignore_label
        known = np.where(left_out, 0, values)
        marked, intermediate = (_mark(known), 0) if reading.any_value else binarise(known, pair.mask)
        kept, erased = int((marked > 0).sum()), int(((marked == 0) & _is_meant(known)).sum())
        marked[left_out] = IGNORED_GREY
        Image.fromarray(marked).save(new_mask)
    elif as_stored:
        new_mask = folder / "masks" / pair.mask.name
        shutil.copyfile(pair.mask, new_mask)
    else:
        Image.fromarray(values).save(new_mask)
    held = distinct(values)
    return Converted(
        new_image,
        new_mask,
        content_digest(image),
        sketch(image),
        intermediate,
        intermediate / values.size,
        held,
        [int((values == value).sum()) for value in held[:_MOST_COUNTED]],
        values.size,
        kept,
        erased,
    )


def _read_image(raw: RawPair, reading: Reading) -> NDArray[np.uint8]:
    """(H, W, C); raises BadFileError, also where the channels' files differ in size."""
    if len(raw.images) == 1:
        return read_image(raw.images[0], reading.window, reading.channels, reading.scales_each)
    return read_channels(raw.images)


def _read_mask(raw: RawPair, reading: Reading, size: tuple[int, int]) -> tuple[NDArray[Any], bool]:
    """Values (H, W) that are meant, and whether they are those of the file."""
    if len(raw.masks) > 1:
        if not reading.threshold:
            raise BadFileError(Fault.TWO_MASKS, f"{raw.name} ({raw.masks[0].name}, {raw.masks[1].name})")
        parts = [_one_mask(path, reading, size) for path in raw.masks]
        other = next((i for i, part in enumerate(parts) if part.shape != parts[0].shape), None)
        if other is not None:
            raise BadFileError(Fault.SIZE, f"{short_path(raw.masks[other])} and {raw.masks[0].name}")
        marks = [
            _mark(part) if reading.any_value else binarise(part, path)[0]
            for part, path in zip(parts, raw.masks, strict=True)
        ]
        return np.maximum.reduce(marks), False
    values = _one_mask(raw.masks[0], reading, size)
    changed = reading.colours is not None or reading.values is not None or reading.resize_masks
    return values, not changed


def _one_mask(path: Path, reading: Reading, size: tuple[int, int]) -> NDArray[Any]:
    if reading.colours is not None:
        values: NDArray[Any] = classes_of_colours(path, reading.colours)
    else:
        values = read_mask_values(path)
    if reading.values is not None:
        meant = sorted(reading.values)
        borders = [(low + high) / 2 for low, high in pairwise(meant)]
        kind = np.uint8 if meant[-1] < 256 else np.uint16
        values = np.array(meant, kind)[np.searchsorted(borders, values.astype(np.float64))]
    if reading.resize_masks and values.shape != size and _same_aspect(values.shape, size):
        return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.NEAREST))
    return values


def _same_aspect(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Within a pixel of rounding."""
    scale = size[0] / shape[0]
    return abs(shape[1] * scale - size[1]) <= max(1.0, scale)


def _write_image(raw: RawPair, image: NDArray[np.uint8], folder: Path) -> Path:
    """A copy of the file; files of several channels become one TIFF, and DICOM becomes PNG."""
    if len(raw.images) > 1:
        path = folder / f"{raw.name}.tif"
        photometric = "rgb" if image.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, image, photometric=photometric, planarconfig="contig", compression="zlib")
        return path
    if is_dicom(raw.images[0]):  # not as it is, as its tags name the patient
        path = folder / f"{raw.name}.png"
        Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(path)
        return path
    path = folder / (raw.name + raw.images[0].name[len(base_name(raw.images[0])) :])
    shutil.copyfile(raw.images[0], path)
    return path


def _mark(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    marked: NDArray[np.uint8] = (values != 0).astype(np.uint8) * np.uint8(255)
    return marked


def _is_meant(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Above the noise that JPEG leaves beside edges, on a scale of 255; of masks of 16 bits above 0."""
    return values.astype(np.float64) > (
        _NOISE if 1 < values.max() <= 255 and len(distinct(values)) > _FEW_VALUES else 0
    )


def binarise(values: NDArray[np.generic], path: Path) -> tuple[NDArray[np.uint8], int]:
    """0 and 255 by a cut at half of the scale, and how many pixels were neither black nor white.

    The scale is 1, 255 or 65535, whichever the highest value fits.

    Raises:
        BadFileError: there are marks, but all below half of the scale: these are labels or a damaged mask.
    """
    numbers = values.astype(np.float64)
    top = numbers.max()
    scale = next((scale for scale in (1, 255, 65535) if top <= scale), top)
    marked = numbers > scale / 2
    if top > 0 and not marked.any():
        raise BadFileError(Fault.NOT_BINARY, f"{short_path(path)} (highest value {top:g} of {scale:g})")
    return marked.astype(np.uint8) * np.uint8(255), int(((numbers > 0) & (numbers < scale)).sum())
