"""The native CPU backend."""
from __future__ import annotations

def status() -> str:
    return "missing"

def warn_once_if_missing() -> None:
    return None
