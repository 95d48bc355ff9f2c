"""Images that look alike though their pixels differ: compressed again, scaled, brighter, the next frame of a video.

Small grey versions are compared by their correlation, after what is smooth has been taken out of them: the pale skin
around a lesion is alike in all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from slicemamba.data.reading import as_picture

SIDE = 32
ALIKE = 0.9
"""Correlation from which two images are taken for copies of one."""

_BLUR = 4.0
"""In pixels of the small version: what is smoother is taken out."""
_BLOCK = 2048

Sketch = NDArray[np.float32]


def sketch(image: NDArray[Any]) -> Sketch:
    """(SIDE²,) of mean 0 and length 1, of an image (H, W, C); zeros where it shows nothing."""
    small = Image.fromarray(as_picture(image)).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    smooth = small.filter(ImageFilter.GaussianBlur(_BLUR))
    fine = np.asarray(small, np.float32) - np.asarray(smooth, np.float32)
    flat = (fine - fine.mean()).ravel()
    length = float(np.linalg.norm(flat))
    return flat / length if length > SIDE else np.zeros_like(flat)


def alike_pairs(sketches: Sequence[Sketch], threshold: float = ALIKE) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of sketches that correlate by ``threshold`` or more."""
    if len(sketches) < 2:
        return []
    rows = np.stack(list(sketches))
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] @ rows[start:].T
        for i, j in np.argwhere(block >= threshold):
            if i < j:
                found.append((start + int(i), start + int(j)))
    return found
