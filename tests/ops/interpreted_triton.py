"""The Triton kernels in Triton's interpreter on CPU tensors, against the sequential truth; as small as can be.

Run by test_triton.py in a process of its own, for TRITON_INTERPRET must be set before Triton is imported. Maps are odd.
"""

from itertools import product

import pytest
import torch
import triton
import triton.language as tl
from scan_cases import (
    NAMES,
    SLICE_SIZES,
    check,
    fenced,
    gated_norm_and_gradients,
    gated_norm_inputs,
    gradient_of_y,
    leaves,
    poisoned,
    relative,
    run,
    slice_scan_inputs,
    truth,
)

from slicemamba.ops import (
    _triton_kernels,
    choose_backend,
    gated_norm,
    reference,
    self_check,
    slice_order,
    slice_scan,
    triton_gating,
)
from slicemamba.ops import triton as backend
from slicemamba.ops._triton_layout import CHUNK, Segments, geometry
from slicemamba.ops.slicing import AXES

TINY = (1, 1, 3, 3, 2, 1)


def test_runs_on_the_cpu_only_when_forced(monkeypatch):
    assert choose_backend("cpu") == "triton"
    monkeypatch.delenv("SLICEMAMBA_SCAN")
    assert choose_backend("cpu") != "triton"


def test_passes_its_self_check(monkeypatch):
    """But for the map that is cut into segments, which takes a minute here: see the cut sequences below."""
    monkeypatch.setattr(self_check, "_MAPS", self_check._MAPS[:1])
    assert self_check.triton_fault(torch.device("cpu")) is None


