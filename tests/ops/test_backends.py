"""The choice of a backend: what is reported, what is forced, what happens without the compiled library."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_cases import slice_scan_inputs

import slicemamba
from slicemamba.errors import InputError
from slicemamba.ops import (
    available_backends,
    choose_backend,
    chunked,
    cpu,
    mamba,
    reference,
    self_check,
    slice_scan,
    triton,
    triton_gating,
)
from slicemamba.ops.backends import constant_when_compiled

PACKAGE = Path(slicemamba.__file__).parent

WITHOUT_LIBRARY = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import torch
from slicemamba.ops import available_backends, choose_backend, reference, slice_scan
from slicemamba.ops.inputs import SliceInputs
inputs = torch.load(sys.argv[2])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = [slice_scan(*inputs, (2, 4)) for _ in range(3)]
messages = [str(w.message) for w in caught if "native scan" in str(w.message)]
assert len(messages) == 1, messages
assert "pip install" in messages[0] and "pip install" in available_backends()["native"]
assert choose_backend("cpu") == "torch"
torch.testing.assert_close(results[0], reference.slice_scan(SliceInputs(*inputs), (2, 4)), rtol=1e-4, atol=1e-5)
"""

QUIET = """
import sys, warnings
warnings.simplefilter("error")
import torch
from slicemamba.ops import choose_backend, slice_scan
slice_scan(*torch.load(sys.argv[1]), (2, 4))
assert choose_backend("cpu") == "native"
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("SLICEMAMBA_SCAN", raising=False)
    monkeypatch.delenv("SLICEMAMBA_ISA", raising=False)


def run_python(code, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd="/"
    )
    assert process.returncode == 0, process.stderr


def test_every_backend_is_reported_with_a_mend():
    backends = available_backends()
    assert set(backends) == {"triton", "mamba_ssm", "native", "torch", "reference"}
    assert backends["torch"] == backends["reference"] == "usable"
    for name in ("triton", "mamba_ssm"):
        assert backends[name] == "usable" or "pip install" in backends[name]


def test_without_a_wish_the_fastest_is_taken():
    assert choose_backend("cpu") == ("native" if available_backends()["native"] == "usable" else "torch")
    assert choose_backend(torch.device("cuda")) == ("triton" if available_backends()["triton"] == "usable" else "torch")


def test_a_forced_backend_that_is_missing_fails_loudly(monkeypatch):
    monkeypatch.setattr(mamba.importlib.util, "find_spec", lambda _: None)
    mamba.status.cache_clear()
    monkeypatch.setenv("SLICEMAMBA_SCAN", "mamba_ssm")
    with pytest.raises(InputError, match=r"SLICEMAMBA_SCAN=mamba_ssm.*not installed.*KEEP_CUDA_BUILD=TRUE pip install"):
        slice_scan(*slice_scan_inputs(), (2, 2))
    mamba.status.cache_clear()


def by_torch(inputs, slice_size, save):
    return chunked.slice_scan(inputs, slice_size), torch.empty(0)


def by_torch_backward(grad, inputs, _, slice_size):
    return chunked.slice_scan_backward(grad, inputs, slice_size)


def fails(*_, **__):
    raise ValueError("no kernel image\nand more")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({}, None),
        ({"slice_scan": lambda *t, save: (1.1 * by_torch(*t, save=save)[0], None)}, "y and the gradients: 1e-01, "),
        ({"slice_scan_backward": lambda *t: [g * float("nan") for g in by_torch_backward(*t)]}, ", nan, nan"),
        ({"slice_scan": fails}, "ValueError: no kernel image"),
        ({"forward": lambda *t: 1.1 * reference.gated_norm(*t)}, "y and the gradients: 1e-01, "),
        ({"backward": fails}, "ValueError: no kernel image"),
    ],
)
def test_the_self_check_finds_faults(wrong, fault, monkeypatch):
    right = {"slice_scan": by_torch, "slice_scan_backward": by_torch_backward}
    right |= {"forward": reference.gated_norm, "backward": reference.gated_norm_backward}
    for name, function in {**right, **wrong}.items():
        monkeypatch.setattr(triton if "scan" in name else triton_gating, name, function)
    found = self_check.triton_fault(torch.device("cpu"))
    assert found is None if fault is None else fault in found


def test_a_failed_self_check_warns_once_and_takes_another_backend(monkeypatch):
    monkeypatch.setattr(self_check, "triton_fault", lambda _: "wrong")
    monkeypatch.setattr(triton, "status", lambda: "usable")
    monkeypatch.setattr(mamba, "status", lambda: "not usable")
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    self_check.triton_status.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"self-check on a GPU failed \(wrong\)") as caught:
        assert [choose_backend("cuda") for _ in range(3)] == ["torch"] * 3
    assert len(caught) == 1
    monkeypatch.setenv("SLICEMAMBA_SCAN", "triton")
    with pytest.raises(InputError, match="self-check"):
        choose_backend("cuda")
    self_check.triton_status.cache_clear()


def test_an_unknown_backend_or_device_fails_loudly(monkeypatch):
    monkeypatch.setenv("SLICEMAMBA_SCAN", "fortran")
    with pytest.raises(InputError, match=r"expects one of .*native.*got 'fortran'"):
        choose_backend("cpu")
    if available_backends()["native"] == "usable":
        monkeypatch.setenv("SLICEMAMBA_SCAN", "native")
        with pytest.raises(InputError, match="tensors on cpu, got cuda"):
            choose_backend("cuda")


def test_an_unknown_instruction_set_fails_loudly(native, monkeypatch):
    monkeypatch.setenv("SLICEMAMBA_ISA", "mmx")
    with pytest.raises(InputError, match=r"SLICEMAMBA_ISA expects baseline.*got 'mmx'"):
        cpu.instruction_set()


def test_the_reference_can_be_forced(monkeypatch):
    inputs = slice_scan_inputs()
    expected = slice_scan(*inputs, (2, 4))
    monkeypatch.setenv("SLICEMAMBA_SCAN", "reference")
    torch.testing.assert_close(slice_scan(*inputs, (2, 4)), expected, rtol=1e-4, atol=1e-5)


def test_a_missing_library_gives_one_warning_and_right_results(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "slicemamba", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    torch.save(slice_scan_inputs(), tmp_path / "inputs.pt")
    run_python(WITHOUT_LIBRARY, tmp_path, tmp_path / "inputs.pt")


def test_a_broken_library_gives_one_warning_and_right_results(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "slicemamba", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "slicemamba" / "ops" / "_scan.so").write_bytes(b"not a library")
    torch.save(slice_scan_inputs(), tmp_path / "inputs.pt")
    run_python(WITHOUT_LIBRARY, tmp_path, tmp_path / "inputs.pt")


def test_nothing_is_warned_of_when_the_library_is_there(native, tmp_path, monkeypatch):
    monkeypatch.delenv("SLICEMAMBA_SCAN")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    torch.save(slice_scan_inputs(), tmp_path / "inputs.pt")
    run_python(QUIET, tmp_path / "inputs.pt")


def test_a_function_is_marked_for_the_compiler_as_torch_does_it():
    def by_torch():
        return 1

    def by_us():
        return 1

    assert vars(constant_when_compiled(by_us)) == vars(torch.compiler.assume_constant_result(by_torch)) != {}


def test_workers_load_no_compiler_and_nothing_that_draws():
    code = "import cluster.ray_train, cluster.ray_tune, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "ray.tune"} <= set(done.stdout.split())
    assert {"torch._dynamo", "scipy.stats", "matplotlib", "medpy", "monai"}.isdisjoint(done.stdout.split())
