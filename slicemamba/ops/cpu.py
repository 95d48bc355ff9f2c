"""The native CPU backend: loads the compiled scan (``_scan.cpp``) and calls it with raw pointers, in float32.

Shapes: L = H·W, J = R + 2N; projections (B, L, 4, J). ``saved`` holds the projections and then the state before every
64th step, (B, K, tile of channels, L/64, N, channel), channels padded to 16 and states to 8.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from slicemamba.errors import InputError
from slicemamba.ops._native_structs import DepthwiseSilu, GatedNorm, InstanceNorm, Problem, Rows
from slicemamba.ops.inputs import SequenceInputs, SliceInputs
from slicemamba.ops.slicing import scan_orders

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
ISA_VARIABLE = "SLICEMAMBA_ISA"
_BUILD = "with a C++ compiler installed, build it: pip install --no-build-isolation --no-deps -e . (or reinstall)"
_CHUNK, _STATE_BLOCK, _TILE = 64, 8, 16  # as in _scan.h
_SPLITS, _SPLIT_ROWS = 16, 256  # cuts, and least rows in one, of the sum that makes the gradient of x_proj_weight
_PARTS = 8  # tasks that a backward pass is cut into for a single image; fixed, so that sums never depend on threads


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """The loaded library, or a sentence that says why there is none."""
    found = sorted(Path(__file__).parent.glob("_scan*.so"))
    if not found:
        return f"the compiled library slicemamba/ops/_scan is missing; {_BUILD}"
    try:
        _share_openmp()
        library = ctypes.CDLL(str(found[-1]))
        size = library.slicemamba_problem_size
        size.restype = ctypes.c_int64
        if size() != sum(map(ctypes.sizeof, (Problem, GatedNorm, DepthwiseSilu, InstanceNorm))):
            return f"{found[-1].name} is from another version of this package; {_BUILD}"
        library.slicemamba_best_isa.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:
        return f"{found[-1].name} could not be loaded ({error}); {_BUILD}"
    return library


def _share_openmp() -> None:
    """Make the OpenMP runtime that torch has loaded visible: one pool of threads for both, not two that compete."""
    bundled = Path(torch.__file__).parent / "lib"
    candidates = [str(path) for pattern in ("libgomp*", "libiomp5*", "libomp*") for path in bundled.glob(pattern)]
    for name in (*candidates, "libgomp.so.1", "libomp.so"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def status() -> str:
    """ "usable", or why the native backend is not and how to mend that."""
    library = _library()
    return library if isinstance(library, str) else "usable"


@lru_cache(maxsize=1)
def warn_once_if_missing() -> None:
    """Tell once a process that the much slower torch backend stands in for the native one."""
    if status() != "usable":
        message = f"The native scan is not usable: {status()}. The torch backend is used instead, which is much slower."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


@lru_cache(maxsize=1)
def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this machine can run, the slowest first; () without the library."""
    library = _library()
    return () if isinstance(library, str) else INSTRUCTION_SETS[: library.slicemamba_best_isa() + 1]


def instruction_set() -> str:
    """The instruction set that the kernels use: the best one, or the one that SLICEMAMBA_ISA names.

    Raises:
        InputError: SLICEMAMBA_ISA names one that this machine or build does not have.
    """
    usable = instruction_sets()
    if not usable:
        raise RuntimeError(f"The native scan is not usable: {status()}.")
    name = os.environ.get(ISA_VARIABLE) or usable[-1]
    if name not in usable:
        raise InputError(f"{ISA_VARIABLE} expects {' or '.join(usable)} here, got {name!r}; set one or unset it.")
    return name


