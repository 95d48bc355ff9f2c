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

import psycopg
import pytest

from cluster.local import free_ports

USER = "slicemamba"


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the server's URL without a database's name; skips the test where PostgreSQL is not installed."""
    programs = _find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server programs (initdb, pg_ctl); install the package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="slicemamba-pg-"))
    account = _account()
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    port = free_ports(1)[0]

    def run(program: str, *arguments: str) -> None:
        who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command = [programs / program, "-D", folder / "data", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60, **who)

    try:
        run("initdb", "--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "--wait", "--options", options, "--log", str(folder / "log"))
        try:
            yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "stop", "--mode", "immediate", "--wait")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
