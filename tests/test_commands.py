"""Commands that are told to users can be copied."""

from __future__ import annotations

import shutil
import sys

import pytest

from slicemamba.commands import command_line


@pytest.mark.parametrize(
    ("called", "on_path", "expected"),
    [
        (".venv/bin/slicemamba", False, ".venv/bin/slicemamba audit 'my runs/first'"),
        (".venv/bin/slicemamba", True, "slicemamba audit 'my runs/first'"),
        ("/src/api/cli.py", False, "slicemamba audit 'my runs/first'"),  # python -m api.cli
    ],
)
def test_the_program_is_named_so_that_the_shell_finds_it(
    monkeypatch: pytest.MonkeyPatch, called: str, on_path: bool, expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if on_path else None)
    assert command_line("audit", "my runs/first") == expected
