"""Fixtures of the scan tests: a way to run under each backend and each instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from slicemamba.ops import available_backends, cpu

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


@pytest.fixture(params=_variants())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one backend (and, for the native one, one instruction set) for the test."""
    name, _, isa = request.param.partition(":")
    monkeypatch.setenv("SLICEMAMBA_SCAN", name)
    if isa:
        monkeypatch.setenv("SLICEMAMBA_ISA", isa)
    return name


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force the native backend, or skip with the reason why it is not there."""
    if "native" in SKIPPED:
        pytest.skip(SKIPPED["native"])
    monkeypatch.setenv("SLICEMAMBA_SCAN", "native")
