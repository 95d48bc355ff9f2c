"""The operators as torch sees them: opcheck, export, compile, and no checkpoints without gradients."""

import pytest
import torch
from scan_cases import leaves, slice_scan_inputs

from slicemamba.ops import slice_scan

SMALL = (1, 4, 6, 8, 3, 2)


class Scan(torch.nn.Module):
    def __init__(self, parameters):
        super().__init__()
        self.weights = torch.nn.ParameterList(parameters)

    def forward(self, x):
        return slice_scan(x, *self.weights, (2, 4))


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_opcheck_of_the_slice_scan(operator_backend, grad):
    inputs = slice_scan_inputs(*SMALL)
    torch.library.opcheck(torch.ops.slicemamba.slice_scan, (*(leaves(inputs) if grad else inputs), 2, 4, grad))


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
@pytest.mark.parametrize("given", [False, True], ids=["plain", "skip, bias and softplus"])
def test_opcheck_of_the_plain_scan(operator_backend, grad, given):
    u, delta = torch.randn(2, 1, 8, 9).unbind()
    B, C = torch.randn(2, 1, 2, 3, 9).unbind()
    D, bias = (torch.randn(8), torch.randn(8)) if given else (torch.empty(0), torch.empty(0))
    tensors = [u, delta.abs(), -torch.rand(8, 3), B, C, D, bias]
    torch.library.opcheck(torch.ops.slicemamba.scan, (*(leaves(tensors) if grad else tensors), given, grad))


def test_export_keeps_one_operator_and_the_numbers(operator_backend):
    x, *parameters = slice_scan_inputs(*SMALL)
    module = Scan(parameters)
    with torch.no_grad():
        expected = module(x)
        program = torch.export.export(module, (x,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("slicemamba.slice_scan.default") == 1
    assert torch.equal(program.module()(x), expected)


def test_export_takes_any_batch_and_map_size(operator_backend):
    x, *parameters = slice_scan_inputs(*SMALL)
    dims = {i: torch.export.Dim(name, min=2, max=64) for i, name in enumerate(("batch", "height", "width"))}
    x = x.repeat(2, 1, 1, 1)
    module = Scan(parameters)
    with torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=(dims,))
        other = slice_scan_inputs(3, 5, 9, 8, 3, 2)[0]
        assert torch.equal(program.module()(other), module(other))


def test_compile_gives_the_same_result_and_gradients(operator_backend):
    inputs = leaves(slice_scan_inputs(*SMALL))
    compiled = torch.compile(slice_scan, backend="aot_eager", fullgraph=True)
    expected, got = slice_scan(*inputs, (2, 4)), compiled(*inputs, (2, 4))
    assert torch.equal(got, expected)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_nothing_is_saved_without_gradients(native):
    inputs = slice_scan_inputs(*SMALL)
    _, saved = torch.ops.slicemamba.slice_scan(*inputs, 2, 4, False)
    assert saved.numel() == 0
    _, saved = torch.ops.slicemamba.slice_scan(*inputs, 2, 4, True)
    assert saved.numel() > 0
