"""The Triton backend: one GEMM for all projections, then fused sweeps over the sliced map, on NVIDIA GPUs.

The order of a direction is a closed-form row index, so nothing is permuted; state, step sizes and exponentials are
float32 for float32, bfloat16 and float16 maps. No atomics: every sum has a fixed order, so runs repeat bit for bit.
With TRITON_INTERPRET=1, set before the first scan, the same kernels also run (very slowly) on CPU tensors, for tests.

Shapes: L = H·W; Rp, Np are R and N padded to powers of two, Jp = Rp + 2·Np. ``saved`` is bytes: the projections
(B, L, 4, Jp) and then the state before every 32nd step, (B, 4, ⌈L/32⌉, Np, channels padded), both float32.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from slicemamba.ops._triton_layout import (
    CHUNK,
    LOG2_E,
    TILE,
    Segments,
    Sizes,
    cut,
    geometry,
    padded_weights,
    sizes_of,
)
from slicemamba.ops.inputs import SliceInputs

_ADJOINT_AHEAD = 4  # steps whose values are loaded before they are needed
_GROUP = 2  # steps whose states the backward sweep holds in registers
_MERGE_BLOCK = 1024
_WARPS_PER_PROCESSOR = 8  # with fewer, a multiprocessor of a GPU waits more than it works
_WORTHWHILE = 4  # segments; as the cut sequences are swept twice, fewer would gain little
_LEAST_VERSION = (3, 3)  # the first whose kernels may hold tuples
_MOST_PLACES = 1 << 20  # the kernels' divisions are exact up to here
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALL = f"pip install 'triton>={_LEAST_VERSION[0]}.{_LEAST_VERSION[1]}'"


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def _installed() -> str:
    if importlib.util.find_spec("triton") is None:
        return f"not usable: triton is not installed; {_INSTALL}"
    found = tuple(int(part) for part in version("triton").split(".")[:2])
    return "usable" if found >= _LEAST_VERSION else f"not usable: triton {version('triton')} is too old; {_INSTALL}"


def status() -> str:
    """ "usable", or why the Triton backend is not and how to mend that."""
    if _installed() == "usable" and not torch.cuda.is_available() and not interpreted():
        return (
            "not usable: no CUDA device (torch.cuda.is_available() is False); on a machine with an NVIDIA GPU and its "
            "driver, pip install torch triton"
        )
    return _installed()


def supports(x: Tensor) -> bool:
    """Whether the kernels take this map (B, H, W, Dm); the torch backend stands in for the others."""
    return x.dtype in _DTYPES and x.shape[1] * x.shape[2] <= _MOST_PLACES


@lru_cache(maxsize=1)
def _kernels() -> dict[str, Any]:
    from slicemamba.ops import _triton_backward, _triton_kernels  # here, for triton is optional and slow to import

    return {
        "forward": _triton_kernels.forward_kernel,
        "merge": _triton_kernels.merge_kernel,
        "adjoint": _triton_backward.adjoint_kernel,
        "backward": _triton_backward.backward_kernel,
    }


def _launch(name: str, grid: tuple[int, ...], first: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        _kernels()[name][grid](first, *arguments, **constants, enable_fp_fusion=True)


def ahead(padded_rank: int) -> int:
    """Steps whose values the forward sweep loads before it needs them: as many as registers can hold."""
    return 4 if padded_rank <= 8 else 2


def segments_of(sizes: Sizes, device: torch.device) -> Segments:
    """How the sequences of a scan are cut on this device: not at all where a GPU has enough of them."""
    wanted = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        wanted = processors * _WARPS_PER_PROCESSOR // sizes.programs
    return cut(sizes.length, wanted if wanted >= _WORTHWHILE else 1)


def saved_size(inputs: SliceInputs) -> int:
    """Bytes that :func:`slice_scan` keeps for the backward pass."""
    sizes = sizes_of(inputs.x, inputs.dt_proj_weight, inputs.A_log)
    return 4 * (sizes.projected_count + sizes.checkpoint_count)


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int], *, save: bool) -> tuple[Tensor, Tensor]:
    """Forward of the slice scan: y (B, H, W, Dm) in the dtype of x, and ``saved`` (empty unless ``save``).

    x is float32, bfloat16 or float16; the parameters are float32.
    """
    _, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    x = inputs.x.contiguous()
    s = sizes_of(x, dt_proj_weight, A_log)
    w = padded_weights(x_proj_weight, dt_proj_weight, A_log, s)
    count = s.projected_count
    saved = x.new_empty(saved_size(inputs) if save else 0, dtype=torch.uint8)
    projected = saved[: 4 * count].view(torch.float32) if save else x.new_empty(count, dtype=torch.float32)
    projected = projected.view(-1, 4 * s.width)
    if x.dtype == torch.float32:
        torch.mm(x.view(-1, s.channels), w.x_proj.mT, out=projected)
    else:
        projected.copy_(x.view(-1, s.channels) @ w.x_proj.to(x.dtype).mT)
    parts = x.new_empty(s.batch, 4, s.length, s.channels, dtype=torch.float32)
    segments = segments_of(s, x.device)
    carried = _room_for_carried(x, s, segments)
    for find_carried in (True, False) if segments.num > 1 else (False,):
        _launch(
            "forward",
            (s.programs, segments.num),
            x,
            projected,
            w.dt_proj,
            dt_proj_bias.contiguous(),
            w.a,
            geometry(x.shape[1], x.shape[2], slice_size, x.device),
            parts,
            saved[4 * count :].view(torch.float32),
            carried,
            s.length,
            segments.size,
            DM=s.channels,
            RP=s.padded_rank,
            NP=s.padded_states,
            BD=TILE,
            CHUNK=CHUNK,
            AHEAD=ahead(s.padded_rank),
            SAVE=save and not find_carried,
            FIND_CARRIED=find_carried,
            num_warps=1,
        )
    return _merge(parts, x, D, x.dtype), saved


def _room_for_carried(x: Tensor, sizes: Sizes, segments: Segments) -> Tensor:
    """Uninitialised, (programs, segments, Np + 1, TILE) float32; empty where nothing is cut."""
    programs = sizes.programs if segments.num > 1 else 0
    return x.new_empty(programs, segments.num, sizes.padded_states + 1, TILE, dtype=torch.float32)


def slice_scan_backward(grad_y: Tensor, inputs: SliceInputs, saved: Tensor, slice_size: tuple[int, int]) -> SliceInputs:
    """Gradients of :func:`slice_scan`."""
    _, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    x, grad_y = inputs.x.contiguous(), grad_y.contiguous()
    s = sizes_of(x, dt_proj_weight, A_log)
    w = padded_weights(x_proj_weight, dt_proj_weight, A_log, s)
    count = s.projected_count
    projected = saved[: 4 * count].view(torch.float32).view(-1, 4, s.width)
    dt = projected[..., : s.rank].transpose(0, 1)  # (4, B·L, R)

    def scratch(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    # The step sizes before softplus; the kernel writes their gradient over them.
    raw = scratch(s.batch * s.length, 4, s.channels)
    torch.bmm(dt, dt_proj_weight.mT, out=raw.transpose(0, 1))
    raw += dt_proj_bias
    parts = scratch(s.batch, 4, s.length, s.channels)
    grad_bc = scratch(s.tiles, s.batch * s.length, 4, 2 * s.padded_states)
    segments = segments_of(s, x.device)
    grad_a = scratch(s.batch, 4, segments.num, s.padded_states, s.tiles * TILE)
    carried = _room_for_carried(x, s, segments)
    shapes = {"DM": s.channels, "RP": s.padded_rank, "NP": s.padded_states, "BD": TILE}
    grid = (s.programs, segments.num)
    numbers = geometry(x.shape[1], x.shape[2], slice_size, x.device)
    if segments.num > 1:
        _launch(
            "adjoint",
            grid,
            grad_y,
            raw,
            projected,
            w.a,
            numbers,
            carried,
            s.length,
            segments.size,
            **shapes,
            AHEAD=_ADJOINT_AHEAD,
            num_warps=1,
        )
    _launch(
        "backward",
        grid,
        x,
        grad_y,
        raw,
        projected,
        w.a,
        numbers,
        saved[4 * count :].view(torch.float32),
        carried,
        scratch(*grid, CHUNK // _GROUP, s.padded_states, TILE),
        parts,
        grad_bc,
        grad_a,
        s.length,
        segments.size,
        **shapes,
        CHUNK=CHUNK,
        GROUP=_GROUP,
        num_warps=1,
    )
    grad_dt = torch.bmm(raw.transpose(0, 1), dt_proj_weight)  # (4, B·L, R)
    grad_B, grad_C = grad_bc.sum(0).chunk(2, dim=2)
    grad_projected = torch.cat([grad_dt.transpose(0, 1), grad_B[..., : s.states], grad_C[..., : s.states]], dim=2)
    # float16 has not the range for the gradient of a sum over all channels; bfloat16 has.
    dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    rows = grad_projected.flatten(1).to(dtype)  # (B·L, 4·J)
    grad_x = _merge(parts, grad_y, D, torch.float32).view(-1, s.channels)
    grad_x += rows @ x_proj_weight.flatten(0, 1).to(dtype)
    A = (w.a / LOG2_E)[:, : s.states].mT  # A = -exp(A_log), so dA/dA_log = A
    grad_D = (grad_y.float() * x).sum((0, 1, 2))  # the same for every direction
    return SliceInputs(
        x=grad_x.to(x.dtype).view(x.shape),
        x_proj_weight=(rows.mT @ x.view(-1, s.channels).to(dtype)).float().view_as(x_proj_weight),
        dt_proj_weight=torch.bmm(raw.permute(1, 2, 0), dt),
        dt_proj_bias=raw.sum(0),
        A_log=(grad_a.sum((0, 2))[:, : s.states, : s.channels].mT * A).flatten(0, 1),
        D=grad_D.repeat(4),
    )


def _merge(parts: Tensor, base: Tensor, D: Tensor, dtype: torch.dtype) -> Tensor:
    """The four directions (B, 4, L, Dm) in order, plus base (B, H, W, Dm) times the folded skip Σ_k D_k."""
    out = torch.empty_like(base, dtype=dtype)
    batch, _, length, channels = parts.shape
    size = length * channels
    grid = (-(-size // _MERGE_BLOCK), batch)
    scale = D.view(4, -1).sum(0)
    _launch("merge", grid, parts, base, scale, out, size, DM=channels, BLOCK=_MERGE_BLOCK)
    return out
