"""Labels drawn on images: colours of the classes, outlines, errors.

Pictures are (H, W, 3) uint8, labels (H, W) uint8.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_MIN_SIDE = 256

# Yellow and blue stand out from tissue, skin and grey values alike, and colour-blind readers tell them apart.
TRUTH_COLOUR: Colour = (255, 220, 0)
PREDICTION_COLOUR: Colour = (0, 150, 255)
AGREEMENT_COLOUR: Colour = (255, 255, 255)
# Okabe and Ito's colours (Color Universal Design, 2008).
_CLASS_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (170, 170, 170),
)


def class_colour(label: int) -> Colour:
    """The colour of a class, the same in every picture; class 0, the background, is black."""
    if label == 0:
        return (0, 0, 0)
    if label <= len(_CLASS_COLOURS):
        return _CLASS_COLOURS[label - 1]
    hue = label * 0.618034 % 1.0  # steps of the golden ratio: neighbouring classes get colours far apart
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def paint(labels: Pixels) -> Pixels:
    """Each pixel in the colour of its class."""
    table = np.array([class_colour(label) for label in range(int(labels.max()) + 1)], dtype=np.uint8)
    painted: Pixels = table[labels]
    return painted


def paint_agreement(truth: Pixels, prediction: Pixels) -> Pixels:
    """Binary masks over one another: what both mark, what the truth alone marks, what the prediction alone marks."""
    table = np.array([(0, 0, 0), TRUTH_COLOUR, PREDICTION_COLOUR, AGREEMENT_COLOUR], dtype=np.uint8)
    painted: Pixels = table[(truth > 0).astype(np.uint8) + 2 * (prediction > 0).astype(np.uint8)]
    return painted


def outline(labels: Pixels, width: int = 2) -> npt.NDArray[np.bool_]:
    """Inner border of every label's region, ``width`` pixels wide."""
    border = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels[labels > 0]):
        region = labels == label
        border |= region & ~scipy.ndimage.binary_erosion(region, iterations=width)
    return border


def draw_outlines(picture: Pixels, labels: Pixels, colour: Colour | None = None) -> Pixels:
    """A copy of the picture with the outlines of the labels: in one colour, or each in that of its class.

    Lines are about a 120th of the shorter side wide, and at least two pixels.
    """
    border = outline(labels, width=max(2, round(min(labels.shape) / 120)))
    drawn = picture.copy()
    drawn[border] = paint(labels)[border] if colour is None else colour
    return drawn


def enlargement(size: tuple[int, ...]) -> int:
    """The whole factor that brings both sides of a small picture to at least 256 pixels; 1 for others."""
    return max(1, -(-_MIN_SIDE // min(size)))


def enlarge(pixels: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Each pixel as a square of ``factor`` by ``factor``."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def proportioned(pixels: Pixels, proportion: float) -> Pixels:
    """A picture (H, W, 3) made wider or taller, so that width over height is ``proportion``; no colour is mixed."""
    height, width = pixels.shape[:2]
    size = (round(height * proportion), height) if proportion > width / height else (width, round(width / proportion))
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def tile(pictures: list[Pixels], columns: int, gap: int = 4) -> Pixels:
    """Pictures of one size in rows of ``columns``, on white."""
    height, width, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = picture
    return canvas
