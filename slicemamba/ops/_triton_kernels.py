"""Triton kernels of the slice scan: the forward sweep, the sum of the four directions, and what all sweeps share.

One program is one warp and sweeps one sequence, that of an image, a direction and a tile of BD channels; its state
[NP, BD] stays in registers. Where these are too few to keep a GPU busy, a sequence is cut into segments, swept at the
same time: h_after = exp2(a·ΣΔ)·h_before + (what a sweep from 0 ends with), so a first launch finds these two for each
segment, and in a second each program folds those before its own. The adjoint crosses segments in the same way.

Letters: L = H·W places, DM channels, NP states and RP ranks, both padded to powers of two with zero weights, so that
they need no mask; JP = RP + 2·NP. Tensors are contiguous and, but for x, y and their gradients, float32:

    x, grad_y (B, L, DM) · projected (B, L, 4, JP), each row dt | B | C · a (4, NP, DM), which is A·log2(e)
    dt_weight (4, RP, DM) · dt_bias (4, DM) · parts (B, 4, L, DM) · checkpoints (B, 4, chunks, NP, tiles·BD)
    carried (programs, segments, NP + 1, BD), the NP states that a segment ends with, and its ΣΔ

Rows of maps lie in row-major order; ``sequence_row`` gives the row of a place in the sequence in closed form.
"""

# Triton's language only looks like Python: it has no types, and no unpacking inside a tuple.
# mypy: ignore-errors
# ruff: noqa: RUF005

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_SHIFT = tl.constexpr(40)  # of the fixed-point reciprocals in ``geometry``


@triton.jit
def axis_numbers(geometry, k):
    """What ``sequence_row`` needs of direction k: the nine numbers of its axis (``geometry``), and if reversed."""
    g = geometry + (k // 2) * 9
    return (
        tl.load(g).to(tl.int32),
        tl.load(g + 1).to(tl.int32),
        tl.load(g + 2).to(tl.int32),
        tl.load(g + 3).to(tl.int32),
        tl.load(g + 4).to(tl.int32),
        tl.load(g + 5).to(tl.int32),
        tl.load(g + 6),
        tl.load(g + 7),
        tl.load(g + 8),
        k % 2,
    )


@triton.jit
def sequence_row(t, length, axis):
    """Row-major position of place t, int64: the same as ``slicing.slice_order``, partial last slices included.

    Divisions by the places of a slice and by its thickness are products with reciprocals, exact below 2^20 places.
    """
    along_size, thickness, last_thickness, before_last, across_stride, along_stride = axis[:6]
    of_slice, of_thickness, of_last = axis[6:9]
    t = tl.where(axis[9] == 1, length - 1 - t, t)
    in_last = t >= before_last
    first = ((t * of_slice) >> _SHIFT).to(tl.int32) * thickness
    place = t - first * along_size
    along = ((place * tl.where(in_last, of_last, of_thickness)) >> _SHIFT).to(tl.int32)
    across = first + place - along * tl.where(in_last, last_thickness, thickness)
    return (across * across_stride + along * along_stride).to(tl.int64)


@triton.jit
def inside_sequence(t, length, SIZE: tl.constexpr):
    """Mask (SIZE,): place t is in the sequence. A vector, for the interpreter cannot combine a scalar with a mask."""
    return tl.full([SIZE], t, tl.int32) < length


@triton.jit
def _exp_of_minus_abs(v):
    return tl.exp2(tl.abs(v) * -_LOG2_E)


@triton.jit
def softplus(v):
    """max(v, 0) + log1p(e), e = exp(-|v|): log1p(e) = 2·atanh(s), s = e/(2 + e) <= 1/3, which keeps small e exact."""
    e = _exp_of_minus_abs(v)
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 / 15 + q * (1.0 / 17)
    series = 1.0 / 11 + q * (1.0 / 13 + q * series)
    series = 1.0 / 7 + q * (1.0 / 9 + q * series)
    series = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * series))
    return tl.maximum(v, 0.0) + 2.0 * s * series


@triton.jit
def sigmoid(v):
    e = _exp_of_minus_abs(v)
    return tl.where(v >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def store_carried(carried, segment, state, total, NP: tl.constexpr, BD: tl.constexpr):
    """Write what a segment of this program carries on: state (NP, BD) and total (BD,), its ΣΔ."""
    at = carried + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + segment) * ((NP + 1) * BD)
    n, d = tl.arange(0, NP), tl.arange(0, BD)
    tl.store(at + n[:, None] * BD + d[None, :], state)
    tl.store(at + NP * BD + d, total)


@triton.jit
def fold_carried(carried, segment, state, a_tile, NP: tl.constexpr, BD: tl.constexpr):
    """The state (NP, BD) after a segment, where ``state`` is the one before it."""
    at = carried + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + segment) * ((NP + 1) * BD)
    n, d = tl.arange(0, NP), tl.arange(0, BD)
    total = tl.load(at + NP * BD + d)
    return tl.exp2(total[None, :] * a_tile) * state + tl.load(at + n[:, None] * BD + d[None, :])


