"""The memory that the native scan takes, as the benchmark measures it."""

import sys

import pytest
import torch
from scan_cases import leaves

from benchmarks import memory
from benchmarks.scan import alone, scan_inputs, slice_inputs, whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def test_an_allocation_is_seen():
    taken = memory.extra(lambda x: torch.zeros(1 << 22).sum() + x, leaves([torch.zeros(1)]), False)
    assert taken == pytest.approx(1 << 24, rel=0.2)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize(("run", "make"), [(alone, scan_inputs), (whole, slice_inputs)], ids=["scan", "slice_scan"])
def test_the_native_scan_takes_less_than_twice_its_inputs(native, run, make, backward):
    assert memory.extra(run, make(1, 32, 384), backward) < 2 * memory.size(scan_inputs(1, 32, 384))


def test_the_plain_scan_copies_no_view_of_its_inputs(native):
    inputs = scan_inputs(1, 32, 384)
    views = [torch.cat([tensor, tensor], dim=1).chunk(2, dim=1)[0] for tensor in inputs]
    assert memory.extra(alone, views, False) < 0.2 * memory.size(inputs[:1])
