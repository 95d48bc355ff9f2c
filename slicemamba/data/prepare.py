"""Split folders from raw downloads: a seeded split that keeps a patient's images together.

The result is built beside its destination and renamed when it is whole, so a stopped run leaves nothing half-done.
"""

from __future__ import annotations

import csv
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slicemamba.config import Config, DataConfig
from slicemamba.data.patients import ALONE, groups_of
from slicemamba.data.splits import SPLITS
from slicemamba.data.strata import balance
from slicemamba.data.volumes import base_name
from slicemamba.errors import InputError, name_some

Kind = Literal["isic", "kvasir", "clinicdb", "synapse", "folder"]
SUMMARY_FILE = "prepared.json"


@dataclass(frozen=True)
class SplitPlan:
    """How images are dealt out.

    Attributes:
        fractions: shares of train, val, search and test, which sum to 1. Only search may be 0: without a search folder
            it is held out of train when the set is used.
        seed: of the draw.
        patient_pattern: regular expression with one group, the patient in an image's name.
        groups: image name → patient, video or any other group that is to stay together; comes before the pattern.
    """

    fractions: tuple[float, float, float, float] = (0.5, 0.15, 0.15, 0.2)
    seed: int = 0
    patient_pattern: str | None = None
    groups: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        train, val, search, test = self.fractions
        if min(train, val, test) <= 0 or search < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise InputError(
                "fractions must be four shares, of train, val, search and test, that sum to 1 and of which only search "
                f"may be 0; got {', '.join(f'{share:g}' for share in self.fractions)}"
            )

    def groups_of(self, names: Sequence[str]) -> list[str]:
        """Each image's group; raises InputError when ``groups`` does not name an image."""
        if self.groups is None:
            return groups_of(names, DataConfig(patient_pattern=self.patient_pattern))
        missing = [name for name in names if name not in self.groups]
        if missing:
            raise InputError(f"groups must name every image; {len(missing)} are missing: {name_some(missing)}")
        return [self.groups[name] for name in names]


class Prepared(Config):
    """What was made of a raw download; kept beside it as ``prepared.json``.

    Attributes:
        kind, source, fractions, seed: as asked for.
        num_images: images (slices, for Synapse) in each split.
        num_groups: groups in each split that were kept together: patients, videos, volumes or images alone.
        num_intermediate_pixels: mask pixels that were neither black nor white before the threshold.
        most_intermediate: the mask with the largest share of them, and that share; None when there were none.
        mask_values: all values that the masks held; of volumes None.
        num_left_out: volumes without labels, which cannot be used.
        num_united: images with several masks, which became one.
        num_alike: pairs of images that look alike and were kept together.
        from_dicom: whether the download is DICOM, of whose tags nothing is kept.
    """

    kind: Kind
    source: str
    fractions: tuple[float, float, float, float]
    seed: int
    num_images: dict[str, int]
    num_groups: dict[str, int]
    num_intermediate_pixels: int = 0
    most_intermediate: tuple[str, float] | None = None
    mask_values: list[float] | None = None
    num_left_out: int = 0
    num_united: int = 0
    num_alike: int = 0
    from_dicom: bool = False


