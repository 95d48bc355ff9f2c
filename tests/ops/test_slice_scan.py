"""One parity suite: every backend and instruction set against the sequential truth in float64, with all gradients."""

import functools
import math

import pytest
import torch
from scan_cases import (
    NAMES,
    SLICE_SIZES,
    check,
    fenced,
    gradient_of_y,
    leaves,
    poisoned,
    relative,
    run,
    slice_scan_inputs,
    truth,
)

from slicemamba.ops import slice_scan

# (batch, height, width, channels, states, rank): odd maps, tails in channels and states, several chunks of 64 steps
SHAPES = [(2, 7, 11, 20, 5, 3), (1, 9, 15, 33, 16, 2), (3, 1, 5, 3, 1, 1), (1, 13, 5, 16, 17, 18)]


@functools.cache
def case(shape, slice_size):
    """Inputs, the gradient of y, and the truth for them, made once for all backends."""
    inputs = slice_scan_inputs(*shape)
    grad_y = gradient_of_y(inputs)
    return inputs, grad_y, *truth(inputs, slice_size, grad_y)


@pytest.mark.parametrize("slice_size", SLICE_SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_agrees_with_the_reference_for_every_slice_size(backend, slice_size):
    check(*case(SHAPES[0], slice_size), slice_size)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda s: "x".join(map(str, s)))
