"""Masks whose classes are colours: a table gives each colour a class, and one is offered from the colours found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.reading import IGNORED, read_mask_colours
from slicemamba.errors import InputError

IGNORE = "ignore"
_MOST_OFFERED, _MOST_READ = 12, 40
_COMMON = 0.002
"""Share of all pixels that a colour must have to be offered: those that compression makes are rarer."""

Pixels = NDArray[np.uint8]


class Colour(NamedTuple):
    """A class and its colour in masks; the class ``ignore`` is left out of training and scores."""

    rgb: tuple[int, int, int]
    name: str


def parse_colours(text: str) -> tuple[Colour, ...]:
    """``#000000=background,#ff0000=polyp``, background first. Raises InputError."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*#?([0-9a-fA-F]{6})\s*=\s*(.+?)\s*", part)
        if match is None:
            raise InputError(f"colours must look like '#000000=background,#ff0000=polyp'; got {part!r}")
        red, green, blue = bytes.fromhex(match[1])
        found.append(Colour((red, green, blue), match[2]))
    names = [colour.name for colour in found]
    if len({colour.rgb for colour in found}) < len(found) or len(set(names)) < len(names) or names[0] == IGNORE:
        raise InputError(f"colours must be different, and so must their names, the background first; got {text!r}")
    if len([name for name in names if name != IGNORE]) < 2:
        raise InputError(f"colours must name the background and at least one class; got {text!r}")
    return tuple(found)


def class_names_of(colours: Sequence[Colour]) -> tuple[str, ...]:
    """Names of the classes, without ``ignore``."""
    return tuple(colour.name for colour in colours if colour.name != IGNORE)


def classes_of_colours(path: Path, colours: Sequence[Colour]) -> Pixels:
    """Classes (H, W) of a mask in colour; ``IGNORED`` where it says so. In JPEG, the nearest colour is meant.

    Raises:
        BadFileError: unreadable, or a colour that no class has.
    """
    pixels = read_mask_colours(path)
    numbers = iter(range(len(colours)))
    labels = np.array([IGNORED if colour.name == IGNORE else next(numbers) for colour in colours], np.uint8)
    unique, inverse = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    table = np.array([colour.rgb for colour in colours], np.int32)
    distance = np.abs(unique[:, None].astype(np.int32) - table).sum(axis=2)
    strangers = unique[distance.min(axis=1) > 0]
    if len(strangers) and path.suffix.lower() not in (".jpg", ".jpeg"):
        some = ", ".join(map(_hex, strangers[:6].tolist())) + (
            f" … {len(strangers)} in all" if len(strangers) > 6 else ""
        )
        raise BadFileError(Fault.COLOURS, f"{short_path(path)} ({some})")
    classes: Pixels = labels[distance.argmin(axis=1)][inverse.reshape(pixels.shape[:2])]
    return classes


def offer_colours(paths: Sequence[Path]) -> None:
    """Raises InputError with the option that would give each colour of these masks a class."""
    counts: Counter[tuple[int, ...]] = Counter()
    for path in paths[:_MOST_READ]:
        try:
            pixels = read_mask_colours(path)
        except BadFileError:
            continue
        unique, numbers = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        counts.update(dict(zip(map(tuple, unique.tolist()), numbers.tolist(), strict=True)))
    total = counts.total()
    common = [rgb for rgb, count in counts.most_common(_MOST_OFFERED + 1) if count >= _COMMON * total]
    if not 1 < len(common) <= _MOST_OFFERED:
        return
    first = (0, 0, 0) if (0, 0, 0) in common else common[0]
    rest = [rgb for rgb in common if rgb != first]
    option = ",".join([f"{_hex(first)}=background", *(f"{_hex(rgb)}=class {i}" for i, rgb in enumerate(rest, 1))])
    raise InputError(
        f"the masks are in colour; if each colour is a class, say so and name them (one may be called {IGNORE}):",
        details=[f"--colours '{option}'"],
    )


def _hex(rgb: Sequence[int]) -> str:
    return "#" + bytes(rgb).hex()
