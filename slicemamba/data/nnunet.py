"""nnU-Net raw data sets: what their ``dataset.json`` says, and which files make up a case.

<root>/dataset.json                          labels, channel_names, file_ending
<root>/imagesTr/<case>_0000.png, _0001 …     one file a channel; or <case>.nii.gz, as MSD has them
<root>/labelsTr/<case>.png
<root>/imagesTs, labelsTs                    likewise; where both are there, they are the test split
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicemamba.data.cases import case_and_channel
from slicemamba.data.convert import RawPair
from slicemamba.data.description import Description
from slicemamba.data.findings import Fault, Finding, raise_findings, short_path
from slicemamba.data.pairs import normal_name, picture_files
from slicemamba.data.volumes import VOLUME_EXTENSIONS, is_volume
from slicemamba.errors import InputError

FILE = "dataset.json"
IGNORE = "ignore"


@dataclass(frozen=True)
class RawSet:
    """A raw data set.

    Attributes:
        description: classes, ignored label and channels.
        train: cases with labels. test: those of ``labelsTs``.
        channel_names: of each channel, such as CT or T1.
        volumes: whether its files are volumes.
    """

    description: Description
    train: list[RawPair]
    test: list[RawPair]
    channel_names: tuple[str, ...]
    volumes: bool


def is_raw_set(root: Path) -> bool:
    """True where the folder holds ``dataset.json`` beside ``imagesTr`` and ``labelsTr``."""
    return (root / FILE).is_file() and all((root / part).is_dir() for part in ("imagesTr", "labelsTr"))


def find_raw_set(source: Path) -> Path | None:
    """``source``, or the one folder in it that is a raw data set; None where there is none or more than one."""
    if not source.is_dir():
        return None
    found = [folder for folder in (source, *sorted(source.iterdir())) if folder.is_dir() and is_raw_set(folder)]
    return found[0] if found[:1] == [source] or len(found) == 1 else None


def read_raw_set(root: Path) -> RawSet:
    """Cases and description of a raw data set.

    Raises:
        InputError: ``dataset.json`` is faulty or of a kind that is not supported, or cases lack files.
    """
    told = _read(root / FILE)
    channel_names = _channel_names(told)
    train, findings = _cases(root, "Tr", len(channel_names))
    test, more = _cases(root, "Ts", len(channel_names)) if (root / "labelsTs").is_dir() else ([], [])
    if not train:
        findings.append(Finding(Fault.NO_IMAGES, f"{root}/labelsTr"))
    raise_findings(findings + more, subject=f"nnU-Net data set in {root}")
    volumes = is_volume(train[0].images[0])
    several = len(train[0].images) > 1 or (volumes and len(channel_names) > 1)
    channels = len(channel_names) if several else (1 if volumes else 3)
    options = _label_options(root / FILE, told) | {"channels": channels}
    if several and channels == 3:
        options["per_channel"] = True
    return RawSet(Description(**options), train, test, channel_names, volumes)


def _read(path: Path) -> dict[str, Any]:
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        labels = told["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as nnU-Net's description with 'labels': {error!r}") from error
    if not isinstance(labels, dict):
        raise InputError(f"{path}: labels must be a mapping of names and values; got {labels!r}")
    return dict(told)


def _channel_names(told: dict[str, Any]) -> tuple[str, ...]:
    """In the order of their numbers; ``modality`` is what older files call them."""
    names = told.get("channel_names") or told.get("modality") or {"0": "image"}
    if not isinstance(names, dict) or not all(str(key).isdigit() for key in names):
        raise InputError(f"{FILE}: channel_names must give each channel's number a name; got {names!r}")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _cases(root: Path, end: str, channels: int) -> tuple[list[RawPair], list[Finding]]:
    """Cases that have labels, by name, and what is wrong with their files."""
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _files(root / f"images{end}"):
        case, channel = case_and_channel(path)
        images[case][channel] = path
    pairs, findings = [], []
    for label in _files(root / f"labels{end}"):
        name = normal_name(label)
        found = images.pop(name, {})
        if not found:
            findings.append(Finding(Fault.NO_IMAGE, short_path(label)))
        elif sorted(found) != list(range(len(found))) or len(found) not in (1, channels):
            told = ", ".join(found[number].name for number in sorted(found))
            findings.append(Finding(Fault.CASE, f"{name} ({told}; {FILE} names {channels} channels)"))
        else:
            pairs.append(RawPair(name, tuple(found[number] for number in sorted(found)), (label,)))
    findings += [Finding(Fault.NO_MASK, short_path(next(iter(found.values())))) for found in images.values()]
    return pairs, findings


def _files(folder: Path) -> list[Path]:
    """Pictures and volumes of a folder, without hidden ones."""
    if not folder.is_dir():
        return []
    volumes = [path for path in folder.iterdir() if path.name.lower().endswith(VOLUME_EXTENSIONS)]
    return sorted({*picture_files(folder), *(path for path in volumes if path.is_file() and path.name[0] != ".")})


def _label_options(path: Path, told: dict[str, Any]) -> dict[str, Any]:
    """num_classes, class_names, label_map and ignore_label."""
    labels: dict[str, Any] = told["labels"]
    if labels and all(str(key).isdigit() for key in labels):  # the older form, value → name
        labels = {str(name): int(value) for value, name in labels.items()}
    if any(isinstance(value, list) for value in labels.values()):
        raise InputError(
            f"{path} has regions, classes of several values: {labels}; networks here tell classes apart that do not "
            "overlap: give each value a name of its own"
        )
    sound = all(type(value) is int for value in labels.values())
    values = set(labels.values()) if sound else set()
    if 0 not in values or len(values) < max(2, len(labels)):
        raise InputError(f"{path}: labels must give each class a value of its own, 0 the background; got {labels}")
    ignored = labels.get(IGNORE)
    classes = {name: value for name, value in labels.items() if name != IGNORE}
    names = sorted(classes, key=classes.__getitem__)
    stored = [classes[name] for name in names]
    options: dict[str, Any] = {"class_names": tuple(names)}
    if ignored is not None:
        options["ignore_label"] = ignored
    if len(names) < 2:
        raise InputError(f"{path}: labels must name a class beside the background; got {labels}")
    if stored != list(range(len(stored))):
        options["label_map"] = {value: label for label, value in enumerate(stored)}
    return options | ({} if len(names) == 2 else {"num_classes": len(names)})
