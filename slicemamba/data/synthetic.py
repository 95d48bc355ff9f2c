"""The embedded synthetic set: dermoscopy-like pictures of pigmented lesions with their masks, made from a seed.

Skin of varying tone with a lesion whose outline, contrast, colours and border vary, seen through hair, gel bubbles and
a lens that darkens towards the corners. Lengths are in units of the shorter side, so one index shows the same picture
at every size of one aspect ratio. Each picture has random generators of its own, seeded by (seed, split, index):
splits share no picture, and a larger split starts with the pictures of a smaller one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data import optics
from slicemamba.data.optics import Field
from slicemamba.data.splits import SPLITS, check_split_name

Pixels = NDArray[np.uint8]
GENERATOR_VERSION = 1
"""Raised when a seed gives other pictures than before."""

SKIN_TONES = np.array([(244, 214, 205), (232, 190, 172), (222, 168, 146), (205, 152, 122), (176, 124, 96)], np.float32)
MELANIN = np.array((0.55, 0.90, 1.20), np.float32)  # absorbs blue most: brown
HAEMOGLOBIN = np.array((0.05, 0.75, 0.60), np.float32)  # absorbs green and blue: red
BLUE_VEIL = np.array((0.85, 0.68, 0.42), np.float32)  # deep melanin looks blue-grey


@dataclass(frozen=True)
class Lesion:
    """A lesion's place on the picture: ``depth`` (H, W) is 0 on the outline, positive inside, 1 about the middle.

    ``size`` is its radius.
    """

    depth: Field
    size: float


def split_size(config: SyntheticConfig, split: str) -> int:
    """Number of pictures in a split."""
    check_split_name(split)
    sizes = dict(zip(SPLITS, (config.num_train, config.num_val, config.num_search, config.num_test), strict=True))
    return sizes[split]


def draw_lesion(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Picture number ``index`` of a split: image (H, W, 3) uint8 and mask (H, W) uint8 of 0 and 1.

    Args:
        seed: any integer.
        split: train, val, search or test.
        index: number of the picture within its split.
        size: (height, width) in pixels.
    """
    shape_rng, look_rng = _generators(seed, split, index)
    lesion = _lesion(shape_rng, size)
    reflectance = _skin(look_rng, size) * np.exp(-_pigment(look_rng, lesion, size))
    light = optics.add_hair(look_rng, reflectance)
    light = optics.add_bubbles(look_rng, light)
    light = optics.add_vignette(look_rng, light)
    grain = look_rng.standard_normal((*size, 1), dtype=np.float32)
    light = light + look_rng.uniform(1.0, 3.0) * grain
    return np.clip(light, 0, 255).astype(np.uint8), (lesion.depth > 0).astype(np.uint8)


def draw_mask(seed: int, split: str, index: int, size: tuple[int, int]) -> Pixels:
    """The mask of ``draw_lesion`` alone, (H, W) uint8 of 0 and 1."""
    shape_rng, _ = _generators(seed, split, index)
    return (_lesion(shape_rng, size).depth > 0).astype(np.uint8)


def write_isic_folder(config: DataConfig, destination: Path) -> Path:
    """Writes the synthetic set as files, ``<destination>/<split>/{images,masks}``, all four splits.

    Shows the layout that a data set of one's own needs: images as JPEG, masks as PNG with 0 and 255 and the suffix
    ``_segmentation``. Returns ``destination``.
    """
    for split in SPLITS:
        images, masks = (destination / split / part for part in ("images", "masks"))
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for index in range(split_size(config.synthetic, split)):
            image, mask = draw_lesion(config.synthetic.seed, split, index, config.image_size)
            name = f"{split}_{index:05d}"
            Image.fromarray(image).save(images / f"{name}.jpg", quality=95)
            Image.fromarray(mask * np.uint8(255)).save(masks / f"{name}_segmentation.png")
    return destination