# A size only chooses the order of rows, which is looked at for all of them below.
@pytest.mark.parametrize("slice_size", [(1, 1), (2, 4), (3, 5)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_agrees_with_the_reference_for_a_slice_size(slice_size):
    inputs = slice_scan_inputs(1, 3, 5, 20, 5, 3)
    grad_y = gradient_of_y(inputs)
    check(inputs, grad_y, *truth(inputs, slice_size, grad_y), slice_size)


# Two chunks of steps; two tiles of channels; three images; more states and ranks than a power of two
SHAPES = [(1, 5, 7, 4, 3, 2), (2, 2, 3, 35, 3, 2), (3, 1, 3, 3, 1, 1), (1, 3, 3, 16, 17, 18)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_agrees_with_the_reference_for_every_shape(shape):
    inputs = slice_scan_inputs(*shape)
    grad_y = gradient_of_y(inputs)
    check(inputs, grad_y, *truth(inputs, (2, 4), grad_y), (2, 4))


# Three segments, the last of them short; segments of two chunks; the last of a single place, and two images
@pytest.mark.parametrize(("images", "height", "width", "chunks"), [(1, 5, 14, 1), (1, 5, 14, 2), (2, 3, 11, 1)])
def test_a_cut_sequence_gives_the_same(images, height, width, chunks, monkeypatch):
    def segments_of(sizes, device):
        return Segments(-(-sizes.length // (chunks * CHUNK)), chunks * CHUNK)

    monkeypatch.setattr(backend, "segments_of", segments_of)
    inputs = slice_scan_inputs(images, height, width, 4, 3, 2)
    grad_y = gradient_of_y(inputs)
    check(inputs, grad_y, *truth(inputs, (2, 4), grad_y), (2, 4))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 1.5e-3), (torch.float64, 1e-12)]
)
def test_keeps_the_dtype(dtype, tolerance):
    inputs = slice_scan_inputs(1, 3, 5, 20, 5, 3)
    inputs[0] = inputs[0].to(dtype)
    if dtype == torch.float64:  # not a dtype of the kernels: torch stands in
        inputs = [tensor.to(dtype) for tensor in inputs]
    grad_y = gradient_of_y(inputs).to(dtype)
    expected, expected_grads = truth(inputs, (3, 2), grad_y)
    y, *grads = run(inputs, grad_y, (3, 2))
    assert y.dtype == dtype
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in inputs]
    for got, want in zip((y, *grads), (expected, *expected_grads), strict=True):
        assert relative(got, want) < tolerance


@pytest.mark.parametrize("hide", [poisoned, fenced])
def test_reads_nothing_but_its_inputs(hide):
    inputs = slice_scan_inputs(1, 3, 5, 5, 3, 2)
    grad_y = gradient_of_y(inputs)
    hidden = [hide(tensor).requires_grad_() for tensor in inputs]
    y = slice_scan(*hidden, (2, 4))
    results = [y, *torch.autograd.grad(y, hidden, hide(grad_y))]
    expected, grads = truth(inputs, (2, 4), grad_y)
    for got, want in zip(results, (expected, *grads), strict=True):
        assert relative(got, want) < 4e-6


def test_large_steps_and_long_memory_stay_finite():
    inputs = slice_scan_inputs(1, 3, 5, 4, 2, 2)
    for bias in (-12.0, 30.0):
        inputs[3] = torch.full_like(inputs[3], bias)
        grad_y = gradient_of_y(inputs)
        check(inputs, grad_y, *truth(inputs, (2, 4), grad_y), (2, 4))


def test_nan_in_comes_out():
    inputs = slice_scan_inputs(2, 2, 3, 4, 2, 1)
    inputs[0][0, 1, 1, 2] = float("nan")
    with torch.no_grad():
        y = slice_scan(*inputs, (2, 2))
    assert y[0].isnan().any()
    assert not y[1].isnan().any()


def test_is_the_same_bit_for_bit_in_every_run():
    inputs = slice_scan_inputs(1, 2, 2, 35, 3, 2)
    first = run(inputs, gradient_of_y(inputs))
    for name, got, want in zip(("y", *NAMES), run(inputs, gradient_of_y(inputs)), first, strict=True):
        assert torch.equal(got, want), name


def test_autocast_leaves_the_scan_in_float32():
    inputs = slice_scan_inputs(*TINY)
    expected = slice_scan(*inputs, (2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(slice_scan(*inputs, (2, 2)), expected)


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_opcheck(grad):
    inputs = slice_scan_inputs(*TINY)
    torch.library.opcheck(torch.ops.slicemamba.slice_scan, (*(leaves(inputs) if grad else inputs), 2, 4, grad))
    assert (torch.ops.slicemamba.slice_scan(*inputs, 2, 4, grad)[1].numel() > 0) == grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_exported_here_runs_on_other_backends(dtype, monkeypatch):
    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return slice_scan(*tensors, (2, 4))

    inputs = slice_scan_inputs(*TINY)
    inputs[0] = inputs[0].to(dtype)
    with torch.no_grad():
        program = torch.export.export(Scan(), tuple(inputs)).module()
        expected = program(*inputs)
        monkeypatch.setenv("SLICEMAMBA_SCAN", "torch")
        assert relative(program(*inputs), expected) < (1e-6 if dtype == torch.float32 else 1e-2)


# Rows that do not fill a tile; several tiles a program; more channels than a power of two
@pytest.mark.parametrize("shape", [(5, 20), (2, 3, 7, 33), (40, 16), (9, 5)], ids=lambda s: "x".join(map(str, s)))
def test_the_gated_norm_agrees_with_torch(shape, monkeypatch):
    monkeypatch.setattr(triton_gating, "_TILE", 128)
    monkeypatch.setattr(triton_gating, "_PROGRAMS", 2)
    inputs = gated_norm_inputs(*shape)
    grad = gradient_of_y(inputs)
    expected = gated_norm_and_gradients(reference.gated_norm, [tensor.double() for tensor in inputs], grad)
    for got, want in zip(gated_norm_and_gradients(gated_norm, inputs, grad), expected, strict=True):
        assert relative(got, want) < 2e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_the_gated_norm_keeps_the_dtype_and_reads_nothing_but_its_inputs(dtype, tolerance):
    y, z, weight, bias = gated_norm_inputs(3, 5, 20)
    inputs = [poisoned(y).to(dtype), poisoned(z).to(dtype), poisoned(weight), fenced(bias)]
    grad = gradient_of_y(inputs)
    got = gated_norm_and_gradients(gated_norm, inputs, grad)
    assert [tensor.dtype for tensor in got] == [dtype] * 3 + [torch.float32] * 2
    expected = gated_norm_and_gradients(reference.gated_norm, [tensor.double() for tensor in inputs], grad)
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < tolerance


@triton.jit
def _rows_kernel(out, geometry, length, k, SIZE: tl.constexpr):
    t = tl.arange(0, SIZE)
    row = _triton_kernels.sequence_row(t, length, _triton_kernels.axis_numbers(geometry, k))
    tl.store(out + t, row, mask=t < length)


SMALL, LARGE = [(1, 1), (1, 9), (7, 1), (9, 13), (16, 8)], (1023, 1021)


@pytest.mark.parametrize(
    ("shape", "slice_size"), [*product(SMALL, SLICE_SIZES), (LARGE, (1, 1)), (LARGE, (3, 5))], ids=str
)
def test_rows_are_those_of_the_slice_order(shape, slice_size):
    height, width = shape
    length = height * width
    for k in range(4):
        got = torch.full((length,), -1)
        numbers = geometry(height, width, slice_size, got.device)
        _rows_kernel[(1,)](got, numbers, length, k, SIZE=triton.next_power_of_2(length))
        order = slice_order(height, width, slice_size, AXES[k // 2])
        assert torch.equal(got, order.flip(0) if k % 2 else order)
