"""Which architectures each step of the supernet's training runs.

A step's architectures follow from the seed and the step's number alone. So all workers draw the same, a resumed
training goes on with what an uninterrupted one would have drawn, and how often each choice was trained need not be
tracked: it can be computed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from nas.sizes import Options, extremes
from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.training.seeds import generator_for

Sampling = Literal["uniform", "fair", "sandwich"]


class PathSampler:
    """Draws the architectures of a step, of which all but the sandwich have one.

    ``uniform``: each block's choice is drawn at random (single path one shot, arXiv 1904.00420; published). ``fair``:
    with n choices, each n steps in a row train every choice of every block exactly once, in an order that is drawn for
    each block (strict fairness, FairNAS, arXiv 1907.01845, section 3). FairNAS sums the gradients of these n paths for
    one update of the weights; here each path makes an update of its own, so that a step costs the same either way.
    ``sandwich``: the largest network, the smallest and some at random make one update together (BigNAS, arXiv
    2003.11142, section 3.1). Of choices that cost the same, such as slicings, each step draws one.

    Args:
        space, seed: of the supernet. sampling: how. model: what the space's sizes are of; for the sandwich alone.
        num_random: random architectures of a sandwich.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampling: Sampling,
        seed: int,
        *,
        model: ModelConfig | None = None,
        num_random: int = 2,
    ) -> None:
        self._space = space
        self._sampling = sampling
        self._seed = seed
        self._num_random = num_random
        if sampling == "sandwich":
            assert model is not None
            self._largest, self._smallest = extremes(space, model)

    def __call__(self, step: int) -> tuple[Architecture, ...]:
        """The architectures of a step, counted from 0; of a sandwich the largest first, then the smallest."""
        if self._sampling == "sandwich":
            rng = generator_for(self._seed, "path", step)
            ends = (self._one_of(self._largest, rng), self._one_of(self._smallest, rng))
            return (*ends, *(self._space.sample(rng) for _ in range(self._num_random)))
        return (self._single(step),)

    def _one_of(self, options: Options, rng: np.random.Generator) -> Architecture:
        return self._space.decode([genes[rng.integers(len(genes))] for genes in options])

    def _single(self, step: int) -> Architecture:
        if self._sampling == "uniform":
            return self._space.sample(generator_for(self._seed, "path", step))
        genes = np.zeros(self._space.num_blocks, dtype=np.int64)
        options = self._space.options
        for kind, choices in enumerate(dict.fromkeys(options)):  # blocks and, in the conv skeleton, widths
            places = [place for place, of in enumerate(options) if of == choices]
            turn, now = divmod(step, len(choices))
            orders = np.tile(np.array(choices), (len(places), 1))
            # Each kind has turns and a generator of its own: from one alike, some pairs of a block and a width would
            # never be trained.
            rng = generator_for(self._seed, "path", turn, *([kind] if kind else []))
            genes[places] = rng.permuted(orders, axis=1)[:, now]
        return self._space.decode(genes.tolist())

    def update_counts(self, num_steps: int) -> npt.NDArray[np.int64]:
        """How often each choice was trained in the first ``num_steps`` steps: (blocks, choices)."""
        counts = np.zeros((self._space.num_blocks, len(self._space.choices)), dtype=np.int64)
        blocks = np.arange(self._space.num_blocks)
        for step in range(num_steps):
            for architecture in self(step):
                counts[blocks, self._space.encode(architecture)] += 1
        return counts
