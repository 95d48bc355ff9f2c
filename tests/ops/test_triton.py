"""The Triton backend: in the interpreter, through the compiler without a GPU, and on a GPU where there is one."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_cases import (
    NAMES,
    SLICE_SIZES,
    check,
    gated_norm_and_gradients,
    gated_norm_inputs,
    gradient_of_y,
    leaves,
    relative,
    run,
    slice_scan_inputs,
)

from slicemamba.architecture import Block
from slicemamba.errors import InputError
from slicemamba.ops import available_backends, choose_backend, gated_norm, reference, self_check, slice_scan
from slicemamba.ops import triton as backend
from slicemamba.ops._triton_layout import cut, sizes_of

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; pip install 'triton>=3.3' (on Linux)"
)
COMPILE = Path(__file__).with_name("compile_triton.py")
INTERPRETED = Path(__file__).with_name("interpreted_triton.py")


def run_python(*arguments, **environment):
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@needs_triton
@pytest.mark.long
def test_agrees_with_the_reference_in_the_interpreter():
    options = ("-q", "-p", "no:cacheprovider", "-o", "timeout=300")
    run_python("-m", "pytest", *options, INTERPRETED, TRITON_INTERPRET="1", SLICEMAMBA_SCAN="triton")


@needs_triton
@pytest.mark.long
@pytest.mark.parametrize(("stages", "kernels"), [("ends", 16), pytest.param("all", 32, marks=pytest.mark.slow)])
def test_stages_compile_and_keep_their_state_in_registers(stages, kernels, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert run_python(COMPILE, stages, TRITON_CACHE_DIR=str(tmp_path)).count("ok") == kernels


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """What the compiled sweeps issue in a step, on compute capability 9.0."""
    directory = str(tmp_path_factory.mktemp("triton"))
    return json.loads(run_python(COMPILE, "counts", TRITON_CACHE_DIR=directory, TRITON_INTERPRET="0"))


@needs_triton
def test_a_step_of_the_sweeps_takes_no_more_instructions_than_documented(counts):
    """Without a GPU to time on, the compiled code stands for the speed; 3 % are left to the compiler's moods."""
    most = {
        "forward": {"loops": 1, "instructions": 194, "special functions": 18, "shuffles": 8, "registers": 167},
        "backward": {"loops": 2, "instructions": 569, "special functions": 44.5, "shuffles": 40, "registers": 236},
    }
    for kernel, limits in most.items():
        for what, limit in limits.items():
            assert 0 < counts[kernel][what] <= limit * 1.03, (kernel, what, counts)


@needs_triton
def test_no_cut_would_shorten_a_last_wave_that_is_half_empty(counts):
    """Batch 32 at the first stage, 768 warps on the 528 schedulers of 132 multiprocessors: two turns, uncut."""
    sizes = sizes_of(torch.empty(32, 64, 64, 192, device="meta"), torch.empty(4, 192, 6), torch.empty(768, 16))
    share = counts["forward, carried"]["instructions"] / counts["forward"]["instructions"]

    def turns(segments):  # each of a whole sequence, where every scheduler issues an instruction a cycle
        carried = math.ceil(sizes.programs * (segments - 1) / 528) * share
        return (carried + math.ceil(sizes.programs * segments / 528)) / segments

    assert turns(1) == 2
    assert min(turns(segments) for segments in range(2, 33)) > 2


def test_is_never_chosen_for_the_cpu_and_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("SLICEMAMBA_SCAN", "triton")
    if available_backends()["triton"] == "usable":
        message = "tensors on cuda, got cpu"
    else:
        message = r"not usable: (no CUDA device|triton).*pip install"
    with pytest.raises(InputError, match=message):
        choose_backend("cpu")


def test_sequences_are_cut_only_where_they_are_long_and_few():
    sizes = sizes_of(torch.empty(1, 64, 64, 192), torch.empty(4, 192, 6), torch.empty(768, 16))
    assert backend.segments_of(sizes, torch.device("cpu")) == (1, 4096)
    assert [cut(4096, wanted) for wanted in (1, 4, 7, 1000)] == [(1, 4096), (4, 1024), (7, 608), (32, 128)]
    assert cut(100, 8) == (1, 128)


def test_missing_or_old_triton_gives_the_install_line(monkeypatch):
    monkeypatch.setattr(backend, "version", lambda _: "3.2.0")
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda _: object())
    assert "3.2.0 is too old; pip install 'triton>=3.3'" in backend._installed.__wrapped__()
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda _: None)
    assert "triton is not installed; pip install 'triton>=3.3'" in backend._installed.__wrapped__()


def test_takes_float32_and_half_maps_of_up_to_a_million_places():
    assert backend.supports(torch.empty(1, 1024, 1024, 1, dtype=torch.bfloat16, device="meta"))
    assert not backend.supports(torch.empty(1, 1025, 1024, 1, device="meta"))
    assert not backend.supports(torch.empty(1, 4, 4, 1, dtype=torch.float64, device="meta"))


