"""The gated norm of every backend against torch's own operators in float64, with all gradients."""

import pytest
import torch
from scan_cases import (
    EPS,
    fenced,
    gated_norm_and_gradients,
    gated_norm_inputs,
    gradient_of_y,
    leaves,
    poisoned,
    relative,
)

from slicemamba.ops import cpu, gated_norm, reference

# One vector and less; tails of vectors and of rows; several parts of the sum over rows
SHAPES = [(3, 5), (2, 3, 5, 16), (2, 7, 11, 45), (1, 20, 20, 192), (7, 700)]


def run(inputs, grad):
    return gated_norm_and_gradients(gated_norm, inputs, grad)


def truth(inputs, grad):
    return gated_norm_and_gradients(reference.gated_norm, [tensor.double() for tensor in inputs], grad)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_agrees_with_torch_in_float64(backend, shape):
    inputs = gated_norm_inputs(*shape)
    grad = gradient_of_y(inputs)
    for got, want in zip(run(inputs, grad), truth(inputs, grad), strict=True):
        assert relative(got, want) < 2e-6


def test_every_instruction_set_agrees(native, monkeypatch):
    inputs = gated_norm_inputs(3, 9, 77)
    grad = gradient_of_y(inputs)
    for isa in cpu.instruction_sets():
        monkeypatch.setenv("SLICEMAMBA_ISA", isa)
        for got, want in zip(run(inputs, grad), truth(inputs, grad), strict=True):
            assert relative(got, want) < 2e-6, isa


@pytest.mark.parametrize("hide", [poisoned, fenced])
def test_reads_nothing_but_its_inputs(backend, hide):
    inputs = gated_norm_inputs(4, 6, 21)
    grad = gradient_of_y(inputs)
    hidden = [hide(tensor).requires_grad_() for tensor in inputs]
    result = gated_norm(*hidden, EPS)
    got = [result, *torch.autograd.grad(result, hidden, hide(grad))]
    for a, b in zip(got, run(inputs, grad), strict=True):
        assert relative(a, b) < 1e-6


def test_takes_one_half_of_a_projection_as_it_lies(native):
    both = torch.randn(3, 5, 40)
    y, z = both.chunk(2, dim=-1)
    weight, bias = torch.randn(20), torch.randn(20)
    assert torch.equal(gated_norm(y, z, weight, bias), gated_norm(y.clone(), z.clone(), weight, bias))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3), (torch.float64, 1e-9)])
def test_keeps_the_dtype(native, dtype, tolerance):
    y, z, weight, bias = gated_norm_inputs(4, 6, 21)
    inputs = [
        y.to(dtype),
        z.to(dtype),
        *((weight.double(), bias.double()) if dtype == torch.float64 else (weight, bias)),
    ]
    grad = gradient_of_y(inputs).to(dtype)
    got = run(inputs, grad)
    assert [tensor.dtype for tensor in got[:3]] == [dtype] * 3
    for a, b in zip(got, truth(inputs, grad), strict=True):
        assert relative(a, b) < tolerance


def test_is_the_same_bit_for_bit_with_any_number_of_threads(native):
    inputs = gated_norm_inputs(1, 40, 40, 48)
    grad = gradient_of_y(inputs)
    first = run(inputs, grad)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for got, want in zip(run(inputs, grad), first, strict=True):
            assert torch.equal(got, want), number


def test_nan_stays_in_its_row(backend):
    y, z, weight, bias = gated_norm_inputs(4, 18)
    y[1, 3] = float("nan")
    z[2, 17] = float("nan")
    result = gated_norm(y, z, weight, bias)
    assert result[1].isnan().all()
    assert result[2].isnan().nonzero().tolist() == [[17]]
    assert result[[0, 3]].isfinite().all()


def test_large_gates_stay_finite(backend):
    y, z, weight, bias = gated_norm_inputs(2, 18)
    inputs = [y, 1e3 * z, weight, bias]
    grad = gradient_of_y(inputs)
    for got, want in zip(run(inputs, grad), truth(inputs, grad), strict=True):
        assert relative(got, want) < 2e-6


def test_an_empty_map_stays_empty(backend):
    assert gated_norm(torch.empty(0, 4, 6), torch.empty(0, 4, 6), torch.ones(6), torch.zeros(6)).shape == (0, 4, 6)


def test_gradients_pass_gradcheck():
    inputs = leaves(gated_norm_inputs(3, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: gated_norm(*tensors, EPS), inputs)


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_opcheck(operator_backend, grad):
    inputs = gated_norm_inputs(2, 3, 18)
    torch.library.opcheck(torch.ops.slicemamba.gated_norm, (*(leaves(inputs) if grad else inputs), EPS))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(2, 4\), \(5,\), \(4,\)"):
        gated_norm(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(5), torch.zeros(4))
