"""An architecture: what each block takes, as a frozen value with one stable text form.

The text form, ``s1:2x2,4x4|s2:2x2,2x2|…|s8:2x4``, is the same in the study, over REST, in files and on the command
line: stages in the order the image passes them (encoder first, then decoder), and in each stage the blocks' slice sizes
``MxN`` (M rows of a horizontal slice, N columns of a vertical one). A block may be smaller than the network's others,
``2x4n8`` (8 states), ``2x4e1`` (inner width of once its channels), ``2x4n8e1`` (both), or left out, ``-``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slicemamba.errors import InputError

SliceSize = tuple[int, int]

BLOCK_PATTERN = r"-|([1-9]\d*)x([1-9]\d*)(?:n([1-9]\d*))?(?:e([1-9]\d*))?"
_BLOCK = re.compile(BLOCK_PATTERN)


class Block(NamedTuple):
    """What one block takes.

    Attributes:
        rows, columns: height of a horizontal slice and width of a vertical one; both 0 when the block is left out.
        d_state, expand: states of the scan and inner width over channels; 0 for the network's own.
    """

    rows: int
    columns: int
    d_state: int = 0
    expand: int = 0

    @property
    def slice_size(self) -> SliceSize:
        return self.rows, self.columns


SKIP = Block(0, 0)
"""The block is left out: what comes in goes out."""


def parse_block(text: str) -> Block:
    """``"2x4"`` → ``Block(2, 4)``, ``"-"`` → ``SKIP``. Raises InputError for anything else, zero included."""
    match = _BLOCK.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"slice size must look like '2x4' with both numbers 1 or more, with n8 for 8 states and e1 for the inner "
            f"width behind it when they differ from the network's, or '-' for no block; got {text!r}"
        )
    return SKIP if match[0] == "-" else Block(*(int(number or 0) for number in match.groups()))


def format_block(block: Block) -> str:
    """The inverse of ``parse_block``."""
    if block == SKIP:
        return "-"
    d_state = f"n{block.d_state}" if block.d_state else ""
    expand = f"e{block.expand}" if block.expand else ""
    return f"{block.rows}x{block.columns}{d_state}{expand}"


def as_block(values: Iterable[int]) -> Block:
    """A block as it is, or one of the network's own size from its slice size. Raises InputError for impossible ones."""
    if type(values) is Block:
        rows, columns, d_state, expand = values
        if type(rows) is type(columns) is type(d_state) is type(expand) is int and min(values) >= 0 < rows * columns:
            return values  # nearly all of them, and a search makes millions
    numbers = tuple(values)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not whole or len(numbers) != (4 if isinstance(values, Block) else 2):
        raise InputError(f"slice size must be two integers of 1 or more; got {numbers!r}")
    block = Block(*numbers)
    if min(block.slice_size) < 1 and block != SKIP:
        raise InputError(f"slice size must be two integers of 1 or more; got {numbers!r}")
    return block


@dataclass(frozen=True, order=True)
class Architecture:
    """All blocks by stage: ``stages[i][j]`` is block j of stage i."""

    stages: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        # Plain slice sizes are welcome.
        object.__setattr__(self, "stages", tuple(tuple(map(as_block, stage)) for stage in self.stages))

    def blocks(self) -> Iterator[Block]:
        """The blocks in forward order."""
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
            f"s{i}:{','.join(format_block(block) for block in stage)}" for i, stage in enumerate(self.stages, 1)
        )

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """The inverse of ``str``. Raises InputError that names the part which is wrong."""
        stages = []
        for i, part in enumerate(text.strip().split("|"), 1):
            tag, _, blocks = part.partition(":")
            if tag.strip() != f"s{i}" or not blocks:
                raise InputError(f"architecture must look like 's1:2x2,2x4|s2:…'; part {i} is {part!r}")
            stages.append(tuple(parse_block(block) for block in blocks.split(",")))
        return cls(tuple(stages))

    @classmethod
    def from_blocks(cls, blocks: Iterable[Block | SliceSize], depths: Sequence[int]) -> Architecture:
        """Groups a flat list of blocks, or of slice sizes of full-sized blocks, into stages of the given depths.

        Raises:
            InputError: the number of blocks is not the sum of the depths.
        """
        flat = list(blocks)
        if len(flat) != sum(depths):
            raise InputError(f"expected {sum(depths)} blocks for stages of depths {tuple(depths)}; got {len(flat)}")
        remaining = iter(flat)
        return cls(tuple(tuple(as_block(next(remaining)) for _ in range(depth)) for depth in depths))

    @classmethod
    def uniform(cls, block: Block | SliceSize, depths: Sequence[int]) -> Architecture:
        """The fixed slicing: the same in every block."""
        return cls.from_blocks([block] * sum(depths), depths)
