"""Checks of a data set before anything is trained on it. Imports neither torch nor Ray.

``check_dataset`` really decodes every file, ``check_listing`` none, for those who cannot wait. All that is wrong is
told in one error that names the files.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from slicemamba.config import DataConfig
from slicemamba.data.catalog import SYNTHETIC, list_datasets, resolve_root
from slicemamba.data.description import FILE as DESCRIPTION_FILE
from slicemamba.data.description import read_description
from slicemamba.data.facts import Facts, examine
from slicemamba.data.findings import Fault, Finding, raise_findings, short_path
from slicemamba.data.likeness import alike_pairs
from slicemamba.data.pairs import Pair, fingerprint_files
from slicemamba.data.parallel import Progress, run_parallel
from slicemamba.data.patients import groups_of, patients_of
from slicemamba.data.reports import DatasetReport, recall, remember
from slicemamba.data.splits import SPLITS, match_splits
from slicemamba.data.synthetic import GENERATOR_VERSION, draw_mask, split_size
from slicemamba.errors import name_some

__all__ = ["DatasetReport", "Pair", "check_dataset", "list_datasets", "resolve_root"]

CHECKS_VERSION = 7
"""Raised when the checks change, so that remembered reports of older ones are not used."""

_FEW = 10
_MEANING = {
    "val": "the epoch that it selects is a matter of chance",
    "search": "its scores hardly tell architectures apart",
    "test": "its scores say little about other images; compare their intervals, or cross-validate",
}
"""Fewer than ``_FEW`` independent images in a split, and what that means for its scores."""

# Some masks of a large synthetic split, and small ones of large pictures, tell the share as well: a request to the
# service may ask for any number and size, and its sender waits.
_MOST_DRAWN, _LARGEST_DRAWN = 32, 64


def check_dataset(
    config: DataConfig, *, cache_dir: Path | None = None, on_progress: Progress | None = None
) -> DatasetReport:
    """Decodes every image and mask and reports on the set.

    An empty mask is legal, as a picture may show nothing to mark; it is a warning. A split whose masks are all empty
    is an error.

    Args:
        config: the data set; a name without root is looked up in SLICEMAMBA_DATA.
        cache_dir: where the report is remembered, so that an unchanged set is not decoded again; None: it is not.
        on_progress: called as (done, total) in pictures.

    Raises:
        InputError: everything that is wrong, by kind, with file names (docs/data.md lists the kinds).
    """
    config = resolve_root(config)
    if config.name == SYNTHETIC:
        return _synthetic_report(config)
    assert config.root is not None  # resolve_root has set it
    splits, findings = match_splits(config.root, config)
    fingerprint = _fingerprint(config, splits)
    remembered = None if findings else recall(cache_dir, fingerprint)
    if remembered is not None:
        return remembered
    facts = _read_all(config, splits, on_progress)
    findings += [finding for found in facts.values() for one in found for finding in one.findings]
    findings += _all_empty(facts) + _shared(splits, facts) + _shared_patients(config, splits)
    raise_findings(findings, subject=f"data set {config.name!r} in {config.root}")
    report = _report(config, splits, facts, fingerprint)
    remember(cache_dir, report)
    return report


class Listing(NamedTuple):
    """What a data set's files tell without being decoded: images of each split, and the report of the set if it has
    passed ``check_dataset`` as it is now, here or where its ``dataset.yaml`` was written.
    """

    num_images: dict[str, int]
    report: DatasetReport | None


def check_listing(config: DataConfig, *, cache_dir: Path | None = None) -> Listing:
    """Looks at layout, pairs and patients of a data set.

    Args:
        config: the data set; a name without root is looked up in SLICEMAMBA_DATA.
        cache_dir: where ``check_dataset`` remembers its reports.

    Raises:
        InputError: everything that is wrong so far, as ``check_dataset`` tells it.
    """
    config = resolve_root(config)
    if config.name == SYNTHETIC:
        report = _synthetic_report(config)
        return Listing(report.num_images, report)
    assert config.root is not None  # resolve_root has set it
    splits, findings = match_splits(config.root, config)
    findings += [] if findings else _shared_patients(config, splits)
    raise_findings(findings, subject=f"data set {config.name!r} in {config.root}")
    num_images = {split: len(splits[split]) for split in SPLITS}
    fingerprint = _fingerprint(config, splits)
    return Listing(num_images, recall(cache_dir, fingerprint) or _kept(config, fingerprint))


def measured_before(config: DataConfig) -> DatasetReport | None:
    """The report that ``dataset.yaml`` keeps of a set, if its files and options are as they were; None otherwise."""
    config = resolve_root(config)
    if config.root is None:
        return None
    splits, findings = match_splits(config.root, config)
    return None if findings else _kept(config, _fingerprint(config, splits))


def _kept(config: DataConfig, fingerprint: str) -> DatasetReport | None:
    try:
        report = DatasetReport.model_validate(read_description(config.root).measured)
    except ValidationError:  # none, or of another version, or edited
        return None
    return report if report.fingerprint == fingerprint else None


def _read_all(
    config: DataConfig, splits: dict[str, list[Pair]], on_progress: Progress | None
) -> dict[str, list[Facts]]:
    pairs = [(split, pair) for split in splits for pair in splits[split]]
    results = run_parallel(lambda index: examine(pairs[index][1], config), len(pairs), on_progress)
    facts: dict[str, list[Facts]] = {split: [] for split in splits}
    for (split, _), found in zip(pairs, results, strict=True):
        facts[split].append(found)
    return facts


def _all_empty(facts: dict[str, list[Facts]]) -> list[Finding]:
    sound = {split: [one for one in found if not one.findings] for split, found in facts.items()}
    return [
        Finding(Fault.ALL_EMPTY, f"{split}/masks ({len(found)} masks)")
        for split, found in sound.items()
        if found and all(one.foreground == 0 for one in found)
    ]


def _by_content(splits: dict[str, list[Pair]], facts: dict[str, list[Facts]]) -> list[list[tuple[str, Path]]]:
    """Groups of (split, image) whose decoded pixels are equal."""
    groups: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for split, pairs in splits.items():
        for pair, found in zip(pairs, facts[split], strict=True):
            if found.digest:
                groups[found.digest].append((split, pair.image))
    return [group for group in groups.values() if len(group) > 1]


def _shared(splits: dict[str, list[Pair]], facts: dict[str, list[Facts]]) -> list[Finding]:
    """One finding for each further split an image is in."""
    findings = []
    for group in _by_content(splits, facts):
        for (first_split, first), (second_split, second) in pairwise(group):
            if first_split != second_split:
                note = f" ({first_split} and {second_split})" if "search" in (first_split, second_split) else ""
                findings.append(Finding(Fault.SHARED, f"{short_path(first)} = {short_path(second)}{note}"))
    return findings


def _patients(config: DataConfig, pairs: list[Pair]) -> set[str]:
    """Patients that the names of a split's images tell."""
    told = patients_of((pair.name for pair in pairs), config)
    return {patient for patient in told if patient is not None}


