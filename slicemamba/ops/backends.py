"""Which scan runs: a registry of backends, whether each can run here, and the choice between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from slicemamba.errors import InputError
from slicemamba.ops import cpu, mamba, self_check, triton

F = TypeVar("F", bound=Callable[..., Any])

USABLE = "usable"
ENVIRONMENT_VARIABLE = "SLICEMAMBA_SCAN"
_ALWAYS = ("cpu", "cuda", "mps", "xpu", "meta")


def _always() -> str:
    return USABLE


def _triton() -> str:
    status = triton.status()
    return self_check.triton_status() if status == USABLE and not triton.interpreted() else status


# name -> (says "usable" or why not, with the mend; device types it runs on), the fastest first
_REGISTRY: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "triton": (_triton, ("cuda",)),
    "mamba_ssm": (mamba.status, ("cuda",)),
    "native": (cpu.status, ("cpu",)),
    "torch": (_always, _ALWAYS),
    "reference": (_always, _ALWAYS),
}
_NEVER_AUTOMATIC = ("reference",)


def available_backends() -> dict[str, str]:
    """Name of every backend -> "usable", or the reason it is not, with the line that mends it."""
    return {name: status() for name, (status, _) in _REGISTRY.items()}


def constant_when_compiled(function: F) -> F:
    """Marks a function whose result ``torch.compile`` takes for a constant.

    As ``torch.compiler.assume_constant_result`` does, but that this loads no compiler: two seconds in each process that
    imports this package, of which few compile.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled  # what runs is not traced
def choose_backend(device: torch.device | str) -> str:
    """The fastest usable backend for a device, or the one that SLICEMAMBA_SCAN names.

    Raises:
        InputError: SLICEMAMBA_SCAN names a backend that is unknown, not usable here, or not for this device.
    """
    kind = device.type if isinstance(device, torch.device) else torch.device(device).type
    forced = os.environ.get(ENVIRONMENT_VARIABLE)
    if forced:
        return _forced(forced, kind)
    if kind == "cpu":
        cpu.warn_once_if_missing()
    for name, (status, kinds) in _REGISTRY.items():
        if name not in _NEVER_AUTOMATIC and kind in kinds and status() == USABLE:
            return name
    return "torch"


def _forced(name: str, kind: str) -> str:
    if name not in _REGISTRY:
        raise InputError(
            f"{ENVIRONMENT_VARIABLE} expects one of {', '.join(_REGISTRY)}, got {name!r}; set one of them or unset it."
        )
    status, kinds = _REGISTRY[name]
    reason = status()
    if reason != USABLE:
        raise InputError(f"{ENVIRONMENT_VARIABLE}={name} expects that backend to be usable, but it is {reason}.")
    interpreted = name == "triton" and kind == "cpu" and triton.interpreted()  # never without being asked for
    if kind not in kinds and not interpreted:
        raise InputError(
            f"{ENVIRONMENT_VARIABLE}={name} expects tensors on {' or '.join(kinds)}, got {kind}; move them or unset it."
        )
    return name
