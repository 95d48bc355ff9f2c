"""The layout in which polyp sets are handed around: one set to train on, several to test on.

    <root>/TrainDataset/{images|image,masks|mask}
    <root>/searchDataset/…, <root>/valDataset/…                  optional
    <root>/TestDataset/<name>/{images,masks}                     or TestDataset/{images,masks} for one alone

Upper and lower case do not matter.
"""

from __future__ import annotations

from pathlib import Path

from slicemamba.errors import InputError

FOLDERS = {"train": "traindataset", "val": "valdataset", "search": "searchdataset"}
TEST = "testdataset"
PARTS = (("images", "image"), ("masks", "mask"))


def is_polyp(root: Path) -> bool:
    """True when the folder holds ``TrainDataset``."""
    return _child(root, FOLDERS["train"]) is not None


def polyp_folders(root: Path, test_set: str | None) -> dict[str, tuple[Path, Path]]:
    """(images, masks) of each split that the folder has.

    Args:
        root: the set's folder.
        test_set: folder below ``TestDataset`` to test on; may be None when there is only one.

    Raises:
        InputError: a folder is missing, or which test set is meant is not told.
    """
    found = {split: folder for split, name in FOLDERS.items() if (folder := _child(root, name)) is not None}
    return {split: _parts(folder) for split, folder in {**found, "test": _test_folder(root, test_set)}.items()}


def test_sets(root: Path) -> list[str]:
    """Names of the folders below ``TestDataset``, without those of a single set's own images and masks."""
    folder = _child(root, TEST)
    if folder is None:
        return []
    own = [name for part in PARTS for name in part]
    entries = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path.name for path in entries if path.name.lower() not in own)


def _test_folder(root: Path, test_set: str | None) -> Path:
    folder = _child(root, TEST)
    if folder is None:
        raise InputError(f"missing: {root}/TestDataset/<name>/{{images,masks}}", pointer="/data/root")
    names = test_sets(root)
    if test_set is None and len(names) <= 1:
        return folder / names[0] if names else folder
    if test_set not in names:
        got = f"there is no {test_set!r}" if test_set else "none is chosen"
        raise InputError(
            f"test_set must name one of the test sets in {folder}: {', '.join(names) or 'none'}; {got}",
            pointer="/data/test_set",
        )
    return folder / test_set


def _parts(folder: Path) -> tuple[Path, Path]:
    found = [_child(folder, *names) for names in PARTS]
    missing = [f"{folder}/{names[0]}" for names, path in zip(PARTS, found, strict=True) if path is None]
    if missing:
        raise InputError(f"missing: {' and '.join(missing)}", pointer="/data/root")
    images, masks = found
    assert images is not None
    assert masks is not None
    return images, masks


def _child(folder: Path, *names: str) -> Path | None:
    """The first subfolder that has one of the names, which are in lower case."""
    return next((path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in names), None)
