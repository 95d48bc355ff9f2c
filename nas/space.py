"""The search space: what each block may take, with the seeded moves that searchers are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slicemamba.architecture import SKIP, Architecture, Block, as_block, format_block
from slicemamba.errors import InputError


@dataclass(frozen=True)
class SearchSpace:
    """``choices`` for each block of stages of the given ``depths``. Genes are indices into ``choices``, one a block."""

    choices: tuple[Block, ...]
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(map(as_block, self.choices)))  # plain slice sizes are welcome

    @property
    def num_blocks(self) -> int:
        return sum(self.depths)

    @property
    def size(self) -> int:
        """Number of architectures in the space (4²² for the published one)."""
        return int(len(self.choices) ** self.num_blocks)

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
        for i, block in enumerate(architecture.blocks(), 1):
            if block not in self.choices:
                raise InputError(
                    f"block {i} is {format_block(block)}, which is not among the choices "
                    + ", ".join(map(format_block, self.choices))
                )

    def fixed(self) -> list[Architecture]:
        """The architectures with one choice in all blocks, in the order of ``choices``; none without any block."""
        return [Architecture.uniform(block, self.depths) for block in self.choices if block != SKIP]

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A uniformly drawn architecture."""
        return self.decode(rng.integers(len(self.choices), size=self.num_blocks).tolist())

    def mutate(self, parent: Architecture, probability: float, rng: np.random.Generator) -> Architecture:
        """Redraws each gene with the given probability (it may draw the value it had, as published)."""
        genes = np.array(self.encode(parent))
        redraw = rng.random(self.num_blocks) < probability
        drawn = rng.integers(len(self.choices), size=self.num_blocks)
        return self.decode(np.where(redraw, drawn, genes).tolist())

    def crossover(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        """Uniform crossover: each gene from one parent or the other with equal chance."""
        from_first = rng.random(self.num_blocks) < 0.5
        return self.decode(np.where(from_first, self.encode(first), self.encode(second)).tolist())

    @property
    def num_neighbours(self) -> int:
        """How many architectures differ from a given one in one block."""
        return self.num_blocks * (len(self.choices) - 1)

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All architectures that differ from the given one in one block, by block and choice."""
        return [self.neighbour(architecture, place) for place in range(self.num_neighbours)]

    def neighbour(self, architecture: Architecture, place: int) -> Architecture:
        """``neighbours(architecture)[place]`` alone."""
        genes = self.encode(architecture)
        block, choice = divmod(place, len(self.choices) - 1)
        genes[block] = choice + (choice >= genes[block])
        return self.decode(genes)
