"""The plain scan of ready-made sequences, against the sequential truth and a published recurrence by hand."""

import math

import pytest
import torch
from scan_cases import leaves, relative

from slicemamba.ops import reference, selective_scan


def inputs(batch=2, groups=3, channels=6, states=5, length=150):
    random = torch.Generator().manual_seed(0)
    rows = groups * channels
    return [
        torch.randn(batch, rows, length, generator=random),
        torch.randn(batch, rows, length, generator=random) - 1,
        -torch.rand(rows, states, generator=random) * 4,
        torch.randn(batch, groups, states, length, generator=random),
        torch.randn(batch, groups, states, length, generator=random),
        torch.randn(rows, generator=random),
        torch.randn(rows, generator=random),
    ]


def call(function, tensors):
    return function(*tensors[:6], delta_bias=tensors[6], delta_softplus=True)


@pytest.mark.parametrize("groups", [1, 3])
def test_agrees_with_the_reference(backend, groups):
    narrow = leaves(inputs(groups=groups))
    wide = leaves(narrow, torch.float64)
    y, expected = call(selective_scan, narrow), call(reference.selective_scan, wide)
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    assert relative(y, expected) < 2e-6
    expected_grads = torch.autograd.grad(expected, wide, grad_y.double())
    for got, want in zip(torch.autograd.grad(y, narrow, grad_y), expected_grads, strict=True):
        assert relative(got, want) < 5e-6


def test_three_dimensional_b_and_c_mean_one_group(backend):
    u, delta, A, B, C, *_ = inputs(groups=1)
    delta = delta.abs()
    assert torch.equal(selective_scan(u, delta, A, B[:, 0], C[:, 0]), selective_scan(u, delta, A, B, C))


def test_the_reference_is_the_recurrence_written_out():
    one = torch.ones(1, 1, 3, dtype=torch.float64)
    y = reference.selective_scan(one, one, -one[0, :, :1], one, 2 * one, torch.full((1,), 10.0, dtype=torch.float64))
    decay = math.exp(-1)
    expected = [10 + 2 * h for h in (1, 1 + decay, 1 + decay + decay**2)]
    torch.testing.assert_close(y.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_gradients_pass_gradcheck():
    tensors = leaves(inputs(1, 2, 2, 2, 19), torch.float64)
    assert torch.autograd.gradcheck(lambda *t: call(selective_scan, t), tensors)


def test_wrong_shapes_are_named():
    u, delta, A, B, C, D, _ = inputs()
    with pytest.raises(ValueError, match="delta expects shape"):
        selective_scan(u, delta[..., 1:], A, B, C)
    with pytest.raises(ValueError, match="K must divide"):
        selective_scan(u, delta, A, B[:, :1].repeat(1, 4, 1, 1), C)
    with pytest.raises(ValueError, match="C expects shape"):
        selective_scan(u, delta, A, B, C[:, :1])
    with pytest.raises(ValueError, match="D expects shape"):
        selective_scan(u, delta, A, B, C, D[1:])
