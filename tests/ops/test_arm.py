"""The native library built for 64-bit ARM and run in an emulator, against the library of this machine and float64.

The build is that of a system without OpenMP (macOS), so its own threads run here too. Only calls of the library are
emulated: everything around them is the package as it is. Needs Debian's g++-aarch64-linux-gnu and qemu-user-static.
"""

from __future__ import annotations

import ctypes
import gc
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from scan_cases import (
    EPS,
    gated_norm_and_gradients,
    gated_norm_inputs,
    gradient_of_y,
    leaves,
    relative,
    run,
    slice_scan_inputs,
    truth,
)
from torch import Tensor

from slicemamba.ops import cpu, depthwise_silu, gated_norm, instance_norm_act, reference, selective_scan

COMPILER, EMULATOR, DISASSEMBLER = "aarch64-linux-gnu-g++", "qemu-aarch64-static", "aarch64-linux-gnu-objdump"
MISSING = ", ".join(tool for tool in (COMPILER, EMULATOR, DISASSEMBLER) if shutil.which(tool) is None)
REASON = f"no {MISSING}; on Debian, apt install g++-aarch64-linux-gnu qemu-user-static"
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=REASON), pytest.mark.usefixtures("native")]
SOURCE = Path(cpu.__file__).with_name("_scan.cpp")
Call = Callable[[], Sequence[Tensor]]
Emulate = Callable[..., Sequence[Tensor]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """native_call.cpp with the library, for ARM; the flags are those of setup.py."""
    path = tmp_path_factory.mktemp("arm") / "native_call"
    sources = [Path(__file__).with_name("native_call.cpp"), SOURCE]
    subprocess.run([COMPILER, "-O3", "-std=c++17", "-static", *sources, "-o", path], check=True)
    return path


@pytest.fixture
def emulate(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulate:
    """emulate(call, threads, *options): what ``call`` gives if the library's part of it runs on ARM."""
    count = 0

    def emulate(call: Call, threads: int = 1, *options: str) -> Sequence[Tensor]:
        def call_library(function: str, problem: ctypes.Structure) -> None:
            nonlocal count
            problem.threads = threads
            call_emulated([EMULATOR, program, tmp_path / "call", *options], function, problem)
            count += 1

        with monkeypatch.context() as patch:
            patch.setattr(cpu, "call", call_library)
            before, result = count, call()
        assert count > before, "nothing was emulated"
        return result

    monkeypatch.setenv("SLICEMAMBA_ISA", "baseline")
    return emulate


def call_emulated(command: list[str | Path], function: str, problem: ctypes.Structure) -> None:
    """Hand the description and all memory that it points to over to the program, and take the memory back."""
    description = bytearray(problem)
    blocks: dict[int, tuple[int, int]] = {}  # address of a storage -> its size, and where it lies in the memory
    size, places, known = 0, list(pointers(type(problem))), storages()
    for place in places:
        address = struct.unpack_from("q", description, place)[0]
        offset = -1
        if address:
            start, length = next(storage for storage in known if storage[0] <= address < sum(storage))
            if start not in blocks:
                blocks[start] = length, size
                size += (length + 63) // 64 * 64
            offset = blocks[start][1] + address - start
        struct.pack_into("q", description, place, offset)
    memory = bytearray(size)
    for start, (length, offset) in blocks.items():
        memory[offset : offset + length] = ctypes.string_at(start, length)
    header = struct.pack(f"{3 + len(places)}q", len(places), len(description), size, *places)
    file = Path(command[2])
    file.write_bytes(header + description + memory + function.encode())
    subprocess.run(command, check=True, timeout=300)
    memory = bytearray(file.read_bytes()[len(header) + len(description) :])
    for start, (length, offset) in blocks.items():
        ctypes.memmove(start, bytes(memory[offset : offset + length]), length)


def pointers(kind: type[ctypes.Structure], base: int = 0) -> Iterator[int]:
    """Where the pointers lie in a description."""
    for name, field in kind._fields_:
        at = base + getattr(kind, name).offset
        if field is ctypes.c_void_p:
            yield at
        elif isinstance(field, type) and issubclass(field, ctypes.Structure):
            yield from pointers(field, at)


def storages() -> set[tuple[int, int]]:
    """Address and size of the memory of all tensors that there are."""
    tensors = [found for found in gc.get_objects() if type(found) is Tensor and found.device.type == "cpu"]
    return {(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()) for tensor in tensors}


def assert_close(arm: Sequence[Tensor], own: Sequence[Tensor], exact: Sequence[Tensor], tolerance: float) -> None:
    """As near to float64 as documented, and no further from this machine's results than both may be."""
    assert len(arm) == len(own) == len(exact)
    for one, other, expected in zip(arm, own, exact, strict=True):
        assert relative(one, expected) < tolerance
        assert relative(one, other) < tolerance


@pytest.mark.parametrize(
    ("shape", "slice_size"),
    [
        ({"height": 7, "width": 11, "channels": 20, "states": 5, "rank": 3}, (2, 4)),
        ({"batch": 1, "height": 9, "width": 15, "channels": 33, "states": 16, "rank": 2}, (3, 5)),
        ({"batch": 1, "height": 1, "width": 1, "channels": 3, "states": 1, "rank": 1}, (1, 1)),
    ],
)
def test_slice_scan(emulate: Emulate, shape: dict[str, int], slice_size: tuple[int, int]) -> None:
    inputs = slice_scan_inputs(**shape)
    grad = gradient_of_y(inputs)
    call = partial(run, inputs, grad, slice_size)
    y, grads = truth(inputs, slice_size, grad)
    assert_close(emulate(call), call(), [y, *grads], 4e-6)


def test_selective_scan(emulate: Emulate) -> None:
    random = torch.Generator().manual_seed(0)
    u, delta, B, C, grad = (
        torch.randn(2, size, 131, generator=random).unflatten(1, (2, -1)) for size in (14, 14, 10, 10, 14)
    )
    A = -torch.rand(14, 5, generator=random)
    inputs = [u.flatten(1, 2), delta.flatten(1, 2).abs(), A, B, C]

    def call(*tensors: Tensor) -> list[Tensor]:
        own = leaves(list(tensors or inputs))
        y = selective_scan(*own)
        return [y, *torch.autograd.grad(y, own, grad.flatten(1, 2).to(y))]

    assert_close(emulate(call), call(), call(*(tensor.double() for tensor in inputs)), 4e-6)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", [(2, 7, 11, 21), (1, 33, 5, 18)])
def test_depthwise_silu(emulate: Emulate, shape: tuple[int, ...], kernel: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (
        torch.randn(size, generator=random) for size in (shape, (shape[3], 1, kernel, kernel), shape[3:], shape)
    )
    call = partial(with_gradients, depthwise_silu, [x, weight, bias], grad)
    exact = with_gradients(reference.depthwise_silu, [x.double(), weight.double(), bias.double()], grad)
    assert_close(emulate(call), call(), exact, 4e-6)


@pytest.mark.parametrize("shape", [(2, 7, 11, 21), (3, 17, 2, 6)])
def test_instance_norm_act(emulate: Emulate, shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (torch.randn(size, generator=random) for size in (shape, shape[3:], shape[3:], shape))
    call = partial(with_gradients, instance_norm_act, [x, weight, bias], grad)
    exact = with_gradients(reference.instance_norm_act, [x.double(), weight.double(), bias.double()], grad)
    assert_close(emulate(call), call(), exact, 4e-6)


def test_gated_norm(emulate: Emulate) -> None:
    inputs = gated_norm_inputs(3, 23, 37)
    grad = torch.randn(3, 23, 37, generator=torch.Generator().manual_seed(1))
    call = partial(gated_norm_and_gradients, gated_norm, inputs, grad)
    exact = gated_norm_and_gradients(reference.gated_norm, [tensor.double() for tensor in inputs], grad)
    assert_close(emulate(call), call(), exact, 4e-6)


def test_threads_of_its_own_change_nothing(emulate: Emulate) -> None:
    inputs = slice_scan_inputs(batch=3, height=9, width=15, channels=36)
    grad = gradient_of_y(inputs)
    call = partial(run, inputs, grad)
    alone = emulate(call, 1)
    for options in ((), ("fork",)):  # and a child that is forked off after the threads have started gets its own
        for one, other in zip(alone, emulate(call, 3, *options), strict=True):
            assert torch.equal(one, other)


def with_gradients(operation: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    own = leaves(inputs)
    extra = (EPS, 0.01) if operation in (instance_norm_act, reference.instance_norm_act) else ()
    result = operation(*own, *extra)
    return [result, *torch.autograd.grad(result, own, grad.to(result))]


@pytest.mark.parametrize(("function", "multiply_adds"), [("forward_task", 28), ("backward_task", 24)])
def test_the_loop_over_states_is_neon_and_calls_nothing(program: Path, function: str, multiply_adds: int) -> None:
    """Four states at a time: five multiply-adds for each exponential, and two (one backward, to recompute) besides."""
    listing = subprocess.run([DISASSEMBLER, "-d", "--no-show-raw-insn", program], capture_output=True, text=True)
    body = re.search(rf"<[^>]*baseline\w*{function}\w*>:\n((?:.+\n)+)", listing.stdout)
    assert body is not None
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(\S+)(.*)", body[1], re.M)
    instructions = [(int(address, 16), name, operands) for address, name, operands in lines]
    loops = []
    for address, name, operands in instructions:
        target = re.search(r"([0-9a-f]+) <", operands)
        if name.startswith("b.") and target and int(target[1], 16) < address:
            loops.append([i for i in instructions if int(target[1], 16) <= i[0] <= address])
    vector = r"v\d+\.4s, v\d+\.4s, v\d+\.(4s|s\[\d\])"
    fused = [sum(name == "fmla" and bool(re.search(vector, rest)) for _, name, rest in loop) for loop in loops]
    inner = [loop for loop, number in zip(loops, fused, strict=True) if number == multiply_adds]
    assert inner, f"loops hold {sorted(fused)} vector multiply-adds"
    assert not [rest for _, name, rest in min(inner, key=len) if name in ("bl", "blr")]
