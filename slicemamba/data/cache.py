"""Decoded, resized splits as memory-mapped arrays: decoded once, not each epoch, candidate or process.

A cache entry is a folder with ``images.npy`` and ``masks.npy``. It is built beside its place and moved there in one
step, so a reader sees all of it or nothing, and processes that build the same entry at once do not disturb each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from slicemamba.data.parallel import Progress, run_parallel
from slicemamba.data.reading import IGNORED
from slicemamba.errors import InputError

Pixels = NDArray[np.uint8]
CACHE_VERSION = 1
"""Raised when the stored arrays would come out differently, so that older entries are not used."""

SIZES = "sizes.npy"
ATTEMPTS = 5
ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Source:
    """What a split is made of.

    Attributes:
        label: start of the entry's folder name, for people.
        identity: everything the pixels depend on besides the size; JSON values only.
        names: one name an image.
        read: index → image (H, W, C) and mask (H, W) uint8, both of the final size.
        channels, dtype: C and the type of the images: 3 of uint8 for pictures, 1 of float32 for CT slices.
        native: ``read`` gives each image at a size of its own, of the final one at least. It lies in the upper left
            corner of an array as large as the largest; ``IGNORED`` in its mask is what lies around it.
        files: of the images; None where they are drawn, or slices of volumes.
    """

    label: str
    identity: dict[str, Any]
    names: tuple[str, ...]
    read: Callable[[int], tuple[NDArray[Any], Pixels]]
    channels: int = 3
    dtype: Literal["uint8", "float32"] = "uint8"
    native: bool = False
    files: tuple[Path, ...] | None = None

    def image_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(N, H, W, C) of all images."""
        return (len(self.names), *size, self.channels)

    def mask_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(N, H, W) of all masks."""
        return (len(self.names), *size)


def default_cache_dir() -> Path:
    """Where decoded splits are kept: SLICEMAMBA_CACHE, else ``~/.cache/slicemamba``."""
    return Path(os.environ.get("SLICEMAMBA_CACHE") or "~/.cache/slicemamba").expanduser()


def entry_folder(cache_dir: Path, source: Source, size: tuple[int, int]) -> Path:
    """Where the arrays of a source lie at ``size`` = (height, width)."""
    content = {"version": CACHE_VERSION, "size": list(size), "names": source.names, **source.identity}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return cache_dir / f"{source.label}-{key[:20]}"


def cached_arrays(
    cache_dir: Path, source: Source, size: tuple[int, int], on_progress: Progress | None = None
) -> tuple[NDArray[Any], Pixels]:
    """Images (N, H, W, C) and masks (N, H, W) of a source, memory-mapped for reading; built when not there.

    An entry that is incomplete, cut short or of another shape is built anew.

    Raises:
        InputError: a source file cannot be used, or the cache folder cannot be written.
    """
    folder = entry_folder(cache_dir, source, size)
    for _ in range(ATTEMPTS):  # another process may replace a damaged entry between our build and our opening
        arrays = _open(folder, source, size)
        if arrays is not None:
            return arrays
        try:
            _build(folder, source, size, on_progress)
        except OSError as error:
            raise InputError(
                f"cache folder {cache_dir} cannot be written ({error}); free space, or set SLICEMAMBA_CACHE to another"
            ) from error
    raise RuntimeError(f"cache entry {folder} is replaced by something unusable again and again")


def own_sizes(cache_dir: Path, source: Source, size: tuple[int, int]) -> NDArray[np.int64]:
    """(N, 2) height and width of each image of a ``native`` source, once ``cached_arrays`` has given them."""
    sizes: NDArray[np.int64] = np.load(entry_folder(cache_dir, source, size) / SIZES, allow_pickle=False)
    return sizes


def _open(folder: Path, source: Source, size: tuple[int, int]) -> tuple[NDArray[Any], Pixels] | None:
    """The entry's arrays, or None when they are missing or damaged (np.load compares header and file length)."""
    try:
        size = _largest(np.load(folder / SIZES, allow_pickle=False)) if source.native else size
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    right_shape = images.shape == source.image_shape(size) and masks.shape == source.mask_shape(size)
    right_type = images.dtype == source.dtype and masks.dtype == np.uint8
    return (images, masks) if right_shape and right_type else None


def _build(folder: Path, source: Source, size: tuple[int, int], on_progress: Progress | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    workplace = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    workplace.mkdir()
    try:
        _fill(workplace, source, size, on_progress)
        _publish(workplace, folder, source, size)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _fill(workplace: Path, source: Source, size: tuple[int, int], on_progress: Progress | None) -> None:
    if source.native:
        sizes = run_parallel(lambda index: source.read(index)[1].shape, len(source.names), None)
        np.save(workplace / SIZES, np.array(sizes, np.int64))
        size = _largest(np.array(sizes))
    images = _create(workplace / "images.npy", source.image_shape(size), source.dtype)
    masks = _create(workplace / "masks.npy", source.mask_shape(size), "uint8")
    if source.native:
        masks[:] = IGNORED

    def store(index: int) -> None:
        image, mask = source.read(index)
        own = (index, slice(mask.shape[0]), slice(mask.shape[1]))
        images[own], masks[own] = image, mask

    run_parallel(store, len(source.names), on_progress)
    images.flush()
    masks.flush()


def _largest(sizes: NDArray[np.int64]) -> tuple[int, int]:
    height, width = sizes.max(axis=0).tolist()
    return height, width


def _create(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, Any]:
    array: np.memmap[Any, Any] = open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # without reserved space, writing to a map on a full disk kills the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _publish(workplace: Path, folder: Path, source: Source, size: tuple[int, int]) -> None:
    """Moves a finished entry to its place, unless another process has put a good one there."""
    if _open(folder, source, size) is not None:
        return
    if folder.exists():  # damaged: renamed first, as readers must never see a half-removed entry
        aside = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        workplace.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _remove_abandoned(folder: Path) -> None:
    """Removes what builds of this entry left behind when they were killed."""
    for path in folder.parent.glob(f"{folder.name}.tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
