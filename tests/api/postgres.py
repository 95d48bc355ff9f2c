"""A PostgreSQL server of the tests' own, from the system's packages, on a private port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cluster.local import free_ports

USER = "slicemamba"


class PostgresServer:
    """A running server, which can be stopped and started again.

    Attributes:
        url: without a database's name.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs, self._port = folder, programs, free_ports(1)[0]
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{self._port}"
        account = _account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._who: dict[str, Any] = (
            {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        )
        self._run("initdb", "--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8")

    def start(self) -> None:
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        )
        self._run("pg_ctl", "start", "--wait", "--options", options, "--log", str(self._folder / "log"))

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode", "immediate", "--wait")

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self._folder / "data", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, timeout=180, **self._who)


@contextmanager
def restartable_server() -> Iterator[PostgresServer]:
    """Yields a running server, and stops it at the end; skips the test where PostgreSQL is not installed."""
    programs = _find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs (initdb, pg_ctl); install the package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="slicemamba-pg-"))
    try:
        server = PostgresServer(folder, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL, without a database's name, of a server as of ``restartable_server``."""
    with restartable_server() as server:
        yield server.url


def create_database(server: str, name: str) -> str:
    """Makes an empty database; returns its URL."""
    with psycopg.connect(f"{server.replace('+psycopg', '')}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"{server}/{name}"


def _find_programs() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to be run by root; then the account of its package, or else nobody, runs it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL cannot be run by root, and there is no other account")
