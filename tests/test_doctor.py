"""What `slicemamba doctor` says of the scans."""

from __future__ import annotations

import pytest
import torch

from slicemamba import ops
from slicemamba.doctor import Finding, _scan_backends


def found(topic: str) -> Finding:
    return next(finding for finding in _scan_backends() if finding.topic == topic)


def test_names_every_backend_and_the_one_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLICEMAMBA_SCAN", raising=False)
    topics = {finding.topic for finding in _scan_backends()}
    assert {f"scan: {name}" for name in ops.available_backends()} < topics
    assert found("scan on CPU").text.startswith(ops.choose_backend("cpu"))
    monkeypatch.setenv("SLICEMAMBA_SCAN", "torch")
    assert found("scan on CPU").state == "note"
    assert "torch (SLICEMAMBA_SCAN=torch) – much slower than native" in found("scan on CPU").text


def test_tells_what_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops, "available_backends", dict)
    monkeypatch.setattr(ops, "choose_backend", lambda device: "native" if device == "cpu" else "triton")
    monkeypatch.delenv("SLICEMAMBA_SCAN", raising=False)
    assert found("scan on CUDA") == Finding("scan on CUDA", "ok", "triton")


def test_a_forced_backend_that_cannot_run_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_SCAN", "fortran")
    assert found("scan on CPU").state == "fault"
    assert "got 'fortran'" in found("scan on CPU").text


def test_nothing_is_advised_that_needs_a_gpu_which_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("triton", "mamba_ssm"):
        assert found(f"scan: {name}") == Finding(f"scan: {name}", "note", "needs an NVIDIA GPU, and torch finds none")
