"""From a request's body to a job that can run: schema, what a request must not contain, and the data set."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema, core_schema

from cluster.config import SearchJob, parse_job
from slicemamba.config import DataConfig
from slicemamba.data.checks import Listing, check_listing, list_datasets, resolve_root
from slicemamba.docstrings import add_descriptions
from slicemamba.errors import InputError

EXAMPLE: dict[str, Any] = {
    "name": "first try",
    "labels": {"team": "dermatology"},
    "data": {"name": "synthetic", "image_size": [64, 64]},
    "model": {"embed_dim": 16, "encoder_depths": [1, 1, 2], "decoder_depths": [1, 1, 1]},
    "supernet": {"epochs": 4, "batch_size": 8},
    "search": {"objectives": ["dice", "hd95", "latency_ms"], "num_trials": 24, "population_size": 8, "num_parents": 4,
               "num_mutations": 4, "num_crossovers": 4},
    "retrain": {"epochs": 8, "batch_size": 8},
}  # fmt: skip


_LOOKS = 16  # at sets whose names differ, at the same time


class NamedData(DataConfig):
    """A data set known to the server, by name."""

    root: SkipJsonSchema[None] = None


class SearchRequest(SearchJob):
    """A search: trains the supernet, searches, retrains the winner (unless `retrain` is null), evaluates it on test."""

    kind: Literal["search"] = "search"
    data: NamedData = NamedData()
    init: Literal["supernet"] | None = None


class JobBody(dict[str, Any]):
    """The body as it came. Documented with the job's schema, but checked by ``read_job``, which says how to mend it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(SearchRequest.__pydantic_core_schema__)
        add_descriptions(SearchRequest, found)
        return found


def read_job(body: Mapping[str, Any]) -> SearchJob:
    """The search a body asks for.

    Raises:
        InputError: not a valid search, of a kind that is not served, or it holds a path.
    """
    kind = body.get("kind", "search")
    if kind in ("supernet", "retrain", "pretrain"):
        raise InputError(
            f"a submission must be of kind 'search'; run a {kind!r} job with the command line, or retrain a trial of a "
            "search with POST …/trials/{number}/retrain",
            pointer="/kind",
        )
    _check_no_path(body)
    job = parse_job(body, source="the request")
    assert isinstance(job, SearchJob)
    for pointer, value in _leaves(job, ""):
        if isinstance(value, Path):
            raise InputError(f"{pointer} is a path, which a request must not contain; leave it out", pointer=pointer)
    check_finite(job)
    return job


def check_finite(job: BaseModel) -> None:
    """Raises InputError for infinity and NaN, which JSON does not know and Python's parser takes."""
    for pointer, value in _leaves(job, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{pointer} must be a finite number; got {value}", pointer=pointer)


def _check_no_path(body: Mapping[str, Any]) -> None:
    """Before anything else, as the mend is another than for a misspelt field."""
    data = body.get("data")
    if isinstance(data, Mapping) and data.get("root") is not None:
        raise InputError(
            "a request names a data set by data.name and must not contain its folder; "
            "GET /v1/datasets lists the names this server knows",
            pointer="/data/root",
        )
    if body.get("init") not in (None, "supernet"):
        raise InputError(
            "a request may start the retraining from 'supernet' or null only, as it must not contain a path; "
            "start from other weights on the command line",
            pointer="/init",
        )


def _leaves(value: object, pointer: str) -> Iterator[tuple[str, object]]:
    """(pointer, value) of all fields that hold no further ones."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), f"{pointer}/{name}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{pointer}/{i}")
    else:
        yield pointer, value


def check_data(data: DataConfig, data_root: Path | None, cache_dir: Path) -> tuple[DataConfig, Listing]:
    """The data set with its folder put in, and what it holds.

    Its files are not decoded, which takes minutes for a large set: the driver does, before it trains.

    Args:
        data: as asked for. data_root: the server's folder of data sets. cache_dir: remembers reports of unchanged sets.

    Raises:
        InputError: the name is unknown, or the files are not as they should be; they are named.
    """
    known = list_datasets(data_root)
    if data.name not in known:
        raise InputError(
            f"data set {data.name!r} is not known to this server; known: {', '.join(known)}", pointer="/data/name"
        )
    try:
        resolved = resolve_root(data, data_root)
        return resolved, check_listing(resolved, cache_dir=cache_dir)
    except InputError as error:
        # The folder is none of the request's fields, so a fault of it is one of the name that led there.
        pointer = "/data/name" if error.pointer in (None, "/data/root") else error.pointer
        message, *details = (without_folder(text, data.name, data_root) for text in (error.message, *error.details))
        raise InputError(message, pointer=pointer, details=details) from None


@dataclass
class _Look:
    lock: Lock = field(default_factory=Lock)
    begun: float = -math.inf
    data: DataConfig | None = None
    found: tuple[DataConfig, Listing] | None = None


class DataLooks:
    """``check_data`` for many at once: one look at a time at each set, which may lie on a slow disk or be large.

    A look serves all who asked for the same before it began, so that a crowd waits for two looks at the most.
    """

    def __init__(self, data_root: Path | None, cache_dir: Path) -> None:
        self._data_root = data_root
        self._cache_dir = cache_dir
        self._last = [_Look() for _ in range(_LOOKS)]

    def check(self, data: DataConfig) -> tuple[DataConfig, Listing]:
        """As ``check_data``."""
        asked = time.monotonic()
        last = self._last[hash(data.name) % _LOOKS]
        with last.lock:
            if last.found is None or last.begun <= asked or last.data != data:
                begun = time.monotonic()
                last.found = check_data(data, self._data_root, self._cache_dir)
                last.begun, last.data = begun, data
            return last.found


def without_folder(text: str, name: str, data_root: Path | None) -> str:
    """What is said of a data set, without where it lies on the server."""
    if data_root is None:
        return text
    for folder in {str(data_root / name), str((data_root / name).resolve())}:
        text = text.replace(f" in {folder}", "").replace(folder, name)
    return text
