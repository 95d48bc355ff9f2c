"""The mamba_ssm backend, which is the published path: four permuted copies, mamba_ssm's CUDA scan, and the way back.

Plain torch around a function that brings its own gradient, so it is no operator of torch.library: what is compiled or
exported takes the torch backend in its place. mamba_ssm can be imported only where there is a GPU.

Shapes: x (B, H, W, Dm), L = H·W; mamba_ssm takes u, delta (B, K·Dm, L), A (K·Dm, N), B, C (B, K, N, L).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from slicemamba.ops.inputs import SliceInputs
from slicemamba.ops.slicing import scan_orders

Scan = Callable[..., Tensor]
_INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm"


@lru_cache(maxsize=1)
def status() -> str:
    """ "usable", or why the mamba_ssm backend is not and how to mend that."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return f"not usable: mamba_ssm is not installed; on a machine with an NVIDIA GPU, {_INSTALL}"
    if not torch.cuda.is_available():
        return f"not usable: no CUDA device (torch.cuda.is_available() is False); on a machine with one, {_INSTALL}"
    try:
        from mamba_ssm.ops import selective_scan_interface
    except ImportError as error:
        return f"not usable: mamba_ssm cannot be imported ({error}); {_INSTALL}"
    if getattr(selective_scan_interface, "selective_scan_cuda", None) is None:
        return f"not usable: mamba_ssm was built without its Mamba-1 scan; {_INSTALL} --force-reinstall --no-deps"
    return "usable"


def selective_scan_fn() -> Scan:
    """mamba_ssm's selective scan; only where ``status`` says "usable"."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    scan: Scan = selective_scan_fn
    return scan


@lru_cache(maxsize=64)
def _orders(height: int, width: int, slice_size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The orders of the four directions and their inverses, (4, L) each. Cached, so not to be written to."""
    with torch.inference_mode(False):  # as there
        order = scan_orders(height, width, slice_size).to(device)
        return order, order.argsort(dim=1)


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int], scan: Scan | None = None) -> Tensor:
    """The slice scan, (B, H, W, Dm) to the same, float32; ``scan`` may stand in for mamba_ssm's selective_scan_fn."""
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    batch, height, width, channels = x.shape
    rank, states = inputs.rank, inputs.states
    order, inverse = _orders(height, width, slice_size, x.device)
    forth, back = (places[:, None].expand(batch, 4, channels, -1) for places in (order, inverse))
    flat = x.flatten(1, 2).mT.contiguous()  # (B, Dm, L)
    sequences = flat[:, None].expand_as(forth).gather(3, forth)  # (B, 4, Dm, L)
    projected = torch.einsum("bkdl,kjd->bkjl", sequences, x_proj_weight)
    dt, B, C = torch.split(projected, [rank, states, states], dim=2)
    y = (scan or selective_scan_fn())(
        sequences.flatten(1, 2),
        torch.einsum("bkrl,kdr->bkdl", dt, dt_proj_weight).flatten(1, 2),
        -torch.exp(A_log),
        B.contiguous(),
        C.contiguous(),
        D,
        delta_bias=dt_proj_bias.flatten(),
        delta_softplus=True,
    )
    total: Tensor = y.view_as(back).gather(3, back).sum(1)
    return total.mT.reshape(x.shape)
