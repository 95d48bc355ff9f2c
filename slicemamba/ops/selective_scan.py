"""The two public scans: checks, the choice of a backend, and the registration that autograd, compile and export use.

Shapes: u, delta (B, K·Dm, L); A (K·Dm, N); B, C (B, K, N, L); x, y (B, H, W, Dm). K = 4 directions in slice_scan, in this
order: horizontal slices, the same reversed, vertical slices, the same reversed (the order of published checkpoints).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slicemamba.ops import chunked, cpu, reference
from slicemamba.ops.backends import choose_backend


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
        RuntimeError: SLICEMAMBA_SCAN names a backend that cannot run here.
    """
    parameters = (x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D)
    _check_slice_scan(x, *parameters, slice_size)
    rows, columns = slice_size
    if choose_backend(x.device) == "reference":
        dtype = _compute_dtype(x)
        return reference.slice_scan(x.to(dtype), *(p.to(dtype) for p in parameters), (rows, columns)).to(x.dtype)
    save = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters))
    y, _ = _slice_scan(x, *parameters, rows, columns, save)
    return y
