"""What a raw download holds: pairs of images and masks, found by its layout."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slicemamba.data.convert import RawPair
from slicemamba.data.description import Description
from slicemamba.data.dicom import is_dicom, is_series
from slicemamba.data.findings import Fault, Finding, raise_findings, short_path
from slicemamba.data.nnunet import find_raw_set, read_raw_set
from slicemamba.data.pair_table import read_pairs
from slicemamba.data.pairs import (
    ACCEPTED,
    MASK_SUFFIXES,
    Pair,
    dead_links,
    match_files,
    normal_name,
    picture_files,
    raw_files,
)
from slicemamba.data.prepare import Kind
from slicemamba.data.volumes import VOLUME_EXTENSIONS, base_name
from slicemamba.errors import InputError, name_some

Names = tuple[str, str]
Folders = tuple[str | None, str | None]
FOLDERS: dict[Kind, list[Names]] = {
    "isic": [("images", "masks")],
    "kvasir": [("images", "masks")],
    "clinicdb": [("Original", "Ground Truth")],
    "folder": [
        ("images", "masks"),
        ("imagesTr", "labelsTr"),
        ("image", "mask"),
        ("images", "labels"),
        ("image", "label"),
        ("img", "gt"),
        ("images", "gt"),
        ("img", "mask"),
        ("imgs", "masks"),
        ("Original", "Ground Truth"),
        ("images", "annotations"),
        ("images", "groundtruth"),
    ],
}
"""Names of the folders of images and masks in each download; upper and lower case do not matter."""

_SHOWN = 4
_NUMBERED = re.compile(r"(.+)_\d+")


@dataclass(frozen=True)
class Download:
    """What was found.

    Attributes:
        pairs: all images with their masks.
        is_test: of each pair, whether the download itself tests on it.
        description: what the download says of its classes and channels; None where it says nothing.
        volumes: whether the files are volumes, to be cut into slices.
        groups: name → patient, where the download tells it.
    """

    pairs: list[RawPair]
    is_test: list[bool]
    description: Description | None = None
    volumes: bool = False
    groups: dict[str, str] | None = None


def find_download(
    kind: Kind, source: Path, folders: Folders = (None, None), table: Path | None = None, columns: Sequence[str] = ()
) -> Download:
    """Looks through a download; names only, but for ``dataset.json`` and a table of pairs.

    Args:
        kind: which download; ``isic`` takes all images below ``source`` and their ``…_segmentation.png``.
        source: folder of the download.
        folders: names of the folders of images and masks below ``source``; None is the usual one.
        table, columns: of pairs, as ``read_pairs`` takes them.

    Raises:
        InputError: no images, or names that do not match.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of the unpacked download")
    if table is not None:
        listed, groups = read_pairs(table, source, columns)
        return Download(listed, [False] * len(listed), groups=groups or None)
    raw_set = find_raw_set(source) if kind == "folder" and folders == (None, None) else None
    if raw_set is not None:
        found = read_raw_set(raw_set)
        is_test = [False] * len(found.train) + [True] * len(found.test)
        return Download(found.train + found.test, is_test, found.description, found.volumes)
    if kind == "folder" and not _is_one(source, folders):
        instances = _find_instances(source, folders)
        if instances:
            return Download(instances, [False] * len(instances))
        series = _find_series(source, folders)
        if series:
            return Download(series, [False] * len(series), volumes=True)
    pairs = _find_raw(kind, source, folders)
    return Download(pairs, [False] * len(pairs))


def _find_raw(kind: Kind, source: Path, folders: Folders) -> list[RawPair]:
    if kind == "folder":
        if _is_one(source, folders):
            return _find_beside(picture_files(source / str(folders[0])), source / str(folders[0]))
        if folders == (None, None) and not _has_folders(source):
            files = _pictures_below(source)
            if _masks_among(files):
                return _find_beside(files, source)
    return [RawPair(pair.name, (pair.image,), (pair.mask,)) for pair in _find(kind, source, folders)]


def _find_series(source: Path, folders: Folders) -> list[RawPair]:
    """DICOM series, a folder each below the images, with a volume of labels, a DICOM SEG or a folder of masks of its
    name.
    """
    if folders == (None, None) and not _has_folders(source):
        return []
    images, masks = _folders("folder", source, folders)
    cases = [folder for folder in sorted(images.iterdir()) if is_series(folder)]
    if not cases:
        return []
    labels: dict[str, Path] = {}
    for path in sorted(masks.iterdir()):
        if path.name[0] != "." and (path.is_dir() or is_dicom(path) or path.name.lower().endswith(VOLUME_EXTENSIONS)):
            for name in [base_name(path), *_without_suffix(base_name(path))]:
                labels.setdefault(name, path)
    findings = [Finding(Fault.NO_MASK, short_path(case)) for case in cases if case.name not in labels]
    raise_findings(findings, subject=f"download in {source}")
    return [RawPair(case.name, (case,), (labels[case.name],)) for case in cases]


def _has_folders(source: Path) -> bool:
    return any(_beside(parent, names) for parent in _folders_below(source) for names in FOLDERS["folder"])


def _folders_below(source: Path) -> list[Path]:
    """``source`` and the folders below it, without leftovers."""
    inside = [path for path in sorted(source.rglob("*")) if path.is_dir() and not _is_leftover(path, source)]
    return [source, *inside]


def _pictures_below(source: Path) -> list[Path]:
    return [path for folder in _folders_below(source) for path in picture_files(folder)]


