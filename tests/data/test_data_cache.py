"""The cache: built once, whole or not at all, and rebuilt when damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slicemamba.data.cache import Source, cached_arrays, entry_folder
from slicemamba.errors import InputError

SIZE = (5, 7)
Pixels = NDArray[np.uint8]


def draw(index: int) -> tuple[Pixels, Pixels]:
    return np.full((*SIZE, 3), index, np.uint8), np.full(SIZE, index % 2, np.uint8)


def source(read: Callable[[int], tuple[Pixels, Pixels]] = draw, seed: int = 0, count: int = 6) -> Source:
    return Source("set-train", {"seed": seed}, tuple(f"{index}" for index in range(count)), read)


def never(index: int) -> tuple[Pixels, Pixels]:
    raise AssertionError("decoded again")


def assert_right(images: Pixels, masks: Pixels) -> None:
    for index in range(6):
        assert (images[index] == index).all()
        assert (masks[index] == index % 2).all()


def test_built_once_then_mapped(tmp_path: Path) -> None:
    assert_right(*cached_arrays(tmp_path, source(), SIZE))
    images, masks = cached_arrays(tmp_path, source(never), SIZE)
    assert_right(images, masks)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    assert not masks.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == [entry_folder(tmp_path, source(), SIZE).name]


def test_each_content_has_its_own_entry(tmp_path: Path) -> None:
    folders = {
        entry_folder(tmp_path, source(), SIZE),
        entry_folder(tmp_path, source(seed=1), SIZE),
        entry_folder(tmp_path, source(count=5), SIZE),
        entry_folder(tmp_path, source(), (7, 5)),
    }
    assert len(folders) == 4


def test_progress_only_while_building(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        cached_arrays(tmp_path, source(), SIZE, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


def cut(folder: Path) -> None:
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def remove_masks(folder: Path) -> None:
    (folder / "masks.npy").unlink()


def spoil_header(folder: Path) -> None:
    with (folder / "masks.npy").open("r+b") as file:
        file.write(b"\0" * 40)


def empty_file(folder: Path) -> None:
    (folder / "images.npy").write_bytes(b"")


def other_shape(folder: Path) -> None:
    np.save(folder / "masks.npy", np.zeros((6, 7, 5), np.uint8))


def pickled(folder: Path) -> None:
    np.save(folder / "masks.npy", np.array([{}], dtype=object))


@pytest.mark.parametrize("damage", [cut, remove_masks, spoil_header, empty_file, other_shape, pickled])
def test_damaged_entry_is_rebuilt(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cached_arrays(tmp_path, source(), SIZE)
    damage(entry_folder(tmp_path, source(), SIZE))
    assert_right(*cached_arrays(tmp_path, source(), SIZE))
    assert_right(*cached_arrays(tmp_path, source(never), SIZE))
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fails_late(index: int) -> tuple[Pixels, Pixels]:
        if index == 4:
            raise InputError("train/images/4.png cannot be read")
        return draw(index)

    with pytest.raises(InputError, match=r"4\.png"):
        cached_arrays(tmp_path, source(fails_late), SIZE)
    assert list(tmp_path.iterdir()) == []
    assert_right(*cached_arrays(tmp_path, source(), SIZE))


def test_unfinished_build_of_a_killed_process_is_not_used(tmp_path: Path) -> None:
    entry = entry_folder(tmp_path, source(), SIZE)
    left = entry.with_name(f"{entry.name}.tmp-dead")
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    assert_right(*cached_arrays(tmp_path, source(), SIZE))


def test_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        cached_arrays(blocked, source(), SIZE)


def test_many_threads_find_a_damaged_entry_at_once(tmp_path: Path) -> None:
    cached_arrays(tmp_path, source(), SIZE)
    cut(entry_folder(tmp_path, source(), SIZE))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_arrays(tmp_path, source(), SIZE), range(16)))
    for images, masks in found:
        assert_right(images, masks)
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_build_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path\n"
        "from slicemamba.config import DataConfig; from slicemamba.data.base import load_split\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "data = load_split(DataConfig(image_size=(48, 48)), 'train', Path(sys.argv[1]))\n"
        "print(len(data), hashlib.sha256(data.images.tobytes() + data.masks.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:  # all have imported before any begins, so that they really build at once
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        results.append(process.communicate()[0])
        assert process.returncode == 0
    assert len(set(results)) == 1
    assert results[0].startswith("96 ")
    assert len(list(tmp_path.iterdir())) == 1
