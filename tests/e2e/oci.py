"""Containers of an image that buildah has built, as Compose would start them, by runc: no daemon and no registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = 1000
_STOP_SECONDS = 60


def missing_for_containers() -> str | None:
    """What this machine lacks; None where all is there."""
    tools = [tool for tool in ("buildah", "runc") if shutil.which(tool) is None]
    return f"{', '.join(tools)} not installed" if tools else None


@dataclass(frozen=True)
class Image:
    """An image, with its file system mounted.

    Attributes:
        root: the mounted file system. config: as of the OCI image specification.
    """

    root: Path
    config: Mapping[str, Any]


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """The image of this name from buildah's store, for as long as the block runs."""
    container = _tell("buildah", "from", name)
    try:
        config = json.loads(_tell("buildah", "inspect", "--type", "image", name))["OCIv1"]["config"]
        yield Image(Path(_tell("buildah", "mount", container)), config)
    finally:
        _tell("buildah", "rm", container)


def _tell(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Container:
    """A container that runs: as user 1000, its file system read-only, without capabilities or new privileges."""

    def __init__(self, name: str, folder: Path, log: Path) -> None:
        self._name, self._folder, self.log = name, folder, log
        with log.open("ab") as output:
            command = ["runc", "run", f"--bundle={folder}", name]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def run(self, *command: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs one more command in it."""
        given = [part for one in self._environment() for part in ("--env", one)]
        whole = ["runc", "exec", f"--user={USER}:{USER}", *given, self._name, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout, check=False)

    def _environment(self) -> list[str]:
        found: list[str] = json.loads((self._folder / "config.json").read_text())["process"]["env"]
        return found

    def stop(self) -> None:
        """As ``docker stop`` does: asks, and then kills."""
        subprocess.run(["runc", "kill", self._name, "TERM"], check=False, capture_output=True)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            subprocess.run(["runc", "delete", "--force", self._name], check=False, capture_output=True)
            self.process.wait(_STOP_SECONDS)


@contextmanager
def container(
    image: Image,
    name: str,
    folder: Path,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str],
    volumes: Mapping[Path, str],
    network: int,
) -> Iterator[Container]:
    """Runs one until the block ends.

    Args:
        folder: for its bundle and log. command: in place of the image's own. volumes: folders and where they appear.
        network: process whose network it shares.
    """
    folder.mkdir()
    config = image.config
    own = dict(pair.split("=", 1) for pair in config["Env"]) | {"HOME": config["WorkingDir"]} | environment
    spec = {
        "ociVersion": "1.0.0",
        "hostname": name,
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": [*config["Entrypoint"], *(command or config["Cmd"])],
            "env": [f"{key}={value}" for key, value in own.items()],
            "cwd": config["WorkingDir"],
            "noNewPrivileges": True,
        },
        "mounts": [*_SYSTEM, *(_bind(source, target) for source, target in volumes.items())],
        "linux": {
            "namespaces": [
                {"type": "network", "path": f"/proc/{network}/ns/net"},
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
            ]
        },
    }
    (folder / "config.json").write_text(json.dumps(spec, indent=1))
    running = Container(f"slicemamba-{os.getpid()}-{name}", folder, folder / "log")
    try:
        yield running
    finally:
        running.stop()


def _bind(source: Path, target: str) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "destination": target, "options": ["rbind", "rw"]}


def _memory(target: str, mode: str, size: str) -> dict[str, Any]:
    options = ["nosuid", f"mode={mode}", f"size={size}"]
    return {"type": "tmpfs", "source": "tmpfs", "destination": target, "options": options}


_SYSTEM = [
    {"type": "proc", "source": "proc", "destination": "/proc"},
    _memory("/dev", "755", "65536k"),
    {"type": "devpts", "source": "devpts", "destination": "/dev/pts", "options": ["newinstance", "ptmxmode=0666"]},
    _memory("/dev/shm", "1777", "2g"),
    {"type": "sysfs", "source": "sysfs", "destination": "/sys", "options": ["nosuid", "noexec", "nodev", "ro"]},
    _memory("/tmp", "1777", "4g"),
]
