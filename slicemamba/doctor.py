"""What of this machine the software can use: scan backends, GPUs, Ray, storage; and what to do about the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from slicemamba import __version__
from slicemamba.errors import InputError

State = Literal["ok", "note", "fault"]
_PACKAGES = ("torch", "ray", "optuna", "numpy", "medpy", "h5py", "fastapi", "pydantic")
_GPU_BACKENDS = ("triton", "mamba_ssm")
_RAY_DASHBOARD = ("127.0.0.1", 8265)


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``note``: works, but something is left unused; ``fault``: must be mended."""

    topic: str
    state: State
    text: str


def examine(storage: Path) -> Iterator[Finding]:
    """Looks at everything. ``storage`` is a folder where runs are to be written."""
    yield Finding("slicemamba", "ok", f"{__version__}, on Python {platform.python_version()}")
    yield from _packages()
    yield from _scan_backends()
    yield _gpus()
    yield from _cores()
    yield _ray()
    yield _storage(storage)


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "fault", f"not installed: pip install {name}")


def _scan_backends() -> Iterator[Finding]:
    import torch

    from slicemamba.ops import available_backends, choose_backend

    for name, status in available_backends().items():
        if name in _GPU_BACKENDS and not torch.cuda.is_available():  # installing it would help nobody
            status = "needs an NVIDIA GPU, and torch finds none"
        yield Finding(f"scan: {name}", "ok" if status == "usable" else "note", status)
    best = {"cpu": "native"} | ({"cuda": "triton"} if torch.cuda.is_available() else {})
    forced = f" (SLICEMAMBA_SCAN={os.environ['SLICEMAMBA_SCAN']})" if os.environ.get("SLICEMAMBA_SCAN") else ""
    for device, fastest in best.items():
        topic = f"scan on {device.upper()}"
        try:
            chosen = choose_backend(device)
        except InputError as error:
            yield Finding(topic, "fault", str(error))
            continue
        slow = "" if chosen == fastest else f" – much slower than {fastest}; see its line above"
        yield Finding(topic, "note" if slow else "ok", f"{chosen}{forced}{slow}")


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch was built without CUDA"
        return Finding("GPU", "note", f"none; everything runs on the CPU{built}")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))


def _cores() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "ok", f"{cores} cores")
    if importlib.util.find_spec("psutil"):
        import psutil

        free = psutil.virtual_memory().available / 2**30
        yield Finding("memory", "ok" if free > 4 else "note", f"{free:.1f} GiB free")


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return Finding("Ray cluster", "ok", f"RAY_ADDRESS={address}")
    try:
        socket.create_connection(_RAY_DASHBOARD, timeout=1).close()
    except OSError:
        return Finding(
            "Ray cluster", "note", "none on this machine; commands start their own, `serve` needs `ray start --head`"
        )
    return Finding("Ray cluster", "ok", "one is running on this machine (dashboard at http://127.0.0.1:8265)")


def _storage(folder: Path) -> Finding:
    """Tries to write where the folder is, or will be made; leaves nothing behind."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            "storage", "fault", f"{folder} cannot be written ({error.strerror}); choose another with --storage"
        )
    free = shutil.disk_usage(existing).free / 2**30
    return Finding("storage", "ok" if free > 10 else "note", f"{folder.resolve()}: {free:.1f} GiB free")
