"""Which images belong together, because they show one patient, one volume or one video."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache

from slicemamba.config import DataConfig
from slicemamba.data.description import read_description
from slicemamba.errors import InputError

VOLUME_PATTERN = r"^(.+)_slice\d+$"
"""Slices of volumes; the only names understood without a pattern from the user."""

PATTERN_SECONDS = 5.0
"""A sound pattern goes through 100,000 names in a fraction of a second."""

_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = map(re.compile(pattern).search, names)
json.dump([match and match[1] for match in found], sys.stdout)
"""


ALONE = "image "
"""Start of the group of an image whose patient nobody told; equal images share one."""


def patients_of(names: Iterable[str], config: DataConfig) -> list[str | None]:
    """The patient of each image; None where it is not told.

    The groups of the folder's ``dataset.yaml`` come first, by the image's name or its volume's, then the names
    themselves, by ``patient_pattern``.

    Raises:
        InputError: the pattern takes too long, or ``dataset.yaml`` is wrong.
    """
    return [None if group.startswith(ALONE) else group for group in groups_of(names, config)]


def groups_of(names: Iterable[str], config: DataConfig) -> list[str]:
    """One group for each name: its patient, or one of its own where none is told. Raises as ``patients_of``."""
    names = list(names)
    told, stored = patients_in_names(names, config.patient_pattern), read_description(config.root).groups
    volumes = patients_in_names(names, None) if stored else names
    return [
        stored.get(name) or stored.get(volume or name) or (ALONE + name if patient is None else patient)
        for name, volume, patient in zip(names, volumes, told, strict=True)
    ]


def patients_in_names(names: Iterable[str], pattern: str | None) -> list[str | None]:
    """The patient in each image's name, by a regular expression with one group; None where it does not match.

    Raises:
        InputError: the pattern takes too long.
    """
    if pattern is None:
        return [match and match[1] for match in (re.search(VOLUME_PATTERN, name) for name in names)]
    return list(_search_apart(pattern, tuple(names)))


@lru_cache(maxsize=8)
def _search_apart(pattern: str, names: tuple[str, ...]) -> tuple[str | None, ...]:
    """In a process that can be ended: a pattern such as ``^((a|aa)+)!$`` may take years for a name of some letters, and
    Python's ``re`` neither stops nor lets any other thread of its process run meanwhile, those of the service included.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, names]),
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATTERN_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"patient_pattern {pattern!r} takes more than {PATTERN_SECONDS:g} s for {len(names)} names; avoid "
            r"nested repetitions, as in '^(\d+)_'",
            pointer="/data/patient_pattern",
        ) from None
    found: list[str | None] = json.loads(done.stdout)
    return tuple(found)