def _shared_patients(config: DataConfig, splits: dict[str, list[Pair]]) -> list[Finding]:
    """One finding for each patient that is in more than one split."""
    homes: dict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        for patient in sorted(_patients(config, splits[split])):
            homes[patient].append(split)
    return [
        Finding(Fault.SHARED_PATIENT, f"{patient} ({' and '.join(found)})")
        for patient, found in homes.items()
        if len(found) > 1
    ]


def _report(
    config: DataConfig, splits: dict[str, list[Pair]], facts: dict[str, list[Facts]], fingerprint: str
) -> DatasetReport:
    sizes = [one.size for found in facts.values() for one in found]
    ratios = [width / height for height, width in sizes]
    pieces = [one.smallest_piece for found in facts.values() for one in found if one.smallest_piece is not None]
    alike = _alike(splits, facts)
    return DatasetReport(
        name=config.name,
        num_images={split: len(splits[split]) for split in SPLITS},
        smallest_size=min(sizes, key=lambda size: (size[0] * size[1], size)),
        largest_size=max(sizes, key=lambda size: (size[0] * size[1], size)),
        median_size=(int(np.median([height for height, _ in sizes])), int(np.median([width for _, width in sizes]))),
        foreground_share={split: float(np.mean([one.foreground for one in facts[split]])) for split in SPLITS},
        class_share={split: _mean_shares(facts[split]) for split in SPLITS},
        class_images=tuple(np.mean([np.array(one.class_shares) > 0 for one in facts["train"]], axis=0).tolist()),
        aspect_ratios=(min(ratios), float(np.median(ratios)), max(ratios)),
        smallest_lesion=(min(pieces), float(np.median(pieces))) if pieces else None,
        intensities=tuple(
            (float(mean), float(std)) for mean, std in np.mean([one.intensities for one in facts["train"]], axis=0)
        ),
        num_alike=len(alike),
        num_patients={split: count for split in SPLITS if (count := len(_patients(config, splits[split])))},
        value_range=_value_range(facts),
        class_names=config.class_names,
        warnings=tuple(_warnings(config, splits, facts, alike)),
        fingerprint=fingerprint,
    )