def _find_instances(source: Path, folders: Folders) -> list[RawPair]:
    """One folder an image, with a mask for each object, as the Data Science Bowl of 2018 has them; else []."""
    names = (folders[0] or "images", folders[1] or "masks")
    found = []
    for case in _folders_below(source)[1:]:
        parts = _beside(case, names)
        if parts is None:
            continue
        images, masks = map(picture_files, parts)
        if len(images) != 1:
            return []
        if not masks:
            raise_findings([Finding(Fault.NO_MASK, short_path(images[0]))], subject=f"download in {source}")
        found.append(RawPair(normal_name(images[0]), (images[0],), tuple(masks)))
    return found if len(found) > 1 else []


def _find(kind: Kind, source: Path, folders: Folders) -> list[Pair]:
    """Pairs of the download; raises InputError when there are none or names do not match."""
    dead: list[Finding] = []
    if kind == "isic" and folders == (None, None):
        files = [
            path for path in sorted(source.rglob("*")) if path.name.lower().endswith(ACCEPTED) and path.name[0] != "."
        ]
        masks = [path for path in files if path.stem.endswith("_segmentation")]
        images = [path for path in files if not path.stem.endswith(("_segmentation", "_superpixels"))]
    else:
        found = _folders(kind, source, folders)
        images, masks = raw_files(found[0]), picture_files(found[1])
        dead = dead_links(*found)
    pairs, findings = match_files(images, masks, str(source))
    raise_findings(findings + dead, subject=f"{kind} download in {source}")
    return pairs


def _is_one(source: Path, folders: Folders) -> bool:
    return None not in folders and (source / str(folders[0])).resolve() == (source / str(folders[1])).resolve()


def _find_beside(files: list[Path], folder: Path) -> list[RawPair]:
    """Images and masks that lie beside each other, where masks bear one of the known endings, perhaps with a number.

    Several masks of an image are united, as ``a_mask.png`` and ``a_mask_1.png`` of BUSI.
    """
    masks = _masks_among(files)
    if not masks:
        raise InputError(
            f"images and masks are both looked for in {folder}, but no file there is named like another with one of "
            f"the endings of masks ({', '.join(MASK_SUFFIXES)}); rename the masks, or put them into their own folder"
        )
    images = [path for path in files if path not in masks]
    uses = Counter(normal_name(path) for path in images)
    found: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for mask, image in masks.items():
        found[image].append(mask)
    pairs, findings = [], []
    for path in images:
        name, own = normal_name(path), found[path.parent, normal_name(path)]
        if uses[name] > 1:
            findings.append(Finding(Fault.TWO_IMAGES, short_path(path)))
        elif not own:
            findings.append(Finding(Fault.NO_MASK, short_path(path)))
        else:
            pairs.append(RawPair(name, (path,), tuple(own)))
    raise_findings(findings + dead_links(folder), subject=f"download in {folder}")
    return sorted(pairs, key=lambda pair: pair.name)


def _masks_among(files: list[Path]) -> dict[Path, tuple[Path, str]]:
    """Masks, each with the folder and name of its image, which is among the files, too."""
    names = {(path.parent, normal_name(path)) for path in files}
    masks = {}
    for path in files:
        name = normal_name(path)
        numbered = _NUMBERED.fullmatch(name)
        stems = [name] if numbered is None else [name, numbered[1]]
        shorts = [short for stem in stems for short in _without_suffix(stem)]
        image = next((short for short in shorts if (path.parent, short) in names), None)
        if image is not None:
            masks[path] = (path.parent, image)
    return masks


def _without_suffix(stem: str) -> list[str]:
    return [stem[: -len(suffix)] for suffix in MASK_SUFFIXES if stem.lower().endswith(suffix)]


def _folders(kind: Kind, source: Path, given: Folders) -> tuple[Path, Path]:
    """The folders of images and masks, beside each other, in ``source`` or in the one folder below that has both."""
    usual = [(given[0] or images, given[1] or masks) for images, masks in FOLDERS[kind]]
    for names in usual:
        found = [pair for parent in _folders_below(source) if (pair := _beside(parent, names)) is not None]
        if len(found) > 1 and found[0][0].parent != source and kind != "clinicdb":  # that comes as PNG and as TIFF
            several = [str(images.parent.relative_to(source)) for images, _ in found]
            raise InputError(
                f"{source} holds several folders with {names[0]!r} and {names[1]!r}: {name_some(several)}; give one of "
                "them. A data set that is already split into train, val and test is ready for `slicemamba data check`"
            )
        if found:
            return found[0]
    wanted = " or ".join(f"{images!r} and {masks!r}" for images, masks in dict.fromkeys(usual[:_SHOWN]))
    holds = name_some(sorted(path.name for path in source.iterdir())) or "nothing"
    raise InputError(
        f"{source} has no folders {wanted} side by side; it holds {holds}. Give the folder of the unpacked "
        "download, or name them with --images and --masks"
    )


def _beside(parent: Path, names: Names) -> tuple[Path, Path] | None:
    images, masks = (_below(parent, name) for name in names)
    return None if images is None or masks is None else (images, masks)


def _is_leftover(path: Path, source: Path) -> bool:
    """Hidden, or what macOS puts into archives beside the files."""
    return any(part == "__MACOSX" or part.startswith(".") for part in path.relative_to(source).parts)


def _below(parent: Path, name: str) -> Path | None:
    if (parent / name).is_dir():
        return parent / name
    return next((path for path in parent.iterdir() if path.is_dir() and path.name.lower() == name.lower()), None)
