"""The layout of the published Synapse multi-organ files: slices to train on, whole volumes to test on.

    <root>/train_npz/case0005_slice000.npz      image (H, W) float32 in 0…1, label (H, W)
    <root>/search_npz/…                         optional; val_npz likewise
    <root>/test_vol_h5/case0001.npy.h5          image and label (Z, H, W)
    <root>/lists/lists_Synapse/{train,val,search,test_vol}.txt      one name a line; optional

A list says which files of its folder count. Without a list all do; what the val and search lists take out of
``train_npz`` is not trained on.
"""

from __future__ import annotations

from pathlib import Path

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
            lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
            return [base_name(Path(line)).removesuffix(".npz") for line in lines if line]
    return None


def test_volumes(root: Path) -> list[Path]:
    """Files of ``test_vol_h5``: those of the list ``test_vol`` in its order, or all by name.

    Raises:
        InputError: a listed volume is missing.
    """
    files = {base_name(path): path for path in sorted((root / "test_vol_h5").glob("*.h5"))}
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
