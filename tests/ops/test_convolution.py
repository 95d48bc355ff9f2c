"""Depthwise convolution with SiLU and instance norm with leaky ReLU, against torch's own operators in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from scan_cases import fenced, leaves, poisoned, relative
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slicemamba.models import complexity  # noqa: F401  (registers the count of FLOPs)
from slicemamba.ops import cpu, depthwise_silu, instance_norm_act, reference

Operation = Callable[..., Tensor]

norm = partial(instance_norm_act, eps=1e-5, slope=0.01)
plain_norm = partial(reference.instance_norm_act, eps=1e-5, slope=0.01)
PAIRS: dict[str, tuple[Operation, Operation]] = {
    "depthwise_silu": (depthwise_silu, reference.depthwise_silu),
    "instance_norm_act": (norm, plain_norm),
}
# One vector and less, tails of vectors and of columns, maps smaller than the kernel, several bands and chunks
SHAPES = [(2, 7, 11, 20), (1, 40, 33, 48), (3, 2, 3, 16), (2, 9, 1, 33), (1, 1, 6, 5), (1, 17, 64, 130)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(name: str, shape: tuple[int, ...], kernel: int = 3) -> list[Tensor]:
    channels = shape[-1]
    weight = (
        normal(channels, 1, kernel, kernel, seed=1) / kernel if name == "depthwise_silu" else normal(channels, seed=1)
    )
    return [2 + normal(*shape), weight, normal(channels, seed=2)]


def with_gradients(operation: Operation, inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    own = [tensor.detach().requires_grad_() for tensor in inputs]
    result = operation(*own)
    return [result, *torch.autograd.grad(result, own, grad.to(result))]


def errors(name: str, inputs: Sequence[Tensor], grad: Tensor) -> list[float]:
    """Of the result and all gradients."""
    operation, truth = PAIRS[name]
    expected = with_gradients(truth, [tensor.double() for tensor in inputs], grad)
    return [relative(*pair) for pair in zip(with_gradients(operation, inputs, grad), expected, strict=True)]


@pytest.fixture(params=PAIRS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_agrees_with_torch_in_float64(operator_backend: str, name: str, shape: tuple[int, ...]) -> None:
    assert max(errors(name, inputs_of(name, shape), normal(*shape, seed=3))) < 2e-6


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("size", [(3, 2), (19, 14)])
def test_kernels_of_every_width(operator_backend: str, kernel: int, size: tuple[int, int]) -> None:
    shape = (2, *size, 21)
    assert max(errors("depthwise_silu", inputs_of("depthwise_silu", shape, kernel), normal(*shape, seed=3))) < 2e-6


@pytest.mark.parametrize("hide", [poisoned, fenced])
def test_reads_nothing_but_its_inputs(operator_backend: str, name: str, hide: Callable[[Tensor], Tensor]) -> None:
    shape = (2, 5, 6, 21)
    inputs, grad = inputs_of(name, shape), normal(*shape, seed=3)
    assert max(errors(name, [hide(tensor) for tensor in inputs], hide(grad))) < 2e-6


@pytest.mark.parametrize("part", [lambda both: both.chunk(2, dim=-1)[1], lambda both: both[:, 1:-1, 2:, :20]])
def test_takes_strided_maps_as_they_are(native: None, name: str, part: Callable[[Tensor], Tensor]) -> None:
    x = part(normal(2, 9, 8, 40))
    _, *parameters = inputs_of(name, tuple(x.shape))
    grad = part(normal(2, 9, 8, 40, seed=3))
    strided = with_gradients(PAIRS[name][0], [x, *parameters], grad)
    for a, b in zip(strided, with_gradients(PAIRS[name][0], [x.clone(), *parameters], grad.clone()), strict=True):
        assert torch.equal(a, b)
    assert strided[0].is_contiguous()


def test_slices_of_wider_weights(native: None) -> None:
    x, weight, bias = inputs_of("depthwise_silu", (2, 6, 7, 24), kernel=5)
    slices = [x[..., :10], weight[:10, :, 1:-1, 1:-1], bias[:10]]
    assert max(errors("depthwise_silu", slices, normal(2, 6, 7, 10, seed=3))) < 2e-6


def test_a_gradient_that_is_one_number_for_all(native: None, name: str) -> None:
    inputs = leaves(inputs_of(name, (2, 5, 6, 21)))
    grads = torch.autograd.grad(PAIRS[name][0](*inputs).sum(), inputs)
    wide = [tensor.double() for tensor in inputs]
    expected = torch.autograd.grad(PAIRS[name][1](*wide).sum(), inputs)
    for got, want in list(zip(grads, expected, strict=True))[1:]:  # that of the norm's map is 0 but for rounding
        assert relative(got, want) < 2e-6


def test_every_instruction_set_agrees(native: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, 9, 13, 77)
    for isa in cpu.instruction_sets():
        monkeypatch.setenv("SLICEMAMBA_ISA", isa)
        assert max(errors(name, inputs_of(name, shape), normal(*shape, seed=3))) < 2e-6, isa


@pytest.mark.parametrize("batch", [1, 3])
def test_is_the_same_bit_for_bit_with_any_number_of_threads(native: None, name: str, batch: int) -> None:
    shape = (batch, 40, 40, 48)
    inputs, grad = inputs_of(name, shape), normal(*shape, seed=3)
    first = with_gradients(PAIRS[name][0], inputs, grad)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for got, want in zip(with_gradients(PAIRS[name][0], inputs, grad), first, strict=True):
            assert torch.equal(got, want), number


def test_norm_of_a_map_far_from_zero(operator_backend: str) -> None:
    x, weight, bias = inputs_of("instance_norm_act", (2, 40, 40, 20))
    grad = normal(2, 40, 40, 20, seed=3)
    assert max(errors("instance_norm_act", [x + 300, weight, bias], grad)) < 5e-5  # what float32 leaves of such a map


def test_norm_of_constant_channels_is_the_bias(operator_backend: str) -> None:
    bias = torch.tensor([0.5, 0.0, -1.0])
    x = leaves([torch.full((2, 5, 7, 3), 0.1), torch.ones(3), bias])
    out = norm(*x)
    torch.testing.assert_close(out, torch.tensor([0.5, 0.0, -0.01]).expand_as(out), rtol=1e-5, atol=1e-5)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), x))


def test_zeros_count_as_negative_for_the_gradient_as_in_torch(operator_backend: str) -> None:
    inputs = leaves([torch.zeros(1, 4, 4, 3), torch.ones(3), torch.zeros(3)])
    assert torch.autograd.grad(norm(*inputs).sum(), inputs[2])[0].tolist() == pytest.approx([0.16] * 3)


def test_nan_stays_in_its_channel(operator_backend: str, name: str) -> None:
    inputs = inputs_of(name, (2, 6, 7, 18))
    inputs[0][1, 3, 3, 17] = float("nan")
    out = PAIRS[name][0](*inputs)
    assert out[1, 3, 3, 17].isnan()
    assert out[0].isfinite().all()
    assert out[1, ..., :17].isfinite().all()


def test_large_numbers_stay_finite(operator_backend: str, name: str) -> None:
    x, weight, bias = inputs_of(name, (2, 6, 7, 18))
    assert max(errors(name, [300 * x, weight, bias], normal(2, 6, 7, 18, seed=3))) < 5e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_other_dtypes_are_left_to_torch(native: None, name: str, dtype: torch.dtype, tolerance: float) -> None:
    inputs = [tensor.to(dtype) for tensor in inputs_of(name, (2, 6, 7, 18))]
    out = PAIRS[name][0](*inputs)
    assert out.dtype == dtype
    assert relative(out, PAIRS[name][1](*(tensor.double() for tensor in inputs))) < tolerance


def test_float32_stays_float32_under_autocast(native: None, name: str) -> None:
    inputs = inputs_of(name, (2, 6, 7, 18))
    with torch.autocast("cpu", torch.bfloat16):
        out = PAIRS[name][0](*inputs)
    assert torch.equal(out, PAIRS[name][0](*inputs))


def test_an_empty_batch_stays_empty(operator_backend: str) -> None:
    assert depthwise_silu(*inputs_of("depthwise_silu", (0, 4, 6, 5))).shape == (0, 4, 6, 5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_pass_gradcheck(kernel: int) -> None:
    assert torch.autograd.gradcheck(
        depthwise_silu, leaves(inputs_of("depthwise_silu", (1, 4, 3, 2), kernel), torch.float64)
    )
    assert torch.autograd.gradcheck(norm, leaves(inputs_of("instance_norm_act", (1, 4, 3, 2)), torch.float64))


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_opcheck(operator_backend: str, name: str, grad: bool) -> None:
    inputs = inputs_of(name, (2, 3, 4, 18))
    extra = (1e-5, 0.01) if name == "instance_norm_act" else ()
    torch.library.opcheck(getattr(torch.ops.slicemamba, name), (*(leaves(inputs) if grad else inputs), *extra))


@pytest.mark.parametrize("to", ["native", "torch"])
def test_an_exported_program_runs_with_either_backend(
    native: None, name: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return PAIRS[name][0](*tensors)

    inputs = tuple(inputs_of(name, (2, 5, 6, 21)))
    program = torch.export.export(Module(), inputs)
    assert f"slicemamba.{name}.default" in {str(node.target) for node in program.graph.nodes}
    monkeypatch.setenv("SLICEMAMBA_SCAN", to)
    assert relative(program.module()(*inputs), PAIRS[name][1](*(tensor.double() for tensor in inputs))) < 2e-6


def test_flops_are_those_of_the_convolution(native: None) -> None:
    counts = []
    for device in ("cpu", "meta"):  # the native operator, and torch's
        with FlopCounterMode(display=False) as counter:
            depthwise_silu(*(tensor.to(device) for tensor in inputs_of("depthwise_silu", (2, 6, 7, 18), kernel=5)))
        counts.append(counter.get_total_flops())
    assert counts == [2 * 2 * 6 * 7 * 18 * 25] * 2


def test_shapes_that_do_not_fit_are_named() -> None:
    x = torch.zeros(1, 4, 4, 3)
    with pytest.raises(ValueError, match=r"got \(1, 4, 4, 3\), \(3, 1, 2, 2\) and \(3,\)"):
        depthwise_silu(x, torch.zeros(3, 1, 2, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \(1, 4, 4, 3\), \(4, 1, 3, 3\) and \(4,\)"):
        depthwise_silu(x, torch.zeros(4, 1, 3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"more than one place.*got \(2, 1, 1, 3\)"):
        instance_norm_act(torch.zeros(2, 1, 1, 3), torch.ones(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"weight and bias \(D,\), got"):
        instance_norm_act(x, torch.ones(3), torch.zeros(2))
