"""An architecture: what each block takes, as a frozen value with one stable text form.

The text form, ``s1:2x2,4x4|s2:2x2,2x2|…|s8:2x4``, is the same in the study, over REST, in files and on the command
line: stages in the order the image passes them (encoder first, then decoder), and in each stage what its blocks take:

- ``MxN``: a scan over slices (M rows of a horizontal slice, N columns of a vertical one);
- ``c3``: no scan, a gated convolution of 3×3 alone (``c5``, ``c7``, … of these odd widths);
- ``-``: nothing, the block is left out.

A block may be smaller than the network's others: ``2x4n8`` (8 states), ``2x4e1`` and ``c3e1`` (inner width of once its
channels), ``2x4n8e1`` (both). In the convolutional skeleton the first of each stage is the inner width of the stage's
convolutions, ``full`` or ``half``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slicemamba.errors import InputError

SliceSize = tuple[int, int]

_WIDTHS = {"full": 1, "half": 2}
BLOCK_PATTERN = r"-|full|half|c(?:[1-9]\d*)?[13579](?:e[1-9]\d*)?|[1-9]\d*x[1-9]\d*(?:n[1-9]\d*)?(?:e[1-9]\d*)?"
_SCAN = re.compile(r"([1-9]\d*)x([1-9]\d*)(?:n([1-9]\d*))?(?:e([1-9]\d*))?")
_CONVOLUTION = re.compile(r"c([1-9]\d*)(?:e([1-9]\d*))?")


class Block(NamedTuple):
    """What one block takes, or how wide a stage's convolutions are.

    Attributes:
        rows, columns: height of a horizontal slice and width of a vertical one; both 0 where nothing is scanned.
        d_state, expand: states of the scan and inner width over channels; 0 for the network's own.
        kernel: width of the gated convolution that stands in for the scan; 0 for none.
        divisor: of a stage of the convolutional skeleton, its channels over the inner width of its convolutions, 1 or
            2; 0 for a block.
    """

    rows: int
    columns: int
    d_state: int = 0
    expand: int = 0
    kernel: int = 0
    divisor: int = 0

    @property
    def slice_size(self) -> SliceSize:
        return self.rows, self.columns

    @property
    def scans(self) -> bool:
        return self.rows > 0


SKIP = Block(0, 0)
"""The block is left out: what comes in goes out."""
FULL, HALF = (Block(0, 0, divisor=divisor) for divisor in _WIDTHS.values())
"""Inner widths of a stage's convolutions."""


def parse_block(text: str) -> Block:
    """``"2x4"`` → ``Block(2, 4)``, ``"c3"`` → a convolution, ``"-"`` → ``SKIP``.

    Raises:
        InputError: the text has another form, zero and convolutions of even width included.
    """
    text_ = text.strip()
    if text_ == "-":
        return SKIP
    if text_ in _WIDTHS:
        return Block(0, 0, divisor=_WIDTHS[text_])
    if scan := _SCAN.fullmatch(text_):
        return Block(*(int(number or 0) for number in scan.groups()))
    if convolution := _CONVOLUTION.fullmatch(text_):
        kernel, expand = (int(number or 0) for number in convolution.groups())
        if kernel % 2 == 0:
            raise InputError(
                f"a convolution's width must be odd, so that the map keeps its size; got {text!r}: "
                f"use 'c{kernel - 1}' or 'c{kernel + 1}'"
            )
        return Block(0, 0, expand=expand, kernel=kernel)
    raise InputError(
        "slice size must look like '2x4' with both numbers 1 or more, with n8 for 8 states and e1 for the inner "
        "width behind it when they differ from the network's; or 'c3' for a convolution in place of the scan, '-' for "
        f"no block, 'full' or 'half' for the width of a stage's convolutions; got {text!r}"
    )


def format_block(block: Block) -> str:
    """The inverse of ``parse_block``."""
    if block == SKIP:
        return "-"
    if block.divisor:
        return "full" if block.divisor == 1 else "half"
    what = f"c{block.kernel}" if block.kernel else f"{block.rows}x{block.columns}"
    d_state = f"n{block.d_state}" if block.d_state else ""
    expand = f"e{block.expand}" if block.expand else ""
    return f"{what}{d_state}{expand}"


def as_block(values: Iterable[int]) -> Block:
    """A block as it is, or one of the network's own size from its slice size. Raises InputError for impossible ones."""
    if type(values) is Block and values in _SOUND:
        return values  # nearly all of them, and a search makes millions
    numbers = tuple(values)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not whole or len(numbers) != (len(Block._fields) if isinstance(values, Block) else 2):
        raise InputError(f"slice size must be two integers of 1 or more; got {numbers!r}")
    block = Block(*numbers)
    if not _is_sound(block):
        raise InputError(f"slice size must be two integers of 1 or more; got {numbers!r}")
    _SOUND.add(block)
    return block


_SOUND: set[Block] = set()  # blocks that were found to be possible


def _is_sound(block: Block) -> bool:
    """Whether the block is a scan, a convolution, a width, or left out, with nothing of another kind."""
    if block == SKIP:
        return True
    if block.divisor:
        return block in (FULL, HALF)
    if block.kernel:
        return block == Block(0, 0, expand=block.expand, kernel=block.kernel) and block.kernel % 2 == 1
    return min(block.slice_size) > 0


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

    @property
    def fixed_name(self) -> str:
        """What a fixed architecture is called: what all its blocks take, and the width of its convolutions if not full.

        Of another architecture, that of the first block.
        """
        blocks = [block for block in self.blocks() if not block.divisor]
        name = format_block(blocks[0]) if blocks else "no blocks"
        return f"{name} half" if HALF in self.blocks() else name

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
    def uniform(
        cls, block: Block | SliceSize | str, depths: Sequence[int], widths: Block | None = None
    ) -> Architecture:
        """The fixed architecture: the same in every block.

        Args:
            block: what each takes, also as text: ``2x4``.
            widths: of the stages' convolutions, which then come first in each stage; none in the published skeleton.
        """
        if isinstance(block, str):
            block = parse_block(block)
        if widths is None:
            return cls.from_blocks([block] * sum(depths), depths)
        return cls(tuple((widths, *[as_block(block)] * (depth - 1)) for depth in depths))
