"""What a raw download holds: pairs of images and masks, found by its layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slicemamba.data.convert import RawPair
from slicemamba.data.description import Description
from slicemamba.data.findings import Finding, raise_findings
from slicemamba.data.isic import ACCEPTED, MASK_SUFFIXES, Pair, dead_links, match_files, picture_files
from slicemamba.data.nnunet import find_raw_set, read_raw_set
from slicemamba.data.prepare import Kind
from slicemamba.data.volumes import base_name
from slicemamba.errors import InputError, name_some

Names = tuple[str, str]
Folders = tuple[str | None, str | None]
FOLDERS: dict[Kind, list[Names]] = {
    "isic": [("images", "masks")],
    "kvasir": [("images", "masks")],
    "clinicdb": [("Original", "Ground Truth")],
    "folder": [("images", "masks"), ("imagesTr", "labelsTr")],
}
"""Names of the folders of images and masks in each download; upper and lower case do not matter. nnU-Net's are last."""


@dataclass(frozen=True)
class Download:
    """What was found.

    Attributes:
        pairs: all images with their masks.
        is_test: of each pair, whether the download itself tests on it.
        description: what the download says of its classes and channels; None where it says nothing.
        volumes: whether the files are volumes, to be cut into slices.
    """

    pairs: list[RawPair]
    is_test: list[bool]
    description: Description | None = None
    volumes: bool = False


def find_download(kind: Kind, source: Path, folders: Folders = (None, None)) -> Download:
    """Looks through a download; names only, but for ``dataset.json``.

    Args:
        kind: which download; ``isic`` takes all images below ``source`` and their ``…_segmentation.png``.
        source: folder of the download.
        folders: names of the folders of images and masks below ``source``; None is the usual one.

    Raises:
        InputError: no images, or names that do not match.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of the unpacked download")
    raw_set = find_raw_set(source) if kind == "folder" and folders == (None, None) else None
    if raw_set is not None:
        found = read_raw_set(raw_set)
        is_test = [False] * len(found.train) + [True] * len(found.test)
        return Download(found.train + found.test, is_test, found.description, found.volumes)
    pairs = _find_in_one(source / str(folders[0])) if _is_one(source, folders) else _find(kind, source, folders)
    return Download([RawPair(pair.name, (pair.image,), (pair.mask,)) for pair in pairs], [False] * len(pairs))


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
        images, masks = map(picture_files, found)
        dead = dead_links(*found)
    pairs, findings = match_files(images, masks, str(source))
    raise_findings(findings + dead, subject=f"{kind} download in {source}")
    return pairs


def _is_one(source: Path, folders: Folders) -> bool:
    return None not in folders and (source / str(folders[0])).resolve() == (source / str(folders[1])).resolve()


def _find_in_one(folder: Path) -> list[Pair]:
    """Pairs of images and masks that lie in one folder, where masks bear one of the known endings."""
    files = picture_files(folder)
    names = {base_name(path) for path in files}
    masks = [path for path in files if any(base_name(path).lower().endswith(suffix) for suffix in MASK_SUFFIXES)]
    masks = [path for path in masks if names & _without_suffix(base_name(path))]
    if not masks:
        raise InputError(
            f"images and masks are both looked for in {folder}, but no file there is named like another with one of "
            f"the endings of masks ({', '.join(MASK_SUFFIXES)}); rename the masks, or put them into their own folder"
        )
    pairs, findings = match_files([path for path in files if path not in set(masks)], masks, str(folder))
    raise_findings(findings + dead_links(folder), subject=f"download in {folder}")
    return pairs


def _without_suffix(stem: str) -> set[str]:
    return {stem[: -len(suffix)] for suffix in MASK_SUFFIXES if stem.lower().endswith(suffix)}


def _folders(kind: Kind, source: Path, given: Folders) -> tuple[Path, Path]:
    """The folders of images and masks, beside each other, in ``source`` or in the one folder below that has both."""
    usual = [(given[0] or images, given[1] or masks) for images, masks in FOLDERS[kind]]
    for names in usual:
        inside = [path for path in sorted(source.rglob("*")) if path.is_dir() and not _is_leftover(path, source)]
        found = [pair for parent in (source, *inside) if (pair := _beside(parent, names)) is not None]
        if len(found) > 1 and found[0][0].parent != source and kind != "clinicdb":  # that comes as PNG and as TIFF
            several = [str(images.parent.relative_to(source)) for images, _ in found]
            raise InputError(
                f"{source} holds several folders with {names[0]!r} and {names[1]!r}: {name_some(several)}; give one of "
                "them. A data set that is already split into train, val and test is ready for `slicemamba data check`"
            )
        if found:
            return found[0]
    wanted = " or ".join(f"{images!r} and {masks!r}" for images, masks in usual)
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
