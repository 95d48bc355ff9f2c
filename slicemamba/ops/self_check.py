"""First, tiny scans on the GPU: whether Triton's kernels compile there, and agree with the torch backend."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import torch
from torch import Tensor

from slicemamba.ops import chunked, reference, triton, triton_gating
from slicemamba.ops.inputs import SliceInputs

Results = tuple[Tensor, ...]

_TOLERANCE = 1e-2  # of the norm; so wide that TF32 products, where they are allowed, pass
_SLICE_SIZE = (2, 3)
_EPS = 1e-5
_MAPS = ((5, 7), (11, 13))  # the second is long enough to be cut into segments


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
    """What is wrong with the results or gradients of tiny scans and of a gated norm, or None."""
    checks = (*(partial(_scans, device, *size) for size in _MAPS), partial(_gated_norms, device))
    return next(filter(None, map(_fault, checks)), None)


def _fault(results: Callable[[], tuple[Results, Results]]) -> str | None:
    try:
        got, expected = results()
    except Exception as error:  # whatever a compiler or a driver may raise: the other backends still run
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]
    agree = all(error < _TOLERANCE for error in errors)  # NaN does not
    return None if agree else f"relative errors of y and the gradients: {', '.join(f'{e:.0e}' for e in errors)}"


def _scans(device: torch.device, height: int, width: int) -> tuple[Results, Results]:
    grad, inputs = _inputs(device, height, width)
    wide = SliceInputs(*(tensor.double() for tensor in inputs))
    y, saved = triton.slice_scan(inputs, _SLICE_SIZE, save=True)
    got = (y, *triton.slice_scan_backward(grad, inputs, saved, _SLICE_SIZE))
    expected = chunked.slice_scan_backward(grad.double(), wide, _SLICE_SIZE)
    return got, (chunked.slice_scan(wide, _SLICE_SIZE), *expected)


def _gated_norms(device: torch.device) -> tuple[Results, Results]:
    grad, (y, *_) = _inputs(device, 5, 7)
    inputs = (y, grad + 1, y[0, 0, 0], grad[0, 0, 0])  # y, z, weight, bias
    y64, z64, weight64, bias64 = (tensor.double() for tensor in inputs)
    wide = (y64, z64, weight64, bias64)
    got = (triton_gating.forward(*inputs, _EPS), *triton_gating.backward(grad, *inputs, _EPS))
    return got, (reference.gated_norm(*wide, _EPS), *reference.gated_norm_backward(grad.double(), *wide, _EPS))


def _inputs(device: torch.device, height: int, width: int) -> tuple[Tensor, SliceInputs]:
    """A gradient of y and the inputs of ``slice_scan``: two tiles of channels, odd N and R."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (0.5 * torch.randn(shape, generator=random)).to(device)

    channels, states, rank = 36, 5, 3
    return normal(1, height, width, channels), SliceInputs(
        normal(1, height, width, channels),
        normal(4, rank + 2 * states, channels),
        normal(4, channels, rank),
        normal(4, channels),
        normal(4 * channels, states),
        normal(4 * channels),
    )