def _mean_shares(facts: list[Facts]) -> tuple[float, ...]:
    return tuple(np.mean([one.class_shares for one in facts], axis=0).tolist())


def _value_range(facts: dict[str, list[Facts]]) -> tuple[float, float] | None:
    ranges = [one.value_range for found in facts.values() for one in found if one.value_range is not None]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None


def _warnings(
    config: DataConfig, splits: dict[str, list[Pair]], facts: dict[str, list[Facts]], alike: list[str]
) -> list[str]:
    found = []
    for split in SPLITS:
        rows = list(zip(splits[split], facts[split], strict=True))
        for share, what in ((0, "mark no pixel"), (1, "mark every pixel")):
            # Slices beyond the organs are as they should be.
            pictures = [(pair, one) for pair, one in rows if not pair.is_slice]
            names = [short_path(pair.mask) for pair, one in pictures if round(one.foreground, 9) == share]
            if names:
                found.append(f"{len(names)} of {len(rows)} {split} masks {what}: {name_some(names)}")
    twins = [
        f"{short_path(first)} = {short_path(second)}"
        for group in _by_content(splits, facts)
        for (_, first), (_, second) in pairwise(group)
    ]
    if twins:
        found.append(f"{len(twins)} images are in a split twice: {name_some(twins)}")
    turned = _images_that(splits, facts, lambda one: one.turned)
    if turned:
        found.append(
            f"{len(turned)} images have an EXIF orientation, which viewers apply and this software does not: "
            f"{name_some(turned)}; their masks must fit the pixels as stored"
        )
    without_alpha = _images_that(splits, facts, lambda one: one.without_alpha)
    if without_alpha:
        found.append(
            f"{len(without_alpha)} images have an alpha channel that is the same everywhere and is dropped: "
            f"{name_some(without_alpha)}"
        )
    if alike:
        found.append(
            f"{len(alike)} pairs of images in different splits look alike, as copies or neighbouring frames do, so "
            f"scores are too good: {name_some(alike)}; `slicemamba data prepare` keeps such images together"
        )
    unseen = _unseen_classes(config, facts["train"])
    if unseen:
        found.append(f"no train mask holds class {name_some(unseen)}; the network cannot learn it")
    return _small_splits(config, splits) + found + _option_warnings(config, splits, facts)


def _images_that(
    splits: dict[str, list[Pair]], facts: dict[str, list[Facts]], told: Callable[[Facts], bool]
) -> list[str]:
    """Images of which something is told, in all splits."""
    return [
        short_path(pair.image)
        for split in SPLITS
        for pair, one in zip(splits[split], facts[split], strict=True)
        if told(one)
    ]


