"""An architecture: the slice size of each block, as a frozen value with one stable text form.

The text form, ``s1:2x2,4x4|s2:2x2,2x2|…|s8:2x4``, is the same in the study, over REST, in files and on the command
line: stages in the order the image passes them (encoder first, then decoder), and in each stage the blocks' slice sizes
``MxN`` (M rows of a horizontal slice, N columns of a vertical one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from slicemamba.errors import InputError

SliceSize = tuple[int, int]

_SLICE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def parse_slice_size(text: str) -> SliceSize:
    """``"2x4"`` → ``(2, 4)``. Raises InputError for anything else, zero included."""
    match = _SLICE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"slice size must look like '2x4' with both numbers 1 or more; got {text!r}")
    return int(match[1]), int(match[2])


def format_slice_size(size: SliceSize) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True, order=True)
class Architecture:
    """Slice sizes of all blocks, by stage: ``stages[i][j]`` is the (rows, columns) of block j of stage i."""

    stages: tuple[tuple[SliceSize, ...], ...]

    def __post_init__(self) -> None:
        for size in self.blocks():
            if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
                raise InputError(f"slice size must be two integers of 1 or more; got {size!r}")

    def blocks(self) -> Iterator[SliceSize]:
        """The slice sizes in forward order."""
        for stage in self.stages:
            yield from stage

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def num_blocks(self) -> int:
        return sum(self.depths)

    def __str__(self) -> str:
        return "|".join(
            f"s{i}:{','.join(format_slice_size(size) for size in stage)}" for i, stage in enumerate(self.stages, 1)
        )

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """The inverse of ``str``. Raises InputError that names the part which is wrong."""
        stages = []
        for i, part in enumerate(text.strip().split("|"), 1):
            tag, _, sizes = part.partition(":")
            if tag.strip() != f"s{i}" or not sizes:
                raise InputError(f"architecture must look like 's1:2x2,2x4|s2:…'; part {i} is {part!r}")
            stages.append(tuple(parse_slice_size(size) for size in sizes.split(",")))
        return cls(tuple(stages))

    @classmethod
    def from_blocks(cls, blocks: Iterable[SliceSize], depths: Sequence[int]) -> Architecture:
        """Groups a flat list of slice sizes into stages of the given depths.

        Raises:
            InputError: the number of blocks is not the sum of the depths.
        """
        flat = [(int(m), int(n)) for m, n in blocks]
        if len(flat) != sum(depths):
            raise InputError(
                f"expected {sum(depths)} slice sizes for stages of depths {tuple(depths)}; got {len(flat)}"
            )
        remaining = iter(flat)
        return cls(tuple(tuple(next(remaining) for _ in range(depth)) for depth in depths))

    @classmethod
    def uniform(cls, size: SliceSize, depths: Sequence[int]) -> Architecture:
        """The fixed slicing: the same size in every block."""
        return cls.from_blocks([size] * sum(depths), depths)
