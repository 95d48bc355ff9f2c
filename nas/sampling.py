"""Which architecture each step of the supernet's training runs.

A step's architecture follows from the seed and the step's number alone. So all workers draw the same one, a resumed
training goes on with what an uninterrupted one would have drawn, and how often each choice was trained need not be
tracked: it can be computed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.training.seeds import generator_for

Sampling = Literal["uniform", "fair"]


class PathSampler:
    """Draws the architecture of a step.

    ``uniform``: each block's choice is drawn at random (single path one shot, arXiv 1904.00420; published). ``fair``:
    with n choices, each n steps in a row train every choice of every block exactly once, in an order that is drawn for
    each block (strict fairness, FairNAS, arXiv 1907.01845, section 3). FairNAS sums the gradients of these n paths for
    one update of the weights; here each path makes an update of its own, so that a step costs the same either way.
    """

    def __init__(self, space: SearchSpace, sampling: Sampling, seed: int) -> None:
        self._space = space
        self._sampling = sampling
        self._seed = seed

    def __call__(self, step: int) -> Architecture:
        """The architecture of a step, counted from 0."""
        if self._sampling == "uniform":
            return self._space.sample(generator_for(self._seed, "path", step))
        genes = np.zeros(self._space.num_blocks, dtype=np.int64)
        options = self._space.options
        for choices in set(options):  # blocks and, in the convolutional skeleton, widths: each kind in turns of its own
            places = [place for place, of in enumerate(options) if of == choices]
            turn, now = divmod(step, len(choices))
            orders = np.tile(np.array(choices), (len(places), 1))
            genes[places] = generator_for(self._seed, "path", turn).permuted(orders, axis=1)[:, now]
        return self._space.decode(genes.tolist())

    def update_counts(self, num_steps: int) -> npt.NDArray[np.int64]:
        """How often each choice was trained in the first ``num_steps`` steps: (blocks, choices)."""
        counts = np.zeros((self._space.num_blocks, len(self._space.choices)), dtype=np.int64)
        blocks = np.arange(self._space.num_blocks)
        for step in range(num_steps):
            counts[blocks, self._space.encode(self(step))] += 1
        return counts
