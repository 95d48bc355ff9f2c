"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Averages the weights of a network that is being trained.

    A weight's average moves with the steps in which that weight has a gradient: in single-path training of a supernet
    a block that was not drawn keeps its average, and each average is over as many of its own updates. The n-th update
    uses the decay min(decay, n / (9 + n)), as is customary, so that the first steps do not hold on to the random start.
    Buffers (running statistics) are averages already and are left alone.

    Args:
        network: on its device. decay: of the average, between 0 and 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        self._updates = dict.fromkeys(self._weights, 0)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """After an optimiser step, while the gradients are still there."""
        for name, weight in network.named_parameters():
            if weight.grad is None:
                continue
            self._updates[name] += 1
            decay = min(self._decay, self._updates[name] / (9 + self._updates[name]))
            self._weights[name].lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again outside."""
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    def _swap(self, network: nn.Module) -> None:
        for name, weight in network.named_parameters():
            weight.data, self._weights[name] = self._weights[name], weight.data

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, average in self._weights.items():
            average.copy_(state["weights"][name])
        self._updates.update(state["updates"])
