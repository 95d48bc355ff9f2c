"""Pairs of images and masks from a table: CSV with commas, semicolons or tabs, or JSON."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slicemamba.data.convert import RawPair
from slicemamba.data.findings import Fault, Finding, raise_findings, short_path
from slicemamba.data.pairs import normal_name
from slicemamba.errors import InputError

COLUMNS = (
    ("image", "img", "image_path", "images", "filename", "file"),
    ("mask", "label", "mask_path", "segmentation", "masks", "labels"),
    ("group", "patient", "patient_id", "case", "video", "subject"),
)
"""Names that are known of the columns of images, masks and, where there is one, groups."""


def read_pairs(path: Path, root: Path, columns: Sequence[str] = ()) -> tuple[list[RawPair], dict[str, str]]:
    """Pairs, and each one's group where the table tells it. Several masks of an image are united.

    Args:
        path: ``.json`` is a list of objects, or an object with such a list; any other file is CSV.
        root: folder that paths in the table start from.
        columns: names of the columns of images and masks, and perhaps of groups; those of ``COLUMNS`` where empty.

    Raises:
        InputError: the table cannot be read, lacks a column, or names files that are not there.
    """
    rows = _read(path)
    if not rows:
        raise InputError(f"{path} holds no rows")
    image, mask, group = _choose(rows[0], path, columns)
    masks: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        if row.get(image) and row.get(mask):
            masks.setdefault(str(row[image]), []).append(str(row[mask]))
            groups.setdefault(str(row[image]), "" if group is None else str(row.get(group) or ""))
    missing = [
        file
        for file in dict.fromkeys([*masks, *(one for some in masks.values() for one in some)])
        if not (root / file).is_file()
    ]
    raise_findings([Finding(Fault.LISTED, file) for file in missing], subject=f"table {path} (paths from {root})")
    names = _names([root / file for file in masks])
    pairs = [
        RawPair(name, (root / file,), tuple(root / one for one in dict.fromkeys(masks[file])))
        for name, file in zip(names, masks, strict=True)
    ]
    return pairs, {name: groups[file] for name, file in zip(names, masks, strict=True) if groups[file]}


def _names(paths: list[Path]) -> list[str]:
    """Names without extension; with their folder's where files of several folders share one."""
    uses = Counter(normal_name(path) for path in paths)
    own = [normal_name(path) for path in paths]
    names = [name if uses[name] == 1 else f"{path.parent.name}_{name}" for path, name in zip(paths, own, strict=True)]
    again = Counter(names)
    twice = [short_path(path) for path, name in zip(paths, names, strict=True) if again[name] > 1]
    raise_findings([Finding(Fault.TWO_IMAGES, path) for path in twice], subject="table of pairs")
    return names


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            values: Any = json.loads(text)
            if isinstance(values, dict):
                values = next((value for value in values.values() if isinstance(value, list) and value), [])
            if not all(isinstance(row, dict) for row in values):
                raise InputError(f"{path} must hold a list of objects with the files of an image and its mask")
            return list(values)
        head = text.splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=head.count)
        return list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"table {path} cannot be read: {error}") from None


def _choose(row: dict[str, Any], path: Path, given: Sequence[str]) -> tuple[str, str, str | None]:
    """Names of the three columns."""
    told = [str(name) for name in row]
    if given:
        lacking = [name for name in given if name not in told]
        if lacking or len(given) not in (2, 3):
            raise InputError(f"--columns must name those of images and masks, and perhaps groups; {path} has {told}")
        return given[0], given[1], given[2] if len(given) == 3 else None
    known = {name.lower().strip(): name for name in reversed(told)}
    image, mask, group = (next((known[name] for name in names if name in known), None) for names in COLUMNS)
    if image is None or mask is None:
        raise InputError(f"{path} has the columns {told}; name those of images and masks: --columns image,mask")
    return image, mask, group
