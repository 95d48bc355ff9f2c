"""The layout of the published Synapse multi-organ files: slices to train on, whole volumes to test on.

    <root>/train_npz/case0005_slice000.npz      image (H, W) float32 in 0…1, label (H, W)
    <root>/search_npz/…                         optional; val_npz likewise
    <root>/test_vol_h5/case0001.npy.h5          image and label (Z, H, W)
    <root>/lists/lists_Synapse/{train,val,search,test_vol}.txt      one name a line; optional

A list says which files of its folder count. Without a list all do; what the val and search lists take out of
``train_npz`` is not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slicemamba.data.findings import BadFileError, Fault, Finding
from slicemamba.data.pairs import Pair
from slicemamba.data.slices import count_slices
from slicemamba.data.volumes import base_name
from slicemamba.errors import InputError, name_some

LISTS = ("lists/lists_Synapse", "lists")


def is_synapse(root: Path) -> bool:
    """True when the folder holds ``train_npz`` or ``test_vol_h5``."""
    return (root / "train_npz").is_dir() or (root / "test_vol_h5").is_dir()


def read_list(root: Path, name: str) -> list[str] | None:
    """Names in ``<lists>/<name>.txt`` without extensions and blank lines, or None when there is no such list."""
    for folder in LISTS:
        path = root / folder / f"{name}.txt"
        if path.is_file():
            lines = (line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
            return [base_name(Path(line)).removesuffix(".npz") for line in lines if line]
    return None


def match_synapse(root: Path) -> tuple[dict[str, list[Pair]], list[Finding]]:
    """Slices of train and test, and of val and search where the folder tells them, each sorted; and what is wrong.

    Raises:
        InputError: a listed test volume is missing.
    """
    pairs: dict[str, list[Pair]] = {}
    findings: list[Finding] = []
    for split in ("val", "search", "train"):
        own = root / f"{split}_npz"
        names = read_list(root, split)
        if split == "train" or own.is_dir() or names is not None:
            pairs[split], missing = _slices(own if own.is_dir() else root / "train_npz", names)
            findings += [Finding(Fault.LISTED, f"{item} (list {split})") for item in missing]
    elsewhere = {pair.image for split in ("val", "search") for pair in pairs.get(split, [])}
    if read_list(root, "train") is None:
        pairs["train"] = [pair for pair in pairs["train"] if pair.image not in elsewhere]
    pairs["test"], faults = _volume_slices(test_volumes(root))
    findings += faults
    findings += [Finding(Fault.NO_IMAGES, f"{split} (Synapse layout)") for split in pairs if not pairs[split]]
    return pairs, findings


def _slices(folder: Path, names: list[str] | None) -> tuple[list[Pair], list[str]]:
    """Pairs of a folder of ``.npz``, and the names that are listed but not there."""
    files = {path.stem: path for path in folder.glob("[!.]*.npz")} if folder.is_dir() else {}
    wanted = sorted(files if names is None else set(names))
    return [Pair(name, files[name], files[name]) for name in wanted if name in files], [
        f"{folder.name}/{name}.npz" for name in wanted if name not in files
    ]


def _volume_slices(volumes: Iterable[Path]) -> tuple[list[Pair], list[Finding]]:
    pairs, findings = [], []
    for path in volumes:
        try:
            count = count_slices(path)
        except BadFileError as error:
            findings.append(error.finding)
            continue
        pairs += [Pair(f"{base_name(path)}_slice{index:03d}", path, path, index) for index in range(count)]
    return pairs, findings


def test_volumes(root: Path) -> list[Path]:
    """Files of ``test_vol_h5``: those of the list ``test_vol`` in its order, or all by name.

    Raises:
        InputError: a listed volume is missing.
    """
    files = {base_name(path): path for path in sorted((root / "test_vol_h5").glob("[!.]*.h5"))}
    names = read_list(root, "test_vol")
    if names is None:
        return list(files.values())
    missing = [name for name in names if name not in files]
    if missing:
        raise InputError(
            f"{root / 'test_vol_h5'} lacks volumes that the list test_vol names: {name_some(missing)}; "
            "add them or correct the list",
            pointer="/data/root",
        )
    return [files[name] for name in names]
