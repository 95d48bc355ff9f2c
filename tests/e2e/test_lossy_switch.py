"""The network of the partition tests does what they ask of it: else they would show nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network import Network, missing_for_network, network

_MISSING = missing_for_network()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,  # beside the partition tests, whose addresses it has
    pytest.mark.skipif(_MISSING is not None, reason=f"hosts of their own are not to be had: {_MISSING}"),
]

# Sends each datagram back, and tells when it listens.
_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7))
print("listens", flush=True)
while True:
    server.sendto(*server.recvfrom(64))
"""
# Sends datagrams and counts those that come back until none has come for two seconds; and how long the first took.
_ASK = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
began, count, first = time.monotonic(), 0, 0.0
for _ in range(int(sys.argv[2])):
    client.sendto(b"x", (sys.argv[1], 7))
    time.sleep(0.001)
client.settimeout(2)
try:
    while client.recv(64):
        count, first = count + 1, first or time.monotonic() - began
except TimeoutError:
    print(count, first)
"""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    with network(["a", "b", "c"], tmp_path) as found:
        echoes = []
        for name in ("b", "c"):
            command = found.hosts[name].command([sys.executable, "-c", _ECHO])
            echo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert echo.stdout is not None
            assert echo.stdout.readline() == "listens\n"
            echoes.append(echo)
        yield found
    for echo in echoes:
        echo.communicate()


def ask(net: Network, name: str, times: int) -> tuple[int, float]:
    """How many of the datagrams from host a came back, and after how many seconds the first."""
    command = net.hosts["a"].command([sys.executable, "-c", _ASK, net.hosts[name].address, str(times)])
    count, first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(count), float(first)


def test_hosts_are_cut_off_from_one_another_slowed_and_lose(net: Network) -> None:
    assert ask(net, "b", 10)[0] == 10
    net.set_conditions(cut=[("a", "b")])
    assert ask(net, "b", 10)[0] == 0
    assert ask(net, "c", 10)[0] == 10
    net.set_conditions(delay_seconds=0.3)
    count, first = ask(net, "b", 10)
    assert count == 10
    assert first >= 0.6
    net.set_conditions(loss=0.1)
    assert 135 <= ask(net, "b", 200)[0] <= 190  # 0.9² of them are 162
    net.set_conditions()
    assert ask(net, "b", 10)[0] == 10


def test_host_has_a_name_processes_and_files_of_its_own(net: Network, tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    seen = ["sh", "-c", 'hostname; ls "$1"; echo $$', "sh", str(tmp_path)]
    said = [subprocess.run(net.hosts[name].command(seen), capture_output=True, text=True) for name in ("a", "b")]
    names = [each.stdout.split() for each in said]
    assert [words[0] for words in names] == ["a", "b"]
    assert all(len(words) == 2 and int(words[1]) < 100 for words in names)