def checkpoint_size(batch: int, groups: int, length: int, channels: int, states: int) -> int:
    """Floats that the states before every chunk take."""
    padded = _up(channels, _TILE) * _up(states, _STATE_BLOCK)
    return batch * groups * padded * (_up(length, _CHUNK) // _CHUNK)


def saved_size(inputs: SliceInputs) -> int:
    """Floats that :func:`slice_scan` keeps for the backward pass."""
    batch, height, width, channels = inputs.x.shape
    length, projected = height * width, inputs.x_proj_weight.shape[1]
    return batch * length * 4 * projected + checkpoint_size(batch, 4, length, channels, inputs.states)


def _up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple


def _problem(batch: int, groups: int, length: int, channels: int, states: int, rank: int) -> Problem:
    problem = Problem(batch, groups, length, channels, states, rank, torch.get_num_threads())
    problem.isa = INSTRUCTION_SETS.index(instruction_set())
    # Tasks for eight threads even with one image, one for each image from eight on; never more than there are tiles.
    problem.parts = min(-(-_PARTS // batch), _up(channels, _TILE) // _TILE)
    return problem


def call(function: str, problem: ctypes.Structure) -> None:
    """Call an entry point of the library, which must be usable, with the description of what it has to do."""
    getattr(_library(), function)(ctypes.byref(problem))


class _SliceProblem:
    """The description of one slice scan; keeps the tensors alive that it points to."""

    def __init__(self, inputs: SliceInputs, slice_size: tuple[int, int]) -> None:
        self.inputs = SliceInputs(*(tensor.contiguous() for tensor in inputs))
        x, x_proj_weight, dt_proj_weight, dt_proj_bias, A_log, D = self.inputs
        batch, height, width, channels = x.shape
        length, row = height * width, 4 * x_proj_weight.shape[1]
        self.projected_size = batch * length * row
        self.order = scan_orders(height, width, slice_size)
        self.strides = (length * channels, 0, channels)
        self.projected_strides = (length * row, row // 4, row)
        self.problem = p = _problem(batch, 4, length, channels, A_log.shape[1], dt_proj_weight.shape[2])
        p.a_is_log = 1
        p.x_weight = x_proj_weight.data_ptr()
        p.order, p.a, p.skip = self.order.data_ptr(), A_log.data_ptr(), D.data_ptr()
        p.dt_weight, p.dt_bias = dt_proj_weight.data_ptr(), dt_proj_bias.data_ptr()
        p.x = Rows(x.data_ptr(), *self.strides)


def slice_scan(inputs: SliceInputs, slice_size: tuple[int, int], *, save: bool) -> tuple[Tensor, Tensor]:
    """Forward of the slice scan: y (B, H, W, Dm) and what the backward pass needs (empty unless ``save``)."""
    s = _SliceProblem(inputs, slice_size)
    p, size, x = s.problem, s.projected_size, s.inputs.x
    saved = x.new_empty(saved_size(inputs) if save else 0)
    projected = saved if save else x.new_empty(size)
    p.checkpoints = saved[size:].data_ptr() if save else None
    y = torch.empty_like(x)
    p.projected = Rows(projected.data_ptr(), *s.projected_strides)
    p.y = Rows(y.data_ptr(), *s.strides)
    call("slicemamba_scan_forward", p)
    return y, saved


def slice_scan_backward(grad_y: Tensor, inputs: SliceInputs, saved: Tensor, slice_size: tuple[int, int]) -> SliceInputs:
    """Gradients of :func:`slice_scan`."""
    s = _SliceProblem(inputs, slice_size)
    p, size, (x, x_proj_weight, *others) = s.problem, s.projected_size, s.inputs
    grad_y = grad_y.contiguous()
    grad_x = torch.empty_like(x)
    grad_projected = x.new_empty(p.parts, size)
    p.splits = max(1, min(_SPLITS, p.batches * p.length // _SPLIT_ROWS))
    grad_x_weight = x.new_empty(p.splits, *x_proj_weight.shape)
    grads = [x.new_empty(p.batches, *parameter.shape) for parameter in others]
    p.projected = Rows(saved.data_ptr(), *s.projected_strides)
    p.checkpoints = saved[size:].data_ptr()
    p.grad_y = Rows(grad_y.data_ptr(), *s.strides)
    p.grad_x = Rows(grad_x.data_ptr(), *s.strides)
    p.grad_projected = Rows(grad_projected.data_ptr(), *s.projected_strides)
    p.grad_projected_size, p.grad_x_weight = size, grad_x_weight.data_ptr()
    p.grad_dt_weight, p.grad_dt_bias, p.grad_a, p.grad_skip = (grad.data_ptr() for grad in grads)
    call("slicemamba_scan_backward", p)
    return SliceInputs(grad_x, *(grad[0].clone() for grad in (grad_x_weight, *grads)))


class _PlainProblem:
    """The description of one plain scan: every direction has channels of its own, and the step sizes are given."""

    def __init__(self, inputs: SequenceInputs, softplus: bool) -> None:
        readable = {name: _readable(getattr(inputs, name)) for name in ("u", "delta", "B", "C")}
        whole = {name: getattr(inputs, name).contiguous() for name in ("A", "D", "bias")}
        self.inputs = SequenceInputs(**readable, **whole)
        u, delta, A, B, C, D, bias = self.inputs
        self.groups, self.states = B.shape[1:3]
        batch, channels, length = u.shape
        self.problem = p = _problem(batch, self.groups, length, channels // self.groups, self.states, 0)
        p.softplus, p.a = softplus, A.data_ptr()
        p.skip, p.dt_bias = (tensor.data_ptr() if tensor.numel() else None for tensor in (D, bias))
        p.x, p.delta = self.channels(u), self.channels(delta)
        p.b, p.c = _rows_of_states(B), _rows_of_states(C)

    def channels(self, tensor: Tensor) -> Rows:
        batch, channel, _ = tensor.stride()
        return Rows(tensor.data_ptr(), batch, channel * self.problem.channels, channel)


def _readable(tensor: Tensor) -> Tensor:
    """Sequences whose places lie next to each other: the tensor itself, wherever they do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _rows_of_states(tensor: Tensor) -> Rows:
    return Rows(tensor.data_ptr(), *tensor.stride()[:3])


def scan(inputs: SequenceInputs, softplus: bool, *, save: bool) -> tuple[Tensor, Tensor]:
    """The plain scan of u (B, K·Dm, L), and the states that its backward pass starts from (empty unless ``save``)."""
    s = _PlainProblem(inputs, softplus)
    p, u = s.problem, inputs.u
    saved = u.new_empty(checkpoint_size(p.batches, p.groups, p.length, p.channels, p.states) if save else 0)
    y = u.new_empty(u.shape)
    p.checkpoints = saved.data_ptr() if save else None
    p.y = s.channels(y)
    call("slicemamba_scan_forward", p)
    return y, saved


def scan_backward(grad_y: Tensor, inputs: SequenceInputs, saved: Tensor, softplus: bool) -> SequenceInputs:
    """Gradients of :func:`scan`."""
    s = _PlainProblem(inputs, softplus)
    p, grad_y = s.problem, _readable(grad_y)
    u, _, A, B, _, D, bias = s.inputs
    grad_u, grad_delta = u.new_empty(u.shape), u.new_empty(u.shape)
    grad_bc = u.new_empty(p.parts, 2, *B.shape)
    grad_a, grad_skip, grad_bias = (u.new_empty(p.batches, *size) for size in (A.shape, A.shape[:1], A.shape[:1]))
    p.checkpoints = saved.data_ptr()
    p.grad_y, p.grad_x, p.grad_delta = (s.channels(tensor) for tensor in (grad_y, grad_u, grad_delta))
    p.grad_b, p.grad_c = (_rows_of_states(grad_bc[0, i]) for i in range(2))
    p.grad_projected_size, p.grad_a = grad_bc[0].numel(), grad_a.data_ptr()
    p.grad_skip, p.grad_dt_bias = grad_skip.data_ptr(), grad_bias.data_ptr()
    call("slicemamba_scan_backward", p)
    others = (grad_a[0], *grad_bc[0], grad_skip[0, : D.numel()], grad_bias[0, : bias.numel()])
    return SequenceInputs(grad_u, grad_delta, *(grad.clone() for grad in others))
