"""A first, tiny scan on the GPU: whether Triton's kernels compile there, and agree with the torch backend."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from slicemamba.ops import chunked, triton

_TOLERANCE = 1e-2  # of the norm; so wide that TF32 products, where they are allowed, pass
_SLICE_SIZE = (2, 3)


@lru_cache(maxsize=1)
def triton_status() -> str:
    """ "usable", or what the kernels did wrong on this GPU, which is also told in one warning; once a process."""
    # In a thread of its own, where nothing of the caller is in force: no tracing, no autocast, no inference mode.
    with ThreadPoolExecutor(1) as thread:
        fault = thread.submit(triton_fault, torch.device("cuda", torch.cuda.current_device())).result()
    if fault is None:
        return "usable"
    status = f"not usable: its self-check on {torch.cuda.get_device_name()} failed ({fault}); pip install -U triton"
    message = f"The triton scan is {status}. Another backend is used instead, which is slower."
    warnings.warn(message, RuntimeWarning, stacklevel=2)
    return status


def triton_fault(device: torch.device) -> str | None:
    """What is wrong with y or a gradient of one tiny scan, or None."""
    inputs, grad_y = _inputs(device)
    try:
        y, saved = triton.slice_scan(*inputs, _SLICE_SIZE, save=True)
        got = (y, *triton.slice_scan_backward(grad_y, *inputs, saved, _SLICE_SIZE))
    except Exception as error:  # whatever a compiler or a driver may raise: the other backends still run
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    wide = [tensor.double() for tensor in inputs]
    expected = (
        chunked.slice_scan(*wide, _SLICE_SIZE),
        *chunked.slice_scan_backward(grad_y.double(), *wide, _SLICE_SIZE),
    )
    worst = torch.stack([_relative(*pair) for pair in zip(got, expected, strict=True)]).max().item()
    return None if worst < _TOLERANCE else f"results are off by {worst:.1e} of their norm"  # NaN is a fault too


def _relative(got: Tensor, expected: Tensor) -> Tensor:
    return (got - expected).norm() / expected.norm()


def _inputs(device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Inputs in the order of ``slice_scan`` and a gradient of y: 5×7 places, two tiles of channels, odd N and R."""
    random = torch.Generator().manual_seed(0)
    channels, states, rank = 36, 5, 3
    shapes = ((1, 5, 7, channels), (4, rank + 2 * states, channels), (4, channels, rank), (4, channels))
    shapes += ((4 * channels, states), (4 * channels,), (1, 5, 7, channels))
    *inputs, grad_y = (0.5 * torch.randn(shape, generator=random).to(device) for shape in shapes)
    return inputs, grad_y
