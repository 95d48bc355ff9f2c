"""What one image and its mask tell when they are decoded: the material of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.findings import BadFileError, Finding
from slicemamba.data.likeness import Sketch, sketch
from slicemamba.data.pairs import Pair
from slicemamba.data.parallel import Result
from slicemamba.data.reading import IGNORED, content_digest, has_alpha, image_of, is_turned, mask_of, read_pair


@dataclass(frozen=True, eq=False)
class Facts:
    """What one pair gave: all fields, or findings alone when it is faulty.

    Attributes:
        findings: what is wrong with it.
        size: (height, width) in pixels.
        digest: of the image's content; empty for slices that show nothing.
        sketch: of the image, for what looks alike; None of slices.
        class_shares: share of the pixels of each class, background first.
        value_range: lowest and highest value of a CT slice; None for pictures.
        smallest_piece: share of the image that its smallest connected marked piece takes; None where none is marked.
        intensities: mean and standard deviation of each channel's values, as they are read.
        turned: the picture bears an EXIF orientation, which is not applied.
        without_alpha: it bears an alpha channel, which is dropped, as it is the same everywhere.
    """

    findings: tuple[Finding, ...] = ()
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    sketch: Sketch | None = None
    class_shares: tuple[float, ...] = ()
    value_range: tuple[float, float] | None = None
    smallest_piece: float | None = None
    intensities: tuple[tuple[float, float], ...] = ()
    turned: bool = False
    without_alpha: bool = False

    @property
    def foreground(self) -> float:
        """Share of marked pixels, of whatever class."""
        return sum(self.class_shares[1:])


def examine(pair: Pair, config: DataConfig) -> Facts:
    """Decodes a pair and judges it; raises nothing for faulty files."""
    both = _attempt(lambda: read_pair(pair, config))
    if isinstance(both, Finding):
        return Facts(_faults(pair, config) or (both,))
    image, mask = both
    classes = max(2, config.num_classes)
    counts = np.bincount(mask.ravel(), minlength=classes)[:classes]  # without ignored pixels
    shares = counts / max(1, counts.sum())
    low, high = float(image.min()), float(image.max())
    return Facts(
        size=(image.shape[0], image.shape[1]),
        digest="" if pair.is_slice and low == high else content_digest(image),  # slices of air alone are no twins
        sketch=None if pair.is_slice else sketch(image),
        class_shares=tuple(shares.tolist()),
        value_range=(low, high) if pair.is_slice else None,
        smallest_piece=_smallest_piece(mask),
        intensities=tuple(
            zip(image.mean(axis=(0, 1), dtype=np.float64), image.std(axis=(0, 1), dtype=np.float64), strict=True)
        ),
        turned=not pair.is_slice and is_turned(pair.image),
        without_alpha=not pair.is_slice and config.channels in (1, 3) and has_alpha(pair.image),
    )


def _smallest_piece(mask: NDArray[np.uint8]) -> float | None:
    pieces, count = scipy.ndimage.label((mask != 0) & (mask != IGNORED), structure=np.ones((3, 3)))
    return float(np.bincount(pieces.ravel())[1:].min() / mask.size) if count else None


def _faults(pair: Pair, config: DataConfig) -> tuple[Finding, ...]:
    """What is wrong with the image file and with the mask file, so that two broken ones are both told."""
    if pair.is_slice:
        return ()
    image = _attempt(lambda: image_of(pair.image, config))
    mask = _attempt(lambda: mask_of(pair.mask, config))
    return tuple(one for one in (image, mask) if isinstance(one, Finding))


def _attempt(read: Callable[[], Result]) -> Result | Finding:
    try:
        return read()
    except BadFileError as error:
        return error.finding