def test_agrees_with_the_reference_for_every_shape(backend, shape):
    check(*case(shape, (2, 4)), (2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keeps_the_dtype_and_computes_in_float32_or_better(backend, dtype):
    inputs = slice_scan_inputs()
    inputs[0] = inputs[0].to(dtype)
    expected, expected_grads = truth(inputs, (2, 4), gradient_of_y(inputs))
    own = leaves(inputs)
    y = slice_scan(*own, (2, 4))
    grads = torch.autograd.grad(y, own, gradient_of_y(inputs).to(dtype))
    tolerance = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-6}[dtype]
    assert y.dtype == grads[0].dtype == dtype
    assert grads[1].dtype == torch.float32
    assert relative(y, expected) < tolerance
    for got, want in zip(grads, expected_grads, strict=True):
        assert relative(got, want) < tolerance


def test_autocast_leaves_the_scan_in_float32(backend):
    inputs = slice_scan_inputs()
    expected = slice_scan(*inputs, (2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(slice_scan(*inputs, (2, 2)), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("hide", [poisoned, fenced])
def test_reads_nothing_but_its_inputs(backend, shape, hide):
    inputs = slice_scan_inputs(*shape)
    grad_y = gradient_of_y(inputs)
    plain, hidden = leaves(inputs), [hide(tensor).requires_grad_() for tensor in inputs]
    y, y_hidden = slice_scan(*plain, (2, 4)), slice_scan(*hidden, (2, 4))
    assert relative(y_hidden, y) < 1e-6
    grads = torch.autograd.grad(y, plain, grad_y)
    for got, want in zip(torch.autograd.grad(y_hidden, hidden, hide(grad_y)), grads, strict=True):
        assert relative(got, want) < 1e-6


def test_large_steps_and_long_memory_stay_finite(backend):
    inputs = slice_scan_inputs(1, 8, 40, 16, 4, 2)
    for bias in (-12.0, 30.0):
        inputs[3] = torch.full_like(inputs[3], bias)
        grad_y = gradient_of_y(inputs)
        check(inputs, grad_y, *truth(inputs, (2, 4), grad_y), (2, 4))


def memory_inputs(slowest, height=32, width=68, channels=16, states=16):
    """2,176 places with the network's own start (steps 0.001 to 0.1, A = -1 … -N), decays ``slowest`` times as fast."""
    random = torch.Generator().manual_seed(5)
    inputs = slice_scan_inputs(1, height, width, channels, states, 1)
    steps = torch.exp(torch.empty(4, channels).uniform_(-6.9, -2.3, generator=random))
    inputs[2] = inputs[2] * 0.1
    inputs[3] = torch.log(torch.expm1(steps))
    inputs[4] = torch.log(torch.arange(1.0, states + 1)).repeat(4 * channels, 1) + math.log(slowest)
    inputs[5] = torch.ones(4 * channels)
    return inputs


@functools.cache
def memory_case(slowest):
    inputs = memory_inputs(slowest)
    grad_y = gradient_of_y(inputs) + 1  # a mean, so that the errors of all steps add up
    return inputs, grad_y, *truth(inputs, (2, 4), grad_y)


@pytest.mark.parametrize("slowest", [1.0, 1e-2, 1e-4])
def test_long_sequences_with_slow_decays_keep_float32(operator_backend, slowest):
    """The figures of docs/scan.md, Accuracy; ``torch`` multiplies the decays of 16 steps, which rounds them further."""
    tolerances = (1e-5, 1e-5) if operator_backend == "torch" else (1.5e-6, 3e-6)
    check(*memory_case(slowest), (2, 4), tolerances)


def test_nan_in_comes_out(backend):
    inputs = slice_scan_inputs()
    inputs[0][0, 3, 3, 5] = float("nan")
    y = slice_scan(*inputs, (2, 2))
    assert y[0].isnan().any()
    assert not y[1].isnan().any()


@pytest.mark.parametrize("shape", [(1, 16, 16, 80, 16, 5), (3, 9, 9, 40, 16, 3)], ids=["one image", "three"])
def test_is_the_same_bit_for_bit_in_every_run_and_with_any_number_of_threads(native, shape):
    inputs = slice_scan_inputs(*shape)
    grad_y = gradient_of_y(inputs)
    first = run(inputs, grad_y)
    for number in (1, 2, 2, 3):
        torch.set_num_threads(number)
        for name, got, want in zip(("y", *NAMES), run(inputs, grad_y), first, strict=True):
            assert torch.equal(got, want), (name, number)


def test_is_the_same_bit_for_bit_in_every_run(backend):
    inputs = slice_scan_inputs()
    grad_y = gradient_of_y(inputs)
    for name, got, want in zip(("y", *NAMES), run(inputs, grad_y), run(inputs, grad_y), strict=True):
        assert torch.equal(got, want), name


def test_instruction_sets_agree(native, monkeypatch):
    from slicemamba.ops import cpu

    inputs = slice_scan_inputs(1, 16, 16, 48, 16, 3)
    results = []
    for isa in cpu.instruction_sets():
        monkeypatch.setenv("SLICEMAMBA_ISA", isa)
        results.append(run(inputs, gradient_of_y(inputs)))
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert relative(got, want) < 2e-6


def test_gradients_pass_gradcheck():
    inputs = leaves(slice_scan_inputs(1, 3, 7, 2, 2, 1), torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: slice_scan(*tensors, (2, 3)), inputs)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 7, 20), r"\(B, H, W, Dm\), got \(2, 7, 20\)"),
        (1, (4, 13, 21), r"x_proj_weight expects shape \(4, 13, 20\)"),
        (2, (4, 20), r"dt_proj_weight \(4, Dm, R\)"),
        (3, (80,), r"dt_proj_bias expects shape \(4, 20\)"),
        (4, (20, 5), r"A_log expects shape \(80, 5\)"),
        (5, (4, 20), r"D expects shape \(80,\)"),
    ],
)
def test_wrong_shapes_are_named(index, shape, message):
    inputs = slice_scan_inputs()
    inputs[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        slice_scan(*inputs, (2, 2))
    with pytest.raises(ValueError, match="slice_size"):
        slice_scan(*slice_scan_inputs(), (2, 0))


def test_training_goes_on_after_an_evaluation_of_the_same_size(backend):
    """What a backend keeps from call to call must serve gradients, even when an inference pass has made it."""
    shape = (1, 6, 10, 4, 2, 1)  # of no other test, so that nothing of it is kept yet
    with torch.inference_mode():
        slice_scan(*slice_scan_inputs(*shape), (3, 2))
    own = leaves(slice_scan_inputs(*shape))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(slice_scan(*own, (3, 2)).sum(), own))
