"""The search space: what each block may take, with the seeded moves that searchers are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from slicemamba.architecture import FULL, HALF, SKIP, Architecture, Block, as_block, format_block
from slicemamba.errors import InputError


@dataclass(frozen=True)
class SearchSpace:
    """``choices`` for each block of stages of the given ``depths``. Genes are indices into ``choices``, one a place.

    Attributes:
        choices: of the blocks, then of the widths.
        has_widths: the first place of each stage is the width of its convolutions (convolutional skeleton), ``full`` or
            ``half`` as far as these are among the choices, and ``full`` where neither is.
    """

    choices: tuple[Block, ...]
    depths: tuple[int, ...]
    has_widths: bool = False

    def __post_init__(self) -> None:
        choices = tuple(map(as_block, self.choices))  # plain slice sizes are welcome
        widths = tuple(choice for choice in choices if choice.divisor) or (FULL,)
        blocks = tuple(choice for choice in choices if not choice.divisor)
        object.__setattr__(self, "choices", (*blocks, *widths) if self.has_widths else choices)

    @cached_property
    def options(self) -> tuple[tuple[int, ...], ...]:
        """For each place, in forward order, the genes that it may take."""
        blocks, widths = (
            tuple(gene for gene, choice in enumerate(self.choices) if bool(choice.divisor) is is_width)
            for is_width in (False, True)
        )
        if not self.has_widths:
            return (tuple(range(len(self.choices))),) * self.num_blocks
        return tuple(widths if place == 0 else blocks for depth in self.depths for place in range(depth))

    @property
    def num_blocks(self) -> int:
        """Number of places: blocks, and widths where there are any."""
        return sum(self.depths)

    @property
    def size(self) -> int:
        """Number of architectures in the space (4²² for the published one)."""
        return math.prod(map(len, self.options))

    def decode(self, genes: list[int]) -> Architecture:
        return Architecture.from_blocks([self.choices[gene] for gene in genes], self.depths)

    def encode(self, architecture: Architecture) -> list[int]:
        """Choice index of each block. Raises InputError where the architecture is not of this space."""
        self.check(architecture)
        return [self.choices.index(block) for block in architecture.blocks()]

    def check(self, architecture: Architecture) -> None:
        """Raises InputError that names the block, or the stages whose depths, are not of this space."""
        if architecture.depths != self.depths:
            raise InputError(
                f"architecture must have stages of depths {self.depths}, like the network; got {architecture.depths}"
            )
        for i, (block, options) in enumerate(zip(architecture.blocks(), self.options, strict=True), 1):
            allowed = [self.choices[gene] for gene in options]
            if block not in allowed:
                raise InputError(
                    f"block {i} is {format_block(block)}, which is not among the choices "
                    + ", ".join(map(format_block, allowed))
                )

    def fixed(self) -> list[Architecture]:
        """The architectures with one choice in all blocks, in the order of ``choices``.

        In the published skeleton none without any block; in the convolutional one that is a U-Net, and there is the
        smallest network, too.
        """
        blocks = [choice for choice in self.choices if not choice.divisor]
        if not self.has_widths:
            return [Architecture.uniform(block, self.depths) for block in blocks if block != SKIP]
        widths = [choice for choice in self.choices if choice.divisor]
        fixed = [Architecture.uniform(block, self.depths, widths[0]) for block in blocks]
        if len(widths) > 1 and SKIP in blocks:
            fixed.append(Architecture.uniform(SKIP, self.depths, HALF))
        return fixed

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A uniformly drawn architecture."""
        return self.decode(self._draw(rng).tolist())

    def _draw(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """A gene for each place."""
        drawn = rng.integers([len(options) for options in self.options])
        return np.array([options[place] for options, place in zip(self.options, drawn, strict=True)], dtype=np.int64)

    def mutate(self, parent: Architecture, probability: float, rng: np.random.Generator) -> Architecture:
        """Redraws each gene with the given probability (it may draw the value it had, as published)."""
        genes = np.array(self.encode(parent))
        redraw = rng.random(self.num_blocks) < probability
        drawn = self._draw(rng)
        return self.decode(np.where(redraw, drawn, genes).tolist())

    def crossover(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        """Uniform crossover: each gene from one parent or the other with equal chance."""
        from_first = rng.random(self.num_blocks) < 0.5
        return self.decode(np.where(from_first, self.encode(first), self.encode(second)).tolist())

    @property
    def num_neighbours(self) -> int:
        """How many architectures differ from a given one in one place."""
        return sum(len(options) - 1 for options in self.options)

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All architectures that differ from the given one in one place, by place and choice."""
        return [self.neighbour(architecture, number) for number in range(self.num_neighbours)]

    def neighbour(self, architecture: Architecture, number: int) -> Architecture:
        """``neighbours(architecture)[number]`` alone."""
        genes = self.encode(architecture)
        for place, options in enumerate(self.options):
            if number < len(options) - 1:
                others = [gene for gene in options if gene != genes[place]]
                genes[place] = others[number]
                return self.decode(genes)
            number -= len(options) - 1
        raise IndexError("an architecture has no such neighbour")
