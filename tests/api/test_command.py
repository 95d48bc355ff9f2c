"""The command as a whole: what it shows of itself, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local import StartedHead, started
from slicemamba.errors import RunFailedError

_KILLED = """
import os, signal
from api.cli import _end_in_order
signal.signal(signal.SIGHUP, {hangup})
_end_in_order()
try:
    os.kill(os.getpid(), signal.{number})
except KeyboardInterrupt:
    print("stops what it has started")
else:
    print("goes on")
"""


@pytest.mark.parametrize(
    ("number", "hangup", "said"),
    [
        ("SIGTERM", "signal.SIG_DFL", "stops what it has started"),
        ("SIGHUP", "signal.SIG_DFL", "stops what it has started"),
        ("SIGHUP", "signal.SIG_IGN", "goes on"),  # under nohup
    ],
)
def test_a_closed_terminal_and_kill_end_a_command_as_an_interrupt_does(number: str, hangup: str, said: str) -> None:
    code = _KILLED.format(number=number, hangup=hangup)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_a_head_that_has_stopped_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    with started([sys.executable, "-c", "print('out of memory'); input()"], environment={}, log=log) as process:
        process.wait()
        with pytest.raises(RunFailedError, match=r"Ray has stopped; the end of .*ray\.log:(\n.*)*out of memory"):
            StartedHead("", "", "", "", {}, process, log).check()


def test_version_and_groups_of_commands() -> None:
    from typer.testing import CliRunner

    from api.cli import app
    from slicemamba import __version__

    assert CliRunner().invoke(app, ["--version"]).stdout == f"slicemamba {__version__}\n"
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    places = [shown.index(title) for title in ("Get started", "Search and train", "Evaluate and use", "Service")]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown, "every command has a group"


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path) -> None:
    from api.cli import explain

    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "inside").mkdir()
    said = f"{tmp_path / 'file' / 'inside'} cannot be used: not a directory; choose another path, or fix this one"
    assert explain(caught.value) == (said, 2)
    assert explain(OSError("without a file")) is None
    assert explain(FileNotFoundError(2, "No such file or directory", "config.json")) is None, "may be a fault of ours"
