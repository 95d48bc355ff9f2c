"""What Python and the native library share: mirrors of the structs in _scan.h, field by field."""

from __future__ import annotations

import ctypes


class Rows(ctypes.Structure):
    """Where the rows of a tensor lie: strides in floats for batch, direction, and place (or channel, or state)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("step", ctypes.c_int64),
    )


class Problem(ctypes.Structure):
    """Mirror of ``struct Problem`` in _scan.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batches", "groups", "length", "channels", "states", "rank")),
        *((name, ctypes.c_int64) for name in ("threads", "isa", "a_is_log")),
        ("order", ctypes.c_void_p),
        *((name, Rows) for name in ("x", "y", "projected", "delta", "b", "c")),
        ("softplus", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("x_weight", "dt_weight", "dt_bias", "a", "skip", "checkpoints")),
        ("parts", ctypes.c_int64),
        *((name, Rows) for name in ("grad_y", "grad_x", "grad_delta", "grad_projected", "grad_b", "grad_c")),
        ("grad_projected_size", ctypes.c_int64),
        ("grad_x_weight", ctypes.c_void_p),
        ("splits", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("grad_dt_weight", "grad_dt_bias", "grad_a", "grad_skip")),
    )


class GatedNorm(ctypes.Structure):
    """Mirror of ``struct GatedNorm`` in _scan.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "width", "z_row", "threads", "isa")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("y", "z", "weight", "bias", "out")),
        ("parts", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_y", "grad_z", "grad_weight", "grad_bias")),
    )


class Map(ctypes.Structure):
    """Where the channels of each place of a map lie: strides in floats."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("image", "row", "place")))


class DepthwiseSilu(ctypes.Structure):
    """Mirror of ``struct DepthwiseSilu`` in _scan.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batches", "height", "width", "channels", "kernel", "threads", "isa")),
        ("x", Map),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "out")),
        ("bands", ctypes.c_int64),
        ("grad_out", Map),
        *((name, ctypes.c_void_p) for name in ("grad_x", "grad_weight")),
    )


class InstanceNorm(ctypes.Structure):
    """Mirror of ``struct InstanceNorm`` in _scan.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batches", "places", "channels", "threads", "isa", "chunk")),
        *((name, ctypes.c_double) for name in ("eps", "slope")),
        ("x", Map),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "out", "moments", "sums")),
        ("grad_out", Map),
        *((name, ctypes.c_void_p) for name in ("grad_x", "grad_affine")),
    )
