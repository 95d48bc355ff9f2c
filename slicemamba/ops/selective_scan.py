"""The two public scans: checks, the choice of a backend, and the registration that autograd, compile and export use.

Shapes: u, delta (B, K·Dm, L); A (K·Dm, N); B, C (B, K, N, L); x, y (B, H, W, Dm). In slice_scan K = 4 directions, in
this order: horizontal slices, the same reversed, vertical slices, the same reversed (as in published checkpoints).
"""

from __future__ import annotations

import torch
from torch import Tensor

from slicemamba.ops import (
    mamba,
    portable,
    reference,
    registration,  # noqa: F401  (registers torch.ops.slicemamba)
)
from slicemamba.ops.backends import choose_backend, constant_when_compiled
from slicemamba.ops.inputs import SliceInputs
from slicemamba.ops.limits import refuse_unsupported


def slice_scan(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    slice_size: tuple[int, int],
) -> Tensor:
    """Scan a map along sliced orders in four directions and sum them (SliceMamba, arXiv 2407.08481, section III-B).

    Direction k is 0 horizontal slices, 1 the same reversed, 2 vertical slices, 3 the same reversed; each has its own
    projections, A = −exp(A_log) and skip D. Any H and W will do; a last slice may be smaller. The state, the step sizes
    and the exponentials are float32 (float64 for float64 input), whatever the dtype of x.

    Args:
        x: (B, H, W, Dm), channels last, after the convolution and SiLU of the mixer.
        x_proj_weight: (4, R + 2N, Dm), rows in the order dt, B, C.
        dt_proj_weight: (4, Dm, R).
        dt_proj_bias: (4, Dm).
        A_log: (4·Dm, N).
        D: (4·Dm,).
        slice_size: (m, n): horizontal slices are m rows high, vertical ones n columns wide.

    Returns:
        The sum of the four directions, (B, H, W, Dm), in the dtype of x.

    Raises:
        ValueError: a shape that does not fit the others.
        InputError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        _make_static(x.shape[1], x.shape[2])
    given = SliceInputs(x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    refuse_unsupported(**given._asdict())
    _check_slice_scan(given, slice_size)
    dtype = compute_dtype(x)
    backend = choose_backend(x.device)
    inputs = SliceInputs(*(tensor.to(dtype) for tensor in given))
    if backend == "triton":  # reads half maps
        inputs = inputs._replace(x=x)
    if backend == "reference" or (backend == "mamba_ssm" and _mamba_takes(dtype)):
        run = reference.slice_scan if backend == "reference" else mamba.slice_scan
        with torch.autocast(x.device.type, enabled=False):  # its matrix products are to keep float32 too
            y = run(inputs, slice_size)
    elif torch.onnx.is_in_onnx_export():
        y = portable.slice_scan(inputs, slice_size)
    else:
        y, _ = torch.ops.slicemamba.slice_scan(*inputs, *slice_size, _needs_gradient(*inputs))
    return y.to(x.dtype)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Selective scan of ready-made sequences (S6; Gu and Dao, arXiv 2312.00752, algorithm 2).

    Args:
        u: (B, K·Dm, L).
        delta: (B, K·Dm, L), step sizes before ``delta_bias`` and ``delta_softplus``.
        A: (K·Dm, N), negative.
        B: (B, K, N, L), or (B, N, L) for K = 1.
        C: as B.
        D: skip, (K·Dm,).
        delta_bias: (K·Dm,).
        delta_softplus: apply softplus to the step sizes.

    Returns:
        y (B, K·Dm, L) in the dtype of u; the state is float32 (float64 for float64 input).

    Raises:
        ValueError: a shape that does not fit the others.
        InputError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    refuse_unsupported(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias)
    _check_selective_scan(u, delta, A, B, C, D, delta_bias)
    dtype = compute_dtype(u)
    wide, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    D, delta_bias = (None if tensor is None else tensor.to(dtype) for tensor in (D, delta_bias))
    backend = choose_backend(u.device)
    if backend == "reference" or (backend == "mamba_ssm" and _mamba_takes(dtype)):
        run = reference.selective_scan if backend == "reference" else mamba.selective_scan_fn()
        return run(wide, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=delta_softplus).to(u.dtype)
    B, C = (tensor if tensor.dim() == 4 else tensor[:, None] for tensor in (B, C))
    D, delta_bias = (A.new_empty(0) if tensor is None else tensor for tensor in (D, delta_bias))
    tensors = (wide, delta, A, B, C, D, delta_bias)
    y: Tensor = torch.ops.slicemamba.scan(*tensors, delta_softplus, _needs_gradient(*tensors))[0]
    return y.to(u.dtype)


@constant_when_compiled
def _make_static(*sizes: int) -> int:
    """Has ``torch.compile`` compile anew for each size of the map, as its constants are part of what it guards.

    For sizes left free, Inductor (torch 2.13) fails in layouts of the convolutions around the scan on a CPU.
    """
    return len(sizes)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Of state, step sizes and exponentials, for an input."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _mamba_takes(dtype: torch.dtype) -> bool:
    """Whether mamba_ssm can run: not in float64, nor in what is compiled or exported, which needs an operator."""
    return dtype == torch.float32 and not torch.compiler.is_compiling()


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} expects shape {shape} = {meaning}, got {tuple(tensor.shape)}; pass that layout.")


def _check_slice_scan(inputs: SliceInputs, slice_size: tuple[int, int]) -> None:
    x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = inputs
    if x.dim() != 4 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(
            f"slice_scan expects x as a non-empty floating (B, H, W, Dm), got {tuple(x.shape)} of {x.dtype}; "
            "put the channels last."
        )
    if len(slice_size) != 2 or min(slice_size) < 1:
        raise ValueError(f"slice_size expects two numbers of at least 1, got {slice_size}; pass for example (2, 4).")
    if A_log.dim() != 2 or dt_proj_weight.dim() != 3:
        raise ValueError(
            f"slice_scan expects A_log (4·Dm, N) and dt_proj_weight (4, Dm, R), got {tuple(A_log.shape)} and "
            f"{tuple(dt_proj_weight.shape)}; stack the four directions."
        )
    channels, states, rank = x.shape[3], A_log.shape[1], dt_proj_weight.shape[2]
    _expect("x_proj_weight", x_proj_weight, (4, rank + 2 * states, channels), "(4, R + 2N, Dm)")
    _expect("dt_proj_weight", dt_proj_weight, (4, channels, rank), "(4, Dm, R)")
    _expect("dt_proj_bias", dt_proj_bias, (4, channels), "(4, Dm)")
    _expect("A_log", A_log, (4 * channels, states), "(4·Dm, N)")
    _expect("D", D, (4 * channels,), "(4·Dm,)")


def _check_selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None
) -> None:
    if u.dim() != 3 or A.dim() != 2 or B.dim() not in (3, 4) or not u.is_floating_point() or u.numel() == 0:
        raise ValueError(
            "selective_scan expects a non-empty floating u (B, K·Dm, L), A (K·Dm, N) and B (B, K, N, L), got "
            f"{tuple(u.shape)} of {u.dtype}, {tuple(A.shape)} and {tuple(B.shape)}; pass them in that layout."
        )
    batch, channels, length = u.shape
    groups = B.shape[1] if B.dim() == 4 else 1
    if groups < 1 or channels % groups:
        raise ValueError(f"selective_scan expects K·Dm channels, got {channels} with K = {groups}; K must divide it.")
    middle = (groups,) if B.dim() == 4 else ()
    _expect("delta", delta, (batch, channels, length), "(B, K·Dm, L)")
    _expect("A", A, (channels, A.shape[1]), "(K·Dm, N)")
    for name, tensor in (("B", B), ("C", C)):
        _expect(name, tensor, (batch, *middle, A.shape[1], length), "(B, K, N, L) or (B, N, L)")
    for name, vector in (("D", D), ("delta_bias", delta_bias)):
        if vector is not None:
            _expect(name, vector, (channels,), "(K·Dm,)")
