"""Published scores on full data sets, for tables that compare; nothing here was measured by this project."""

from __future__ import annotations

import re
from dataclasses import dataclass

SOURCE = (
    "Fan et al., SliceMamba with Neural Architecture Search for Medical Image Segmentation, "
    "IEEE JBHI 2025, arXiv 2407.08481"
)
_OTHER_NAMES = {"isic17": "isic2017", "kvasirseg": "kvasir"}


@dataclass(frozen=True)
class Published:
    """Scores in 0…1 of a network on the whole of a data set, as the paper's tables have them."""

    network: str
    miou: float
    dice: float
    accuracy: float
    specificity: float
    sensitivity: float


_ROWS = {
    "isic2017": (
        Published("VM-UNet", 0.8023, 0.8903, 0.9629, 0.9758, 0.8765),
        Published("SliceMamba", 0.8170, 0.8993, 0.9675, 0.9830, 0.8881),
    ),
    "kvasir": (
        Published("VM-UNet", 0.7866, 0.8805, 0.9661, 0.9896, 0.8327),
        Published("SliceMamba", 0.8737, 0.9326, 0.9801, 0.9910, 0.9180),
    ),
}


def published_scores(data: str) -> tuple[Published, ...]:
    """Published rows for a data set by its name, such as ``kvasir`` or ``Kvasir-SEG``; none for an unknown one."""
    plain = re.sub("[^a-z0-9]", "", data.lower())
    return _ROWS.get(_OTHER_NAMES.get(plain, plain), ())
