"""Which files are predicted on: those given, and the images and volumes in and below folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from slicemamba.data.dicom import is_dicom, is_series
from slicemamba.data.pairs import RAW_EXTENSIONS, is_raw
from slicemamba.data.volumes import VOLUME_EXTENSIONS, is_volume
from slicemamba.errors import InputError, name_some


def find_inputs(paths: Sequence[Path], out: Path | None = None) -> tuple[list[Path], Counter[str]]:
    """Files as given, folders by the images and volumes in and below them, sorted; and what was left aside there.

    Args:
        paths: files and folders.
        out: where masks are to be written; when it lies in such a folder, nothing is taken from it.

    Returns:
        The files, and how many of each extension in these folders are no input (hidden ones are not counted).

    Raises:
        InputError: a path does not exist, or there is nothing to predict on at all.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {name_some(missing)}")
    found: list[Path] = []
    aside: Counter[str] = Counter()
    for path in paths:
        files = _files_below(path, out) if path.is_dir() else []
        found += [path] if not path.is_dir() else [file for file in _with_series(files) if _is_input(file)]
        aside.update(file.suffix.lower() or "without extension" for file in files if not _is_input(file))
    if not found:
        known = ", ".join(sorted((*RAW_EXTENSIONS, *VOLUME_EXTENSIONS)))
        raise InputError(f"no image or volume ({known}) in {name_some(list(paths))}{tell_aside(aside)}")
    return list(dict.fromkeys(found)), aside


def tell_aside(aside: Counter[str]) -> str:
    """``; 24 files of kinds that are not read were left aside: .dcm 15, .nrrd 9``, or nothing."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in aside.most_common())
    return f"; {aside.total()} files of kinds that are not read were left aside: {kinds}" if aside else ""


def _files_below(folder: Path, out: Path | None) -> list[Path]:
    """All files, without hidden ones, those in hidden folders and those in ``out``."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if name[0] != "." and not _is_output(here / name, out))
        found += [here / name for name in sorted(files) if name[0] != "."]  # such as the ._ files that macOS leaves
    return found


def _with_series(files: list[Path]) -> list[Path]:
    """The files, where those of a DICOM series are one, their folder."""
    series = {folder for folder in {path.parent for path in files if is_dicom(path)} if is_series(folder)}
    return sorted({path.parent if is_dicom(path) and path.parent in series else path for path in files})


def _is_output(path: Path, out: Path | None) -> bool:
    """Whether it is the output folder, or one that it has for other outputs than masks."""
    return out is not None and path.resolve() in [(out / name).resolve() for name in ("", "probabilities", "overlays")]


def _is_input(path: Path) -> bool:
    return is_raw(path) or is_volume(path)
