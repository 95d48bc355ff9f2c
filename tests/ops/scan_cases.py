"""Inputs for the scan tests, and the comparison that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slicemamba.ops import reference, slice_scan
from slicemamba.ops.inputs import SliceInputs

SLICE_SIZES = [(1, 1), (2, 2), (2, 4), (4, 2), (4, 4), (2, 8), (8, 4), (3, 5)]
EPS = 1e-5
NAMES = ("x", "x_proj_weight", "dt_proj_weight", "dt_proj_bias", "A_log", "D")


def slice_scan_inputs(
    batch: int = 2,
    height: int = 7,
    width: int = 11,
    channels: int = 20,
    states: int = 5,
    rank: int = 3,
    seed: int = 0,
) -> list[Tensor]:
    """Float32 inputs in the order of ``slice_scan``, of the sizes that a trained network shows."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return [
        normal(batch, height, width, channels),
        normal(4, rank + 2 * states, channels) * channels**-0.5,
        normal(4, channels, rank) * rank**-0.5,
        normal(4, channels) - 2,
        torch.log(torch.arange(1, states + 1.0)).repeat(4 * channels, 1) + 0.1 * normal(4 * channels, states),
        normal(4 * channels),
    ]


def leaves(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies that want gradients."""
    return [tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_() for tensor in tensors]


def relative(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def gradient_of_y(inputs: list[Tensor]) -> Tensor:
    """A gradient to send back through y, float32."""
    return torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))


def truth(inputs: list[Tensor], slice_size: tuple[int, int], grad_y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """y and all gradients by the reference in float64."""
    wide = leaves(inputs, torch.float64)
    y = reference.slice_scan(SliceInputs(*wide), slice_size)
    return y, torch.autograd.grad(y, wide, grad_y.double())


def run(inputs: list[Tensor], grad_y: Tensor, slice_size: tuple[int, int] = (2, 4)) -> list[Tensor]:
    """y and all gradients by the backend that is chosen."""
    own = leaves(inputs)
    y = slice_scan(*own, slice_size)
    return [y, *torch.autograd.grad(y, own, grad_y.to(y))]


def check(
    inputs: list[Tensor],
    grad_y: Tensor,
    expected: Tensor,
    expected_grads: Sequence[Tensor],
    slice_size: tuple[int, int],
    tolerances: tuple[float, float] = (1e-6, 4e-6),
) -> None:
    """Hold y and all gradients to the truth; tolerances are relative, for y and for gradients."""
    y, *grads = run(inputs, grad_y, slice_size)
    assert relative(y, expected) < tolerances[0]
    for name, got, want in zip(NAMES, grads, expected_grads, strict=True):
        assert relative(got, want) < tolerances[1], name


def gated_norm_inputs(*shape: int) -> list[Tensor]:
    """Float32 inputs in the order of ``gated_norm``; z is one half of a projection, off its rows' beginning."""
    random = torch.Generator().manual_seed(0)
    both = 3 * torch.randn(*shape[:-1], 2 * shape[-1], generator=random)
    affine = [torch.randn(shape[-1], generator=random) for _ in range(2)]
    return [2 + both[..., : shape[-1]], both[..., shape[-1] :], *affine]


def gated_norm_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The result for ``inputs``, and the gradients of all of them."""
    own = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*own, EPS)
    return [result, *torch.autograd.grad(result, own, grad.to(result))]


def poisoned(tensor: Tensor) -> Tensor:
    """The same values as a strided view into a buffer that is NaN everywhere else."""
    buffer = torch.full([2 * size + 3 for size in tensor.shape], float("nan"))
    view = buffer[tuple(slice(1, 1 + 2 * size, 2) for size in tensor.shape)]
    view.copy_(tensor)
    return view


def fenced(tensor: Tensor) -> Tensor:
    """The same values, contiguous, with NaN right before and after them in memory."""
    buffer = torch.full([tensor.numel() + 64], float("nan"))
    view = buffer[32 : 32 + tensor.numel()].view(tensor.shape)
    view.copy_(tensor)
    return view