def _generators(seed: int, split: str, index: int) -> tuple[np.random.Generator, np.random.Generator]:
    """One generator for the outline and one for everything else, so that a mask can be drawn alone."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    entropy = [int.from_bytes(part, "big") for part in (digest[:16], digest[16:])]
    return np.random.default_rng(entropy[0]), np.random.default_rng(entropy[1])


def _lesion(rng: np.random.Generator, size: tuple[int, int]) -> Lesion:
    """A warped ellipse with radial harmonics, sometimes grown together with a second one."""
    y, x = optics.coordinates(size)
    warp = rng.uniform(0.01, 0.035)
    y = y + warp * optics.smooth_noise(rng, size, cells=7)
    x = x + warp * optics.smooth_noise(rng, size, cells=7)
    radius = optics.log_uniform(rng, 0.13, 0.42)
    reach = 0.16 * (1.3 - 2 * radius)
    y, x = y - rng.uniform(-reach, reach), x - rng.uniform(-reach, reach)
    depth = _blob(rng, y, x, radius)
    if rng.random() < 0.35:
        angle, distance = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.6, 0.95)
        second = _blob(rng, y - distance * math.sin(angle), x - distance * math.cos(angle), radius / 2)
        depth = np.maximum(depth, second)
    return Lesion(depth, radius)


def _blob(rng: np.random.Generator, y: Field, x: Field, radius: float) -> Field:
    """Depth inside an irregular ellipse about the origin."""
    turn = rng.uniform(0, math.pi)
    aspect = rng.uniform(0.62, 1.0)
    along = (math.cos(turn) * x + math.sin(turn) * y) * math.sqrt(aspect)
    across = (math.cos(turn) * y - math.sin(turn) * x) / math.sqrt(aspect)
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for order in range(2, 8):
        amplitude = float(rng.normal(0, 0.22)) / order**1.3
        outline += amplitude * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    depth: Field = 1 - np.hypot(along, across) / (radius * np.maximum(outline, 0.4))
    return depth


def _skin(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Healthy skin (H, W, 3): a tone, blotches, redness, furrows, and now and then freckles outside the mask."""
    place = rng.uniform(0, len(SKIN_TONES) - 1)
    lower = int(place)
    tone = SKIN_TONES[lower] + (place - lower) * (SKIN_TONES[lower + 1] - SKIN_TONES[lower])
    blotches = optics.smooth_noise(rng, size, cells=3) + 0.5 * optics.smooth_noise(rng, size, cells=9)
    redness = np.maximum(optics.smooth_noise(rng, size, cells=4), 0) * rng.uniform(0.02, 0.10)
    furrows = optics.smooth_noise(rng, size, cells=60) * rng.uniform(0.01, 0.03)
    freckles = np.maximum(optics.smooth_noise(rng, size, cells=14) - rng.uniform(1.6, 3.2), 0) * rng.uniform(0.1, 0.4)
    brown = rng.uniform(0.015, 0.05) * blotches + furrows + freckles
    skin: Field = tone * np.exp(-brown[..., None] * MELANIN - redness[..., None] * HAEMOGLOBIN)
    return skin


def _pigment(rng: np.random.Generator, lesion: Lesion, size: tuple[int, int]) -> Field:
    """Light absorbed by the lesion (H, W, 3), in natural logarithms."""
    border = optics.log_uniform(rng, 0.002, 0.017)
    # Depth counts in radii, the border in lengths of the picture: small lesions have no sharper borders than large.
    cover = 1 / (1 + np.exp(-np.clip(lesion.depth * (lesion.size / border), -30, 30)))
    strength = optics.log_uniform(rng, 0.22, 1.3)
    patches = 1 + rng.uniform(0.15, 0.45) * optics.smooth_noise(rng, size, cells=6)
    network = 1 + rng.uniform(0.03, 0.22) * optics.smooth_noise(rng, size, cells=38)
    middle = 1 + rng.uniform(-0.35, 0.6) * np.clip(lesion.depth, 0, 1)
    density = strength * cover * np.maximum(patches * network * middle, 0.25)
    deep = np.clip(optics.smooth_noise(rng, size, cells=4) - rng.uniform(0.3, 2.0), 0, 1)
    veil = deep * np.clip(lesion.depth * 3, 0, 1)
    globules = np.maximum(optics.smooth_noise(rng, size, cells=28) - rng.uniform(1.0, 2.6), 0) * cover * strength * 0.5
    inflamed = cover * rng.uniform(0, 0.15) * np.maximum(1 + 0.6 * optics.smooth_noise(rng, size, cells=5), 0)
    brown, blue = density * (1 - veil) + globules, density * veil
    pigment: Field = brown[..., None] * MELANIN + blue[..., None] * BLUE_VEIL + inflamed[..., None] * HAEMOGLOBIN
    return pigment
