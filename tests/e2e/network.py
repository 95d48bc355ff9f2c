"""Hosts on one machine: each has its own network, processes, name and temporary files, and a wire to a lossy switch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

_SUBNET = "10.213.77"
_SWITCH = Path(__file__).with_name("lossy_switch.py")
_READY_SECONDS = 60.0
_NICENESS = -10
# Its first process names it, and then adopts and buries what others leave behind, as an init does.
_INIT = 'hostname "$1" && ip link set lo up && while :; do sleep 1; done'


def missing_for_network() -> str | None:
    """What this machine lacks for hosts of their own; None where all is there."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = [tool for tool in ("ip", "unshare", "nsenter", "hostname") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} not installed (iproute2, util-linux, hostname)"
    return None if Path("/dev/net/tun").exists() else "no /dev/net/tun"


class Host:
    """A host, for as long as its first process lives.

    Attributes:
        name, address: of it. pid: of its first process, with which all others of the host end.
    """

    def __init__(self, name: str, address: str, pid: int) -> None:
        self.name = name
        self.address = address
        self.pid = pid

    def command(self, command: Sequence[str]) -> list[str]:
        """The command as one that runs on this host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--pid", "--mount", "--", *command]

    def start(self, command: Sequence[str], *, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Starts a process that lives as long as the host at most."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(command), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def runs(self, process: psutil.Process) -> bool:
        """Whether a process of this machine is one of the host's."""
        return Path(f"/proc/{process.pid}/ns/net").readlink() == Path(f"/proc/{self.pid}/ns/net").readlink()


class Network:
    """Hosts that reach one another, and this process them, by way of the switch."""

    def __init__(self, hosts: dict[str, Host], switch: subprocess.Popen[str]) -> None:
        self.hosts = hosts
        self._switch = switch

    def set_conditions(
        self, cut: Sequence[tuple[str, str]] = (), loss: float = 0.0, delay_seconds: float = 0.0
    ) -> None:
        """From now on; without arguments the network is whole and fast."""
        assert self._switch.stdin is not None
        conditions = {"cut": list(cut), "loss": loss, "delay": delay_seconds}
        self._switch.stdin.write(json.dumps(conditions) + "\n")
        self._switch.stdin.flush()


@contextmanager
def network(names: Sequence[str], own_files: Path) -> Iterator[Network]:
    """Hosts of these names.

    Args:
        own_files: an empty folder under which each of them sees files of its own.
    """
    with ExitStack() as stack:
        switch = stack.enter_context(_switch([*names, "outside"]))
        assert switch.stdout is not None
        taps = json.loads(switch.stdout.readline())
        _join(taps["outside"], f"{_SUBNET}.{len(names) + 1}")
        hosts = {}
        for number, name in enumerate(names, 1):
            host = Host(name, f"{_SUBNET}.{number}", stack.enter_context(_first_process(name)))
            subprocess.run(["ip", "link", "set", taps[name], "netns", str(host.pid)], check=True)
            _join(taps[name], host.address, host.command([]))
            subprocess.run(host.command(["mount", "-t", "tmpfs", name, str(own_files)]), check=True)
            hosts[name] = host
        yield Network(hosts, switch)


@contextmanager
def _switch(names: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(_SWITCH), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with contextlib.suppress(psutil.Error):  # a wire does not wait for the processor
        psutil.Process(process.pid).nice(_NICENESS)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _first_process(name: str) -> Iterator[int]:
    """Process id, as seen from outside, of the first process in namespaces of its own."""
    flags = ["--net", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
    parent = subprocess.Popen(["unshare", *flags, "sh", "-c", _INIT, "sh", name], stdin=subprocess.DEVNULL)
    try:
        yield _only_child(parent.pid)
    finally:
        parent.kill()
        parent.wait()


def _only_child(pid: int) -> int:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if child.name() == "sh" and child.children():  # it sleeps, so it is set up
                    return child.pid
        time.sleep(0.05)
    raise AssertionError("a host does not come up")


def _join(tap: str, address: str, on_host: Sequence[str] = ()) -> None:
    subprocess.run([*on_host, "ip", "address", "add", f"{address}/24", "dev", tap], check=True)
    subprocess.run([*on_host, "ip", "link", "set", tap, "up"], check=True)