@pytest.fixture
def on_gpu(monkeypatch):
    """Force Triton, for the results, and full float32 products."""
    monkeypatch.setenv("SLICEMAMBA_SCAN", "triton")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def by_torch(inputs, grad_y, slice_size, monkeypatch):
    monkeypatch.setenv("SLICEMAMBA_SCAN", "torch")
    y, *grads = run([tensor.double() for tensor in inputs], grad_y.double(), slice_size)
    monkeypatch.setenv("SLICEMAMBA_SCAN", "triton")
    return y, grads


# Two of few, long sequences, which are cut; then stage 1 and stage 4 of the network at batch 32
GPU_SHAPES = [(2, 37, 45, 192, 16, 6), (3, 9, 7, 100, 17, 5), (1, 64, 64, 192, 16, 6)]
GPU_SHAPES += [(32, 64, 64, 192, 16, 6), (32, 8, 8, 1536, 16, 48)]


@pytest.mark.gpu
def test_passes_its_self_check_on_a_gpu():
    assert available_backends()["triton"] == "usable"
    assert self_check.triton_fault(torch.device("cuda")) is None


@pytest.mark.gpu
def test_mamba_ssm_agrees_on_a_gpu(monkeypatch):
    if (reason := available_backends()["mamba_ssm"]) != "usable":
        pytest.skip(f"mamba_ssm is {reason}")
    inputs = [tensor.cuda() for tensor in slice_scan_inputs(*GPU_SHAPES[0])]
    grad_y = gradient_of_y(inputs).cuda()
    expected, grads = by_torch(inputs, grad_y, (2, 4), monkeypatch)
    monkeypatch.setenv("SLICEMAMBA_SCAN", "mamba_ssm")
    check(inputs, grad_y, expected, grads, (2, 4), (1e-5, 1e-4))


@pytest.mark.gpu
@pytest.mark.parametrize("slice_size", SLICE_SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_agrees_for_every_slice_size_on_a_gpu(slice_size, on_gpu, monkeypatch):
    inputs = [tensor.cuda() for tensor in slice_scan_inputs(*GPU_SHAPES[0])]
    grad_y = gradient_of_y(inputs).cuda()
    check(inputs, grad_y, *by_torch(inputs, grad_y, slice_size, monkeypatch), slice_size, (2e-6, 2e-5))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", GPU_SHAPES[1:], ids=lambda s: "x".join(map(str, s)))
def test_agrees_at_the_sizes_of_the_network_on_a_gpu(shape, on_gpu, monkeypatch):
    inputs = [tensor.cuda() for tensor in slice_scan_inputs(*shape)]
    grad_y = gradient_of_y(inputs).cuda()
    check(inputs, grad_y, *by_torch(inputs, grad_y, (2, 4), monkeypatch), (2, 4), (2e-6, 2e-5))


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 1.5e-3)])
def test_half_maps_agree_on_a_gpu(dtype, tolerance, on_gpu, monkeypatch):
    inputs = [tensor.cuda() for tensor in slice_scan_inputs(*GPU_SHAPES[0])]
    inputs[0] = inputs[0].to(dtype)
    grad_y = gradient_of_y(inputs).cuda().to(dtype)
    check(inputs, grad_y, *by_torch(inputs, grad_y, (2, 4), monkeypatch), (2, 4), (tolerance, tolerance))


@pytest.mark.gpu
def test_runs_repeat_bit_for_bit_on_a_gpu(on_gpu):
    inputs = [tensor.cuda() for tensor in slice_scan_inputs(8, 64, 64, 192, 16, 6)]
    grad_y = gradient_of_y(inputs).cuda()
    first = run(inputs, grad_y)
    for _ in range(3):
        for name, got, want in zip(("y", *NAMES), run(inputs, grad_y), first, strict=True):
            assert torch.equal(got, want), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_no_nan_on_a_gpu(dtype, on_gpu):
    from slicemamba.models.bss import BSS

    mixer = BSS(96).cuda()
    x = 30 * torch.randn(4, 64, 64, 96, device="cuda")
    with torch.autocast("cuda", dtype):
        y = mixer(x, Block(2, 4))
        loss = y.float().square().mean()
    (1024 * loss).backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in mixer.parameters())


@pytest.mark.gpu
def test_a_compiled_call_gives_the_same_on_a_gpu(on_gpu):
    inputs = leaves([tensor.cuda() for tensor in slice_scan_inputs(2, 16, 16, 64, 16, 4)])
    compiled = torch.compile(slice_scan, backend="aot_eager", fullgraph=True)
    assert relative(compiled(*inputs, (2, 4)), slice_scan(*inputs, (2, 4))) == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("channels", [45, 192, 1536])
def test_the_gated_norm_agrees_on_a_gpu(channels, dtype, tolerance, on_gpu):
    inputs = [tensor.cuda() for tensor in gated_norm_inputs(2, 37, 45, channels)]
    inputs[:2] = (tensor.to(dtype) for tensor in inputs[:2])
    grad = gradient_of_y(inputs).cuda().to(dtype)
    got = gated_norm_and_gradients(gated_norm, inputs, grad)
    expected = gated_norm_and_gradients(reference.gated_norm, [tensor.double() for tensor in inputs], grad)
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < tolerance
    for a, b in zip(gated_norm_and_gradients(gated_norm, inputs, grad), got, strict=True):
        assert torch.equal(a, b)