def _alike(splits: dict[str, list[Pair]], facts: dict[str, list[Facts]]) -> list[str]:
    """Pairs of images in different splits that look alike; equal ones are a fault of their own."""
    rows = [
        (split, pair, one, one.sketch)
        for split in SPLITS
        for pair, one in zip(splits[split], facts[split], strict=True)
        if one.sketch is not None
    ]
    pairs = [(rows[i], rows[j]) for i, j in alike_pairs([row[3] for row in rows])]
    return [
        f"{short_path(first.image)} ~ {short_path(second.image)}"
        for (split, first, one, _), (other, second, two, _) in pairs
        if split != other and one.digest != two.digest
    ]


def _small_splits(config: DataConfig, splits: dict[str, list[Pair]]) -> list[str]:
    """Splits whose scores decide nothing, said first."""
    found = []
    for split in SPLITS[1:]:
        pairs = splits[split]
        units = len(set(groups_of((pair.name for pair in pairs), config)))
        if units < _FEW:
            alone = units == len(pairs)
            what = f"{units} image" if alone else f"{len(pairs)} images of {units} patient"
            found.append(f"{split} has {what}{'s' if units > 1 else ''}: {_MEANING[split]}")
    return found


def _option_warnings(config: DataConfig, splits: dict[str, list[Pair]], facts: dict[str, list[Facts]]) -> list[str]:
    """Options that are legal but can hardly be meant for these images."""
    found = []
    values = _value_range(facts)
    if values is not None and config.intensity == "unit" and (values[0] < -0.1 or values[1] > 1.1):
        found.append(
            f"slices hold values of {values[0]:g} … {values[1]:g}, which intensity 'unit' passes to the network "
            "unchanged; set window (for CT in Hounsfield units [-125, 275]) or another intensity"
        )
    names = [pair.name for split in SPLITS for pair in splits[split]]
    told = patients_of(names, config)
    untold = [name for name, patient in zip(names, told, strict=True) if patient is None]
    stored = read_description(config.root).groups
    if stored and untold:
        found.append(
            f"{DESCRIPTION_FILE} names no group for {len(untold)} of {len(names)} images, which stand alone: "
            f"{name_some(untold)}"
        )
    elif config.patient_pattern is not None and untold:
        found.append(f"patient_pattern finds no patient in {len(untold)} of {len(names)} names: {name_some(untold)}")
    return found


def _unseen_classes(config: DataConfig, train: list[Facts]) -> list[str]:
    shares = _mean_shares(train)
    names = config.class_names or tuple(map(str, range(config.num_classes)))
    return [names[label] for label in range(1, config.num_classes) if shares[label] == 0]


def _synthetic_report(config: DataConfig) -> DatasetReport:
    """Nothing can be wrong with files that are not there; only masks are drawn, for their share."""
    height, width = (min(side, _LARGEST_DRAWN) for side in config.image_size)
    shares = {}
    for split in SPLITS:
        count = min(split_size(config.synthetic, split), _MOST_DRAWN)
        shares[split] = _mask_share(config.synthetic.seed, split, count, (height, width))
    return DatasetReport(
        name=config.name,
        num_images={split: split_size(config.synthetic, split) for split in SPLITS},
        smallest_size=config.image_size,
        largest_size=config.image_size,
        median_size=config.image_size,
        foreground_share=shares,
        class_share={split: (1 - share, share) for split, share in shares.items()},
        fingerprint=_digest({"generator": GENERATOR_VERSION, "config": config.model_dump(mode="json")}),
    )


@lru_cache(maxsize=64)
def _mask_share(seed: int, split: str, count: int, size: tuple[int, int]) -> float:
    return float(np.mean([draw_mask(seed, split, index, size).mean() for index in range(count)]))


def _fingerprint(config: DataConfig, splits: dict[str, list[Pair]]) -> str:
    files = [path for pairs in splits.values() for pair in pairs for path in (pair.image, pair.mask)]
    options = config.model_dump(mode="json", exclude={"image_size", "fit", "synthetic"})
    described = read_description(config.root)
    options |= {"groups": described.groups, "strata": described.strata}
    return _digest({"version": CHECKS_VERSION, "files": fingerprint_files(files), "options": options})


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
