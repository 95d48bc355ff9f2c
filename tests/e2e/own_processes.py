"""Processes of one test, found by a variable of their environment."""

from __future__ import annotations

import contextlib

import psutil


def started_with(environment: dict[str, str]) -> list[list[str]]:
    """Commands of processes that run in it, however deep; the folder of its cache is of one test alone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("SLICEMAMBA_CACHE") == environment["SLICEMAMBA_CACHE"]:
                found.append(process.cmdline())
    return found
