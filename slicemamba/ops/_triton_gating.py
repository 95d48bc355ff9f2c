"""Triton kernels of LayerNorm(y) · SiLU(z) and its gradients: a program holds ROWS whole rows at a time, in float32.

y, out, grad_out and the gradients (rows, DM) are contiguous; rows of z lie ``z_row`` apart. COLUMNS is DM padded to a
power of two.
"""

# Triton's language only looks like Python: it has no types.
# mypy: ignore-errors

import triton
import triton.language as tl

from slicemamba.ops._triton_kernels import sigmoid


@triton.jit
def _load_rows(y, z, weight, bias, row, num_rows, z_row, eps, DM: tl.constexpr, COLUMNS: tl.constexpr):
    """Places in y, their mask, y normed, one over its deviations, weight, normed · weight + bias, z, sigmoid(z)."""
    c = tl.arange(0, COLUMNS)
    real = c < DM
    mask = (row < num_rows)[:, None] & real[None, :]
    place = row.to(tl.int64)[:, None] * DM + c[None, :]
    values = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    off = tl.where(mask, values - (tl.sum(values, axis=1) / DM)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(off * off, axis=1) / DM + eps)
    normed = off * scale[:, None]
    w = tl.load(weight + c, mask=real, other=0.0)[None, :]
    affine = normed * w + tl.load(bias + c, mask=real, other=0.0)[None, :]
    gate = tl.load(z + row.to(tl.int64)[:, None] * z_row + c[None, :], mask=mask, other=0.0).to(tl.float32)
    return place, mask, normed, scale, w, affine, gate, sigmoid(gate)


@triton.jit
def forward_kernel(
    y, z, weight, bias, out, num_rows, z_row, eps, DM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out = LayerNorm(y) · SiLU(z). Grid: (⌈rows / ROWS⌉,)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place, mask, _, _, _, affine, gate, s = _load_rows(y, z, weight, bias, row, num_rows, z_row, eps, DM, COLUMNS)
    tl.store(out + place, (affine * gate * s).to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    grad_out,
    y,
    z,
    weight,
    bias,
    grad_y,
    grad_z,
    grad_weight,
    grad_bias,
    num_rows,
    z_row,
    eps,
    DM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of ``forward_kernel``; those of weight and bias (programs, DM) are the sums over a program's rows.

    Grid: (programs,); each takes every so many tiles of rows.
    """
    sum_weight = tl.zeros([COLUMNS], tl.float32)
    sum_bias = tl.zeros([COLUMNS], tl.float32)
    for first in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        place, mask, normed, scale, w, affine, gate, s = _load_rows(
            y, z, weight, bias, row, num_rows, z_row, eps, DM, COLUMNS
        )
        above = tl.load(grad_out + place, mask=mask, other=0.0).to(tl.float32)
        to_gate = above * affine * s * (1.0 + gate * (1.0 - s))
        tl.store(grad_z + place, to_gate.to(grad_z.dtype.element_ty), mask=mask)
        to_affine = above * gate * s
        sum_weight += tl.sum(to_affine * normed, axis=0)
        sum_bias += tl.sum(to_affine, axis=0)
        to_normed = to_affine * w
        mean = tl.sum(to_normed, axis=1) / DM
        along = tl.sum(to_normed * normed, axis=1) / DM
        to_y = (to_normed - mean[:, None] - normed * along[:, None]) * scale[:, None]
        tl.store(grad_y + place, to_y.to(grad_y.dtype.element_ty), mask=mask)
    c = tl.arange(0, COLUMNS)
    at = tl.program_id(0).to(tl.int64) * DM + c
    tl.store(grad_weight + at, sum_weight, mask=c < DM)
    tl.store(grad_bias + at, sum_bias, mask=c < DM)
