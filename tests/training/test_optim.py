"""The optimiser's step: its learning rate, and fp16's scale, which the CPU computes as a GPU does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from slicemamba.config import PretrainConfig, TrainConfig
from slicemamba.models.bss import BSS
from slicemamba.ops import slice_scan
from slicemamba.ops.backends import available_backends
from slicemamba.training.optim import NotFiniteError, Optimizer, learning_rate

FP16 = TrainConfig(precision="fp16", learning_rate=1e-2)


def test_learning_rate_rises_by_steps_then_falls_by_epochs() -> None:
    config = TrainConfig(learning_rate=1.0, min_learning_rate=0.2, warmup_epochs=2, t_max=4, epochs=8)
    positions = [epoch + share for epoch in range(7) for share in (0.5, 1.0)]
    rates = [learning_rate(config, position) for position in positions]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([rate for rate in (1.0, 0.88284, 0.6, 0.31716, 0.2) for _ in range(2)], abs=1e-4)


def test_learning_rate_of_every_step_is_positive_from_the_first() -> None:
    assert learning_rate(TrainConfig(learning_rate=1e-3, warmup_epochs=5), 0.01) == pytest.approx(1e-3 * 0.01 / 5)


@pytest.mark.parametrize(("config", "decayed"), [(TrainConfig(), True), (PretrainConfig(), False)])
def test_vectors_decay_in_segmentation_and_not_in_pretraining(config: TrainConfig, decayed: bool) -> None:
    """As VM-UNet hands all weights to AdamW, and VMamba's pretraining keeps norms, biases and skips out."""
    mixer = BSS(8, d_state=4)
    before = {name: weight.detach().clone() for name, weight in mixer.named_parameters()}
    optimizer = Optimizer(mixer, config.model_copy(update={"weight_decay": 0.5, "learning_rate": 0.1}))
    for weight in mixer.parameters():
        weight.grad = torch.zeros_like(weight)  # so that decay alone moves it
    assert optimizer.step(100.0)
    rate = learning_rate(config.model_copy(update={"learning_rate": 0.1}), 100.0)
    for name, weight in mixer.named_parameters():
        shrinks = decayed or weight.ndim > 1
        torch.testing.assert_close(weight.detach(), before[name] * (1 - 0.5 * rate if shrinks else 1), msg=name)
    vectors = {"Ds", "conv2d.bias", "out_norm.weight", "out_norm.bias"}
    assert vectors == {name for name, weight in mixer.named_parameters() if weight.ndim < 2}


def steps(network: nn.Module, optimizer: Optimizer, inputs: list[torch.Tensor]) -> list[bool]:
    taken = []
    for value in inputs:
        optimizer.zero_grad()
        optimizer.backward(network(value).square().mean())
        taken.append(optimizer.step(1.0))
    return taken


def test_overflow_skips_the_step_and_halves_the_scale() -> None:
    network = nn.Linear(2, 1, bias=False)
    optimizer = Optimizer(network, FP16)
    before = network.weight.detach().clone()
    scale = optimizer.state_dict()["scaler"]["scale"]
    assert scale > 1
    assert steps(network, optimizer, [torch.full((1, 2), 1e18)]) == [False]
    assert torch.equal(network.weight, before)
    assert optimizer.state_dict()["scaler"]["scale"] == scale / 2
    assert steps(network, optimizer, [torch.ones(1, 2)]) == [True]
    assert not torch.equal(network.weight, before)


def test_scaled_steps_are_those_without_scale() -> None:
    scaled, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(scaled.state_dict())
    inputs = [torch.randn(4, 3) for _ in range(5)]
    config = FP16.model_copy(update={"clip_grad_norm": 0.1})
    steps(scaled, Optimizer(scaled, config), inputs)
    steps(plain, Optimizer(plain, config.model_copy(update={"precision": "float32"})), inputs)
    torch.testing.assert_close(scaled.weight, plain.weight)


def test_gradient_that_never_becomes_finite_is_told_and_not_skipped_for_ever() -> None:
    network = nn.Linear(2, 1)
    optimizer = Optimizer(network, FP16)
    with pytest.raises(NotFiniteError):
        steps(network, optimizer, [torch.full((1, 2), float("nan"))] * 100)
    assert network.weight.isfinite().all()


def test_scale_and_its_growth_go_on_after_a_resume_as_if_nothing_had_been() -> None:
    inputs = [torch.full((1, 2), 1e18), *(torch.randn(4, 2) for _ in range(6))]
    network = nn.Linear(2, 1)
    optimizer = Optimizer(network, FP16)
    steps(network, optimizer, inputs[:4])
    weights, state = (copy.deepcopy(part.state_dict()) for part in (network, optimizer))
    steps(network, optimizer, inputs[4:])
    other = nn.Linear(2, 1)
    other.load_state_dict(weights)
    resumed = Optimizer(other, FP16)
    resumed.load_state_dict(state)
    steps(other, resumed, inputs[4:])
    assert torch.equal(other.weight, network.weight)
    assert resumed.state_dict()["scaler"] == optimizer.state_dict()["scaler"]
    assert resumed.state_dict()["scaler"]["_growth_tracker"] == 6


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_scan_computes_in_float32_under_autocast(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else long products of decays lose all precision; every backend, as the choice must not change a training."""
    if available_backends()[backend] != "usable":
        pytest.skip(f"the {backend} scan is not built")
    monkeypatch.setenv("SLICEMAMBA_SCAN", backend)
    dim, states, rank = 8, 4, 2
    shapes = [(1, 6, 6, dim), (4, rank + 2 * states, dim), (4, dim, rank), (4, dim), (4 * dim, states), (4 * dim,)]
    tensors = [torch.randn(shape) for shape in shapes]
    x, *weights = tensors
    expected = slice_scan(x, *weights, slice_size=(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(slice_scan(x, *weights, slice_size=(2, 3)), expected)
        half = slice_scan(x.bfloat16(), *weights, slice_size=(2, 3))
    assert half.dtype == torch.bfloat16
    rounded = slice_scan(x.bfloat16().float(), *weights, slice_size=(2, 3))
    torch.testing.assert_close(half, rounded.bfloat16())
