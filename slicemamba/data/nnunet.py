"""What the ``dataset.json`` of an nnU-Net raw data set says of its labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slicemamba.data.description import Description
from slicemamba.errors import InputError, name_some

FILE = "dataset.json"
IMAGES = "imagestr"
_SECOND = "_0001"
"""End of the name of a case's second channel."""


def read_labels(images: Path) -> Description | None:
    """Classes of the set whose images are in the folder ``imagesTr``; None without a ``dataset.json`` beside it.

    Raises:
        InputError: it cannot be read, or its cases or labels are of a kind that is not supported.
    """
    path = images.parent / FILE
    if images.name.lower() != IMAGES or not path.is_file():
        return None
    second = sorted(file.name for file in images.iterdir() if file.name.split(".")[0].endswith(_SECOND))
    if second:
        raise InputError(
            f"{images} holds several channels of a case, of which one file can be used: {name_some(second)}"
        )
    labels = _labels(path)
    names = sorted(labels, key=labels.__getitem__)
    values = [labels[name] for name in names]
    if len(names) == 2:
        return Description(
            class_names=(names[0], names[1]), label_map=None if values == [0, 1] else {0: 0, values[1]: 1}
        )
    label_map = None if values == list(range(len(values))) else {value: label for label, value in enumerate(values)}
    return Description(num_classes=len(names), class_names=tuple(names), label_map=label_map)


def _labels(path: Path) -> dict[str, int]:
    """Name → value, of at least a background and one more."""
    try:
        labels: Any = json.loads(path.read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as nnU-Net's description with 'labels': {error!r}") from error
    if (
        isinstance(labels, dict) and labels and all(str(key).isdigit() for key in labels)
    ):  # the older form, value → name
        labels = {str(name): int(value) for value, name in labels.items()}
    sound = isinstance(labels, dict) and all(type(value) is int for value in labels.values())
    if not sound or 0 not in labels.values() or len(set(labels.values())) < max(2, len(labels)):
        raise InputError(f"{path}: labels must give each class a value of its own, 0 the background; got {labels}")
    if "ignore" in labels:
        raise InputError(
            f"{path} has an 'ignore' label, and pixels cannot be left out of training yet; take it out of {FILE} and "
            "give its pixels one of the other labels"
        )
    return {str(name): value for name, value in labels.items()}
