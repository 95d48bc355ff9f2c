"""A demonstration keeps the earlier one until it has succeeded itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from api.commands import demo
from slicemamba.errors import InputError


def ends_with(succeeded: bool):  # type: ignore[no-untyped-def]
    """A demonstration that leaves its folder's name as its result."""

    def run(out: Path, *_: object) -> bool:
        (out / "logs").mkdir()
        (out / "logs" / "ray.log").touch()
        (out / "result.json").write_text("new" if succeeded else "half")
        return succeeded

    return run


def start(out: Path) -> int:
    return demo.run_demo(out, None, Console(file=io.StringIO()))


def test_earlier_results_are_kept_until_there_are_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(demo, "_run", ends_with(True))
    assert start(out) == 0
    (out / "result.json").write_text("first")
    monkeypatch.setattr(demo, "_run", ends_with(False))
    assert start(out) == 1
    assert start(out) == 1  # what failed before is replaced
    assert (out / "result.json").read_text() == "first"
    assert (tmp_path / "out.new" / "logs" / "ray.log").exists()  # to see why
    monkeypatch.setattr(demo, "_run", ends_with(True))
    assert start(out) == 0
    assert (out / "result.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_run", ends_with(True))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="do not belong to a demonstration"):
        start(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