@triton.jit
def _forward_loads(x, projected, t, length, axis, d, mask, DM: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr):
    """Values of place t (the last place where t is beyond it), and the row they came from."""
    row = sequence_row(tl.minimum(t, length - 1), length, axis)
    p = projected + row * (4 * (RP + 2 * NP))
    n = tl.arange(0, NP)
    x_t = tl.load(x + row * DM + d, mask=mask, other=0.0).to(tl.float32)
    return row, x_t, tl.load(p + tl.arange(0, RP)), tl.load(p + RP + n), tl.load(p + RP + NP + n)


# Of these pointers the alignment is left unknown: loads of one value a lane then make the compiler give each lane one
# channel with all its states, so that sums over states stay in the lane and softplus is computed once.
@triton.jit(do_not_specialize_on_alignment=["a", "dt_weight", "checkpoints"])
def forward_kernel(
    x,
    projected,
    dt_weight,
    dt_bias,
    a,
    geometry,
    parts,
    checkpoints,
    carried,
    length,
    segment_size,
    DM: tl.constexpr,
    RP: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    CHUNK: tl.constexpr,
    AHEAD: tl.constexpr,
    SAVE: tl.constexpr,
    FIND_CARRIED: tl.constexpr,
):
    """parts[b, k, row] = C_t·h_t; with SAVE also the state before every CHUNK-th place. Grid: (B·4·tiles, segments).

    With FIND_CARRIED nothing of that, but ``carried`` of all segments except the last, whose programs do nothing.
    ``segment_size`` is a multiple of CHUNK.
    """
    TILES: tl.constexpr = (DM + BD - 1) // BD
    tile = tl.program_id(0) % TILES
    k = tl.program_id(0) // TILES % 4
    b = (tl.program_id(0) // (TILES * 4)).to(tl.int64)
    d = tile * BD + tl.arange(0, BD)
    mask = d < DM
    n, r = tl.arange(0, NP), tl.arange(0, RP)
    a_tile = tl.load(a + (k * NP + n[:, None]) * DM + d[None, :], mask=mask[None, :], other=0.0)
    weight = tl.load(dt_weight + (k * RP + r[:, None]) * DM + d[None, :], mask=mask[None, :], other=0.0)
    bias = tl.load(dt_bias + k * DM + d, mask=mask, other=0.0)
    axis = axis_numbers(geometry, k)
    x += b * length * DM
    projected += (b * length * 4 + k) * (RP + 2 * NP)
    parts += (b * 4 + k) * length * DM
    segment = tl.program_id(1)
    first = segment * segment_size
    last = tl.minimum(first + segment_size, length)
    checkpoints += ((b * 4 + k) * tl.cdiv(length, CHUNK) + first // CHUNK) * (NP * TILES * BD)
    checkpoints += n[:, None] * (TILES * BD) + d[None, :]

    h = tl.zeros([NP, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    if FIND_CARRIED:
        last = tl.where(last == length, first, last)
    else:
        for before in range(segment):
            h = fold_carried(carried, before, h, a_tile, NP, BD)
    ahead = ()
    for i in tl.static_range(AHEAD):
        ahead = ahead + (_forward_loads(x, projected, first + i, length, axis, d, mask, DM, RP, NP),)
    for start in range(first, last, AHEAD):
        if SAVE:  # noqa: SIM102  (known when compiling, unlike what is inside)
            if start % CHUNK == 0:
                tl.store(checkpoints, h)
                checkpoints += NP * TILES * BD
        later = ()
        for i in tl.static_range(AHEAD):
            row, x_t, dt, B, C = ahead[i]
            delta = softplus(tl.sum(dt[:, None] * weight, 0) + bias)
            h = tl.exp2(delta[None, :] * a_tile) * h + (delta * x_t)[None, :] * B[:, None]
            # What was just used is loaded anew for AHEAD places later, before a store that loads could not pass.
            later = later + (_forward_loads(x, projected, start + AHEAD + i, length, axis, d, mask, DM, RP, NP),)
            if FIND_CARRIED:
                total += delta
            else:
                y = tl.sum(h * C[:, None], 0)
                tl.store(parts + row * DM + d, y, mask=mask & inside_sequence(start + i, length, BD))
        ahead = later
    if FIND_CARRIED:
        store_carried(carried, segment, h, total, NP, BD)


@triton.jit
def merge_kernel(parts, base, scale, out, size, DM: tl.constexpr, BLOCK: tl.constexpr):
    """out (B, L, DM) = the four directions of parts (B, 4, L, DM), added in order, + base · scale (DM,).

    ``size`` is L·DM. Grid: (⌈size / BLOCK⌉, B).
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    b = tl.program_id(1).to(tl.int64)
    total = tl.load(base + b * size + place, mask=mask).to(tl.float32) * tl.load(scale + place % DM, mask=mask)
    for k in tl.static_range(4):
        total += tl.load(parts + (b * 4 + k) * size + place, mask=mask)
    tl.store(out + b * size + place, total.to(out.dtype.element_ty), mask=mask)
