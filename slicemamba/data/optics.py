"""What lies between the skin and the camera in synthetic pictures: hair, bubbles, vignetting; and smooth random fields.

Pictures are (H, W, 3) float32 in 0…255. Lengths are in units of the shorter side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.floating[Any]]  # float32 throughout
HAIR_OVERSAMPLING = 3


def coordinates(size: tuple[int, int]) -> tuple[Field, Field]:
    """y (H, 1) and x (1, W) of pixel centres, 0 in the middle; the shorter side runs from -0.5 to 0.5."""
    height, width = size
    short = min(size)
    y = ((np.arange(height) + 0.5 - height / 2) / short).astype(np.float32)
    x = ((np.arange(width) + 0.5 - width / 2) / short).astype(np.float32)
    return y[:, None], x[None, :]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between ``low`` and ``high`` whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Field:
    """Gaussian noise (H, W) of about unit variance, smooth over 1/``cells`` of the shorter side."""
    short = min(size)
    # The grid depends on the aspect ratio alone, so a picture is the same at every size of one aspect ratio.
    grid = [max(2, round(cells * side / short)) + 3 for side in size]
    values = rng.standard_normal(grid, dtype=np.float32)
    box = (1.5, 1.5, grid[1] - 1.5, grid[0] - 1.5)  # bicubic sampling needs neighbours beyond the picture
    field = np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
    scaled: Field = 1.25 * field  # interpolation lowers the variance
    return scaled


def add_hair(rng: np.random.Generator, picture: Field) -> Field:
    """Thin dark curved strokes, over half of the pictures, mostly in one direction."""
    count = int(rng.integers(1, 16)) if rng.random() < 0.55 else 0
    if count == 0:
        return picture
    height, width = picture.shape[:2]
    canvas = Image.new("L", (width * HAIR_OVERSAMPLING, height * HAIR_OVERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    direction = rng.uniform(0, np.pi)
    for _ in range(count):
        _draw_hair(rng, draw, canvas.size, direction + float(rng.normal(0, 0.45)))
    opacity = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
    tone = (np.array((60, 42, 34)) * rng.uniform(0.4, 1.5)).astype(np.float32)
    covered: Field = picture + (tone - picture) * opacity
    return covered


def _draw_hair(rng: np.random.Generator, draw: ImageDraw.ImageDraw, canvas: tuple[int, int], angle: float) -> None:
    """One quadratic curve through a random place."""
    short = min(canvas)
    middle = rng.uniform(0, 1, 2) * canvas
    along = np.array((np.cos(angle), np.sin(angle)))
    across = np.array((-along[1], along[0]))
    length, bend = rng.uniform(0.25, 0.9) * short, rng.normal(0, 0.12) * short
    time = np.linspace(-1, 1, 24)[:, None]
    points = middle + time * along * length / 2 + (time**2 + 0.3 * time**3) * across * bend
    line_width = max(1, round(rng.uniform(0.005, 0.012) * short))
    draw.line(
        [tuple(point) for point in points.tolist()], fill=int(rng.integers(150, 240)), width=line_width, joint="curve"
    )


def add_bubbles(rng: np.random.Generator, picture: Field) -> Field:
    """Bubbles of contact gel, on one picture in five: a bright rim and a highlight."""
    if rng.random() >= 0.2:
        return picture
    y, x = coordinates(picture.shape[:2])
    for _ in range(int(rng.integers(1, 5))):
        centre_y, centre_x = rng.uniform(-0.5, 0.5, 2)
        radius = rng.uniform(0.015, 0.05)
        distance = np.hypot(y - centre_y, x - centre_x) / radius
        rim = np.exp(-(((distance - 1) / 0.22) ** 2)) * rng.uniform(10, 40)
        spot = np.hypot(y - centre_y + radius * 0.4, x - centre_x + radius * 0.4) / (0.35 * radius)
        picture = picture + (rim + 70 * np.exp(-(spot**2)))[..., None].astype(np.float32)
    return picture


def add_vignette(rng: np.random.Generator, picture: Field) -> Field:
    """Darker towards the corners, on half of the pictures; on some a black rim as of a round field of view."""
    kind = rng.random()
    if kind >= 0.5:
        return picture
    y, x = coordinates(picture.shape[:2])
    centre_y, centre_x = rng.uniform(-0.05, 0.05, 2)
    distance = np.hypot(y - centre_y, x - centre_x)
    light = 1 - rng.uniform(0.15, 0.6) * np.clip(distance / 0.72, 0, 1.2) ** rng.uniform(2.5, 5)
    if kind < 0.12:
        edge = rng.uniform(0.56, 0.66)
        light = light * (0.04 + 0.96 / (1 + np.exp(np.clip((distance - edge) / 0.006, -30, 30))))
    shaded: Field = picture * np.maximum(light, 0.03)[..., None].astype(np.float32)
    return shaded
