"""Fixtures of the scan tests: a way to run under each backend and each instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from slicemamba.ops import available_backends, backends, cpu, mamba, reference

SKIPPED = {name: reason for name, reason in available_backends().items() if reason != "usable"}


def _variants() -> list[object]:
    """ "torch", and "native:<instruction set>" for every set that a build may have, skipped where it cannot run."""
    variants: list[object] = ["torch"]
    for isa in cpu.INSTRUCTION_SETS:
        reason = SKIPPED.get("native") or f"this machine has no {isa}"
        marks = () if isa in cpu.instruction_sets() else (pytest.mark.skip(reason=reason),)
        variants.append(pytest.param(f"native:{isa}", marks=marks))
    return variants


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: the tensors here are tiny, and threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _force(variant: str, monkeypatch: pytest.MonkeyPatch) -> str:
    name, _, isa = variant.partition(":")
    monkeypatch.setenv("SLICEMAMBA_SCAN", name)
    if isa:
        monkeypatch.setenv("SLICEMAMBA_ISA", isa)
    return name


@pytest.fixture(params=_variants())
def operator_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one backend behind the registered operators (and, for the native one, one instruction set)."""
    return _force(request.param, monkeypatch)


@pytest.fixture(params=[*_variants(), "mamba_ssm"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force any backend that runs on a CPU; for mamba_ssm the reference stands in for its scan, not for its layout."""
    if request.param == "mamba_ssm":
        monkeypatch.setitem(backends._REGISTRY, "mamba_ssm", (lambda: "usable", ("cpu",)))
        monkeypatch.setattr(mamba, "selective_scan_fn", lambda: reference.selective_scan)
    return _force(request.param, monkeypatch)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force the native backend, or skip with the reason why it is not there."""
    if "native" in SKIPPED:
        pytest.skip(SKIPPED["native"])
    monkeypatch.setenv("SLICEMAMBA_SCAN", "native")
