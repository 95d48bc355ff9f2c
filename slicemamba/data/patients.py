"""Which images belong together, because they show one patient, one volume or one video."""

from __future__ import annotations

import re
from collections.abc import Iterable

VOLUME_PATTERN = r"^(case\d+)_slice\d+$"
"""Slices of Synapse volumes; the only names understood without a pattern from the user."""


def patient_of(name: str, pattern: str | None) -> str | None:
    """The patient in an image's name, by a regular expression with one group; None where it does not match."""
    match = re.search(pattern or VOLUME_PATTERN, name)
    return match.group(1) if match else None


def groups_of(names: Iterable[str], pattern: str | None) -> list[str]:
    """One group for each name: its patient, or the name itself where none is told."""
    return [f"image {name}" if (patient := patient_of(name, pattern)) is None else patient for name in names]
