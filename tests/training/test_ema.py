"""The moving average of weights, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slicemamba.training.ema import WeightAverage


def moved(network: nn.Linear, average: WeightAverage, values: list[float], *, bias: bool = True) -> None:
    """Sets all weights to each value in turn, as if a step had done so; the bias takes part or not."""
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
            network.bias.fill_(value)
        network.weight.grad = torch.ones_like(network.weight)
        network.bias.grad = torch.ones_like(network.bias) if bias else None
        average.update(network)


def by_hand(start: float, values: list[float], decay: float) -> float:
    for n, value in enumerate(values, 1):
        d = min(decay, n / (9 + n))
        start = d * start + (1 - d) * value
    return start


@pytest.fixture
def network() -> nn.Linear:
    network = nn.Linear(2, 2)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    return network


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_follows_the_formula_with_its_warm_up(network: nn.Linear, decay: float) -> None:
    values = [1.0, 5.0, -2.0, 4.0, 4.0, 3.0, 8.0]
    average = WeightAverage(network, decay)
    moved(network, average, values)
    with average.applied(network):
        assert network.weight.detach().numpy() == pytest.approx(by_hand(0.0, values, decay))
    assert (network.weight == values[-1]).all(), "the network's own weights are back"


def test_weights_without_a_gradient_keep_their_average_and_count_their_own_updates(network: nn.Linear) -> None:
    average = WeightAverage(network, 0.99)
    moved(network, average, [1.0, 2.0, 3.0], bias=False)
    moved(network, average, [4.0, 6.0])
    with average.applied(network):
        assert network.weight.detach().numpy() == pytest.approx(by_hand(0, [1, 2, 3, 4, 6], 0.99))
        assert network.bias.detach().numpy() == pytest.approx(by_hand(0, [4, 6], 0.99))


def test_own_weights_come_back_when_the_validation_fails(network: nn.Linear) -> None:
    average = WeightAverage(network, 0.9)
    moved(network, average, [1.0, 7.0])
    with pytest.raises(RuntimeError), average.applied(network):
        raise RuntimeError
    assert (network.weight == 7).all()


def test_state_is_not_touched_by_what_the_network_does_next(network: nn.Linear) -> None:
    average = WeightAverage(network, 0.9)
    moved(network, average, [1.0])
    weights = {name: value.clone() for name, value in average.state_dict()["weights"].items()}
    with average.applied(network):
        pass
    with torch.no_grad():
        network.weight.fill_(100)
    assert torch.equal(average.state_dict()["weights"]["weight"], weights["weight"])
