"""``dataset.yaml``, the description beside a data set: what its masks hold and which images belong together.

`slicemamba data prepare` writes it and every command reads it, so that what was told once need not be told again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, model_validator

from slicemamba.config import Config, DataConfig, check_label_map, validate
from slicemamba.documents import read_yaml
from slicemamba.files import write_text

FILE = "dataset.yaml"
OF_THE_FOLDER = {"groups", "strata", "measured"}
"""Options that no configuration has."""

_HEAD = (
    "# Written by `slicemamba data prepare` and `data check`; every command reads it, and it may be edited: "
    "docs/data.md.\n"
)


class Description(Config):
    """What a folder says of itself.

    Attributes:
        num_classes, label_map, ignore_label, class_names, channels, per_channel: as in DataConfig; they hold where a
            configuration leaves its defaults.
        groups: image name without extension (or name of a volume) → patient, video or what else stays together.
        strata: the same → words that are to be as frequent in each part of the set: what its mask holds.
        measured: what `data check` found, a ``DatasetReport``; of another version it may have other fields.
    """

    num_classes: PositiveInt = 1
    label_map: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    ignore_label: Annotated[int, Field(ge=0, le=65535)] | None = None
    class_names: tuple[str, ...] | None = None
    channels: Annotated[int, Field(ge=1, le=16)] = 3
    per_channel: bool | None = None
    groups: dict[str, str] = Field(default_factory=dict)
    strata: dict[str, str] = Field(default_factory=dict)
    measured: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _as_a_configuration(self) -> Description:
        check_label_map(self.label_map, self.num_classes)
        DataConfig(**self.model_dump(exclude=OF_THE_FOLDER))
        return self


def read_description(root: Path | None) -> Description:
    """What the folder says; an empty description where it says nothing.

    Raises:
        InputError: ``dataset.yaml`` cannot be read or is wrong, with the option.
    """
    path = None if root is None else root / FILE
    if path is None or not path.is_file():
        return Description()
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Description:
    """Once for each state of the file: groups and strata of 100,000 images take a second or two."""
    described: Description = validate(Description, read_yaml(path, long=True), source=str(path))
    return described


def write_description(folder: Path, description: Description) -> None:
    """Writes ``dataset.yaml``, without what is at its default."""
    values: dict[str, Any] = description.model_dump(mode="json", exclude_defaults=True)
    if description.label_map is not None:
        values["label_map"] = dict(description.label_map)  # numbers, which JSON would make text
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else "{}\n"
    write_text(folder / FILE, _HEAD + text)


def write_measured(folder: Path, measured: dict[str, Any]) -> None:
    """Writes ``measured`` into ``dataset.yaml``; all else in it stays as it is, with its comments.

    Raises:
        OSError: the folder cannot be written. InputError: ``dataset.yaml`` is wrong.
    """
    path = folder / FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else _HEAD
    told = read_yaml(path, long=True) if path.is_file() else {}
    told.pop("measured", None)
    block = yaml.safe_dump({"measured": measured}, sort_keys=False, allow_unicode=True)
    kept = re.sub(r"(?ms)^measured:.*?(?=^[^\s]|\Z)", "", before).rstrip().removesuffix("{}")
    text = f"{kept.rstrip()}\n{block}"
    whole = told | {"measured": measured}
    try:
        lasts = yaml.safe_load(text) == whole
    except yaml.YAMLError:  # its form takes no further lines
        lasts = False
    write_text(path, text if lasts else _HEAD + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


def describe(config: DataConfig) -> DataConfig:
    """The configuration with what its folder says of it, where it leaves these options at their defaults."""
    found = read_description(config.root)
    if config.channels == 3 and config.per_channel is None:
        config = config.model_copy(update={"channels": found.channels, "per_channel": found.per_channel})
    if config.num_classes == 1 and config.label_map is None:
        options = found.model_dump(include={"num_classes", "label_map"})
        if config.ignore_label is None:
            options["ignore_label"] = found.ignore_label
        config = config.model_copy(update=options)
    as_described = (config.num_classes, config.label_map) == (found.num_classes, found.label_map)
    if config.class_names is None and as_described:
        config = config.model_copy(update={"class_names": found.class_names})
    return config