def read_groups(path: Path) -> dict[str, str]:
    """Image name → group from a CSV file with the columns ``name`` and ``group``; InputError for any other."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"name", "group"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} needs the columns 'name' and 'group'; it has {reader.fieldnames}")
            rows = [(row["name"], row["group"]) for row in reader]
            return {base_name(Path(name)): group for name, group in rows} | dict(rows)  # with or without extension
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"groups file {path} cannot be read: {error}") from None


def assign_splits(
    groups: Sequence[str], fractions: Sequence[float], seed: int, words: Sequence[str] | None = None
) -> list[str]:
    """A split for each image: groups in random order, each to the split that lacks most of its share.

    Args:
        groups: of each image. fractions: of each split.
        words: what each image holds, which the splits are to share in proportion (``strata.balance``).

    Raises:
        InputError: fewer groups than splits.
    """
    sizes = Counter(groups)
    wanted = {split: share * len(groups) for split, share in zip(SPLITS, fractions, strict=True) if share > 0}
    if len(sizes) < len(wanted):
        raise InputError(
            f"{len(groups)} images of {len(sizes)} groups cannot be divided into {len(wanted)} splits; "
            "add images, or correct patient_pattern or groups"
        )
    if words is not None:
        parts = balance(groups, words, [share for share in fractions if share > 0], seed)
        return [list(wanted)[part] for part in parts]
    names = list(sizes)
    order = [names[index] for index in np.random.default_rng(seed % 2**64).permutation(len(names))]
    home: dict[str, str] = {}
    empty = dict.fromkeys(wanted)
    for place, group in enumerate(order):
        # The last groups go to splits that have none yet, so that every split gets one.
        choice = list(empty) if len(order) - place <= len(empty) else list(wanted)
        split = max(choice, key=wanted.__getitem__)
        home[group] = split
        wanted[split] -= sizes[group]
        empty.pop(split, None)
    return [home[group] for group in groups]


def assign_around(
    groups: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    is_test: Sequence[bool],
    words: Sequence[str] | None = None,
) -> list[str]:
    """As ``assign_splits``, where some images are test already: whole groups of them, and no others are.

    The others are dealt out by the remaining fractions.
    """
    if not any(is_test):
        return assign_splits(groups, fractions, seed, words)
    fixed = {group for group, test in zip(groups, is_test, strict=True) if test}
    rest = sum(fractions[:3])
    free = [group not in fixed for group in groups]
    others = list(compress(groups, free))
    of_others = None if words is None else list(compress(words, free))
    dealt = iter(assign_splits(others, [*(share / rest for share in fractions[:3]), 0.0], seed, of_others))
    return ["test" if group in fixed else next(dealt) for group in groups]


def join_twins(groups: Sequence[str], digests: Sequence[str], alike: Sequence[tuple[int, int]] = ()) -> list[str]:
    """Groups joined where they share an image's content or have images that are alike, so that these share a split.

    Args:
        groups, digests: of each image. alike: pairs of their indices.
    """
    nodes = {
        key: index for index, key in enumerate(dict.fromkeys([*map("g".__add__, groups), *map("d".__add__, digests)]))
    }
    rows = [nodes[f"g{group}"] for group in groups]
    columns = [nodes[f"d{digest}"] for digest in digests]
    ends = [*zip(rows, columns, strict=True), *((rows[first], rows[second]) for first, second in alike)]
    starts, targets = zip(*ends, strict=True)
    links = coo_array((np.ones(len(ends)), (starts, targets)), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(links, directed=False)
    return [str(labels[row]) for row in rows]


def stored_groups(names: Sequence[str], groups: Sequence[str], joined: Sequence[str]) -> dict[str, str]:
    """Image name → group as ``dataset.yaml`` keeps it: the first name of those joined; images alone are left out.

    Args:
        names: of the images. groups: as ``SplitPlan.groups_of`` gives them. joined: the same after ``join_twins``.
    """
    first: dict[str, str] = {}
    for group, label in sorted(zip(groups, joined, strict=True), key=lambda pair: pair[0].startswith(ALONE)):
        first.setdefault(label, group)
    sizes = Counter(joined)
    return {
        name: first[label]
        for name, label in zip(names, joined, strict=True)
        if sizes[label] > 1 or not first[label].startswith(ALONE)
    }


@contextmanager
def building(destination: Path) -> Iterator[Path]:
    """A folder to build in, which becomes ``destination`` at the end, or vanishes when something fails.

    Raises:
        InputError: the destination holds something, or cannot be written.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} must not exist or be an empty folder; remove it or choose another")
    workplace = destination.with_name(f".{uuid.uuid4().hex}")
    try:
        workplace.mkdir(parents=True)
        yield workplace
        if destination.exists():
            destination.rmdir()
        workplace.rename(destination)
    except OSError as error:
        raise InputError(f"{destination} cannot be written ({error}); free space or choose another") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def count_by_split(splits: Sequence[str]) -> dict[str, int]:
    """How many of each split, in the order of ``SPLITS``; those without any are left out."""
    counts = Counter(splits)
    return {split: counts[split] for split in SPLITS if counts[split]}


def count_groups(splits: Sequence[str], groups: Sequence[str]) -> dict[str, int]:
    """How many different groups in each split."""
    return count_by_split([split for split, _ in set(zip(splits, groups, strict=True))])
