"""The scan in supported operators: the same numbers as the reference, for every slice size and odd maps."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from scan_cases import SLICE_SIZES, relative, slice_scan_inputs

from slicemamba.ops import portable, reference
from slicemamba.ops.inputs import SliceInputs


@pytest.mark.parametrize("slice_size", SLICE_SIZES)
@pytest.mark.parametrize(("height", "width"), [(7, 11), (8, 4), (1, 5)])
def test_equals_the_reference(slice_size: tuple[int, int], height: int, width: int) -> None:
    inputs = slice_scan_inputs(height=height, width=width, channels=6, states=3)
    with torch.no_grad():
        y, saved = portable.slice_scan_operator(*inputs, *slice_size, False)
        expected = reference.slice_scan(SliceInputs(*(tensor.double() for tensor in inputs)), slice_size)
    assert y.shape == expected.shape
    assert relative(y, expected) < 2e-6
    assert saved.numel() == 0


def test_gives_the_same_without_torchs_own_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = SliceInputs(*slice_scan_inputs(height=5, width=7, channels=6, states=3))
    with torch.no_grad():
        expected = portable.slice_scan(inputs, (2, 4))
        monkeypatch.setattr(portable, "scan", portable.unrolled)
        assert torch.equal(portable.slice_scan(inputs, (2, 4)), expected)


def test_torch_without_its_scan_is_warned_of_and_the_loop_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.scan", None)
    spec = importlib.util.spec_from_file_location("portable_elsewhere", portable.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.warns(RuntimeWarning, match="its scan operator is elsewhere"):
        spec.loader.exec_module(module)
    assert module.scan is module.unrolled


def test_large_steps_stay_finite() -> None:
    x, x_proj, dt_proj, dt_bias, a_log, d = slice_scan_inputs(channels=6, states=3)
    inputs = SliceInputs(x * 50, x_proj, dt_proj * 20, dt_bias + 30, a_log + 3, d)
    with torch.no_grad():
        y = portable.slice_scan(inputs, (2, 4))
        expected = reference.slice_scan(SliceInputs(*(tensor.double() for tensor in inputs)), (2, 4))
    assert relative(y, expected) < 1e-5


def test_a_backward_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="no backward pass"):
        portable.slice_scan_operator(*slice_scan_inputs(), 2, 2, True)
