"""Triton kernels of the slice scan: the backward sweep. Letters, shapes and segments as in _triton_kernels.py."""

# Triton's language only looks like Python: it has no types, and no unpacking inside a tuple.
# mypy: ignore-errors
# ruff: noqa: RUF005

import triton
import triton.language as tl

from slicemamba.ops._triton_kernels import (
    axis_numbers,
    fold_carried,
    inside_sequence,
    sequence_row,
    sigmoid,
    softplus,
    store_carried,
)

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _replay_loads(x, raw, projected, t, length, axis, d, mask, DM: tl.constexpr, NP: tl.constexpr, JP: tl.constexpr):
    """Row, x, raw step size and B of place t. Beyond the end the raw step size is -inf: the step size becomes 0."""
    row = sequence_row(tl.minimum(t, length - 1), length, axis)
    x_t = tl.load(x + row * DM + d, mask=mask, other=0.0).to(tl.float32)
    inside = mask & inside_sequence(t, length, d.shape[0])
    raw_t = tl.load(raw + row * (4 * DM) + d, mask=inside, other=float("-inf"))
    B = tl.load(projected + row * (4 * JP) + tl.arange(0, NP))
    return row, x_t, raw_t, B


@triton.jit
def _adjoint_loads(
    grad_y, raw, projected, t, first, length, axis, d, mask, DM: tl.constexpr, NP: tl.constexpr, JP: tl.constexpr
):
    """grad_y, step size and C of place t; before the segment's first place they leave the adjoint as it is."""
    row = sequence_row(tl.maximum(t, first), length, axis)
    inside = mask & (tl.full([d.shape[0]], t, tl.int32) >= first)
    grad = tl.load(grad_y + row * DM + d, mask=inside, other=0.0).to(tl.float32)
    raw_t = tl.load(raw + row * (4 * DM) + d, mask=inside, other=float("-inf"))
    return grad, raw_t, tl.load(projected + row * (4 * JP) + NP + tl.arange(0, NP))


@triton.jit
def adjoint_kernel(
    grad_y,
    raw,
    projected,
    a,
    geometry,
    carried,
    length,
    segment_size,
    DM: tl.constexpr,
    RP: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """``carried`` of the adjoint, which goes right to left, for each segment; the first has nobody to carry it to.

    Grid: (B·4·tiles, segments).
    """
    TILES: tl.constexpr = (DM + BD - 1) // BD
    JP: tl.constexpr = RP + 2 * NP
    k = tl.program_id(0) // TILES % 4
    b = (tl.program_id(0) // (TILES * 4)).to(tl.int64)
    d = tl.program_id(0) % TILES * BD + tl.arange(0, BD)
    mask = d < DM
    n = tl.arange(0, NP)
    a_tile = tl.load(a + (k * NP + n[:, None]) * DM + d[None, :], mask=mask[None, :], other=0.0)
    axis = axis_numbers(geometry, k)
    grad_y += b * length * DM
    raw += (b * length * 4 + k) * DM
    projected += (b * length * 4 + k) * JP + RP
    segment = tl.program_id(1)
    first = segment * segment_size
    last = tl.where(segment == 0, first, tl.minimum(first + segment_size, length))

    adjoint = tl.zeros([NP, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    ahead = ()
    for i in tl.static_range(AHEAD):
        t = last - 1 - i
        ahead = ahead + (_adjoint_loads(grad_y, raw, projected, t, first, length, axis, d, mask, DM, NP, JP),)
    for done in range(0, last - first, AHEAD):
        later = ()
        for i in tl.static_range(AHEAD):
            grad, raw_t, C = ahead[i]
            delta = softplus(raw_t)
            total += delta
            adjoint = tl.exp2(delta[None, :] * a_tile) * (C[:, None] * grad[None, :] + adjoint)
            t = last - 1 - done - AHEAD - i
            later = later + (_adjoint_loads(grad_y, raw, projected, t, first, length, axis, d, mask, DM, NP, JP),)
        ahead = later
    store_carried(carried, segment, adjoint, total, NP, BD)


@triton.jit
def backward_kernel(
    x,
    grad_y,
    raw,
    projected,
    a,
    geometry,
    checkpoints,
    carried,
    scratch,
    parts,
    grad_bc,
    grad_a,
    length,
    segment_size,
    DM: tl.constexpr,
    RP: tl.constexpr,
    NP: tl.constexpr,
    BD: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The adjoint, right to left, over states computed anew from the checkpoints. Grid: (B·4·tiles, segments).

    A chunk is walked twice: first to write the state before each group of GROUP places to ``scratch`` (programs,
    segments, CHUNK / GROUP, NP, BD), then group by group from the right, a group's states in registers.

    Writes parts (B, 4, L, DM), the part of grad_x that goes through Δ·x; grad_bc (tiles, B, L, 4, 2·NP), grad_a (B, 4,
    segments, NP, tiles·BD), the gradient of A; and over raw (B, L, 4, DM), the step sizes before softplus, their
    gradient.
    """
    TILES: tl.constexpr = (DM + BD - 1) // BD
    JP: tl.constexpr = RP + 2 * NP
    GROUPS: tl.constexpr = CHUNK // GROUP
    program = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(0) % TILES
    k = tl.program_id(0) // TILES % 4
    b = program // (TILES * 4)
    d_in_tile = tl.arange(0, BD)
    d = tile * BD + d_in_tile
    mask = d < DM
    n = tl.arange(0, NP)
    a_tile = tl.load(a + (k * NP + n[:, None]) * DM + d[None, :], mask=mask[None, :], other=0.0)
    axis = axis_numbers(geometry, k)
    segment, segments = tl.program_id(1), tl.num_programs(1)
    first = segment * segment_size
    chunks = tl.cdiv(tl.minimum(segment_size, length - first), CHUNK)
    x += b * length * DM
    grad_y += b * length * DM
    raw += (b * length * 4 + k) * DM
    projected += (b * length * 4 + k) * JP + RP
    parts += (b * 4 + k) * length * DM
    checkpoints += ((b * 4 + k) * tl.cdiv(length, CHUNK) + first // CHUNK + chunks - 1) * (NP * TILES * BD)
    checkpoints += n[:, None] * (TILES * BD) + d[None, :]
    scratch += (program * segments + segment) * (GROUPS * NP * BD) + n[:, None] * BD + d_in_tile[None, :]
    grad_bc += ((tile * tl.num_programs(0).to(tl.int64) // (TILES * 4) + b) * length * 4 + k) * (2 * NP)

    adjoint = tl.zeros([NP, BD], tl.float32)  # a_{t+1}·(gradient of h_{t+1})
    for reverse_segment in range(segments - 1 - segment):
        adjoint = fold_carried(carried, segments - 1 - reverse_segment, adjoint, a_tile, NP, BD)
    grad_a_tile = tl.zeros([NP, BD], tl.float32)
    for reverse_chunk in range(chunks):
        start = first + (chunks - 1 - reverse_chunk) * CHUNK
        groups = tl.minimum(GROUPS, tl.cdiv(length - start, GROUP))
        h = tl.load(checkpoints)
        checkpoints -= NP * TILES * BD
        ahead = ()
        for i in tl.static_range(GROUP):
            ahead = ahead + (_replay_loads(x, raw, projected, start + i, length, axis, d, mask, DM, NP, JP),)
        tl.store(scratch, h)
        for group in range(1, groups):
            later = ()
            for i in tl.static_range(GROUP):
                row, x_t, raw_t, B = ahead[i]
                delta = softplus(raw_t)
                h = tl.exp2(delta[None, :] * a_tile) * h + (delta * x_t)[None, :] * B[:, None]
                t = start + group * GROUP + i
                later = later + (_replay_loads(x, raw, projected, t, length, axis, d, mask, DM, NP, JP),)
            ahead = later
            tl.store(scratch + group * (NP * BD), h)
        tl.debug_barrier()  # a lane may read from scratch what another has written
        for reverse_group in range(groups):
            group = groups - 1 - reverse_group
            h = tl.load(scratch + group * (NP * BD))
            steps = ()
            for i in tl.static_range(GROUP):
                t = start + group * GROUP + i
                row, x_t, raw_t, B = _replay_loads(x, raw, projected, t, length, axis, d, mask, DM, NP, JP)
                C = tl.load(projected + row * (4 * JP) + NP + n)
                inside = mask & inside_sequence(t, length, BD)
                grad = tl.load(grad_y + row * DM + d, mask=inside, other=0.0).to(tl.float32)
                steps = steps + ((row, x_t, raw_t, B, C, grad),)
            states = ()
            for i in tl.static_range(GROUP):
                row, x_t, raw_t, B, C, grad = steps[i]
                delta = softplus(raw_t)
                decayed = tl.exp2(delta[None, :] * a_tile) * h
                h = decayed + (delta * x_t)[None, :] * B[:, None]
                states = states + ((delta, decayed, h),)
            for j in tl.static_range(GROUP):
                row, x_t, raw_t, B, C, grad = steps[GROUP - 1 - j]
                delta, decayed, h = states[GROUP - 1 - j]
                t = start + group * GROUP + GROUP - 1 - j
                inside, bc_inside = mask & inside_sequence(t, length, BD), inside_sequence(t, length, NP)
                grad_h = C[:, None] * grad[None, :] + adjoint
                through_decay = grad_h * decayed
                grad_input = tl.sum(grad_h * B[:, None], 0)  # with respect to Δ_t·x_t
                grad_delta = grad_input * x_t + tl.sum(through_decay * a_tile, 0) * _LN_2
                grad_a_tile += through_decay * delta[None, :]
                adjoint = tl.exp2(delta[None, :] * a_tile) * grad_h
                to_bc = grad_bc + row * (8 * NP) + n
                tl.store(to_bc, tl.sum(grad_h * (delta * x_t)[None, :], 1), mask=bc_inside)
                tl.store(to_bc + NP, tl.sum(h * grad[None, :], 1), mask=bc_inside)
                tl.store(parts + row * DM + d, grad_input * delta, mask=inside)
                tl.store(raw + row * (4 * DM) + d, grad_delta * sigmoid(raw_t), mask=inside)
        tl.debug_barrier()  # the next chunk writes over what was read here
    at = grad_a + ((b * 4 + k) * segments + segment) * (NP * TILES * BD)
    tl.store(at + n[:, None] * (TILES * BD) + d[None, :], grad_a_tile)
