"""Configurations by their names, for those who have the package and no checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slicemamba import cli
from slicemamba.documents import read_yaml
from slicemamba.errors import InputError
from slicemamba.presets import CONFIGS, find_config, list_presets, preset_text


def test_a_bare_name_is_the_packages_configuration_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_yaml(Path("kvasir"))["name"] == "kvasir"


def test_files_go_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kvasir").write_text("name: mine")
    assert read_yaml(Path("kvasir")) == {"name": "mine"}
    for other in ("kvasir.yaml", "configs/kvasir", "./nowhere/kvasir"):
        assert find_config(Path(other)) == Path(other)


def test_an_unknown_name_is_told_where_the_names_are() -> None:
    with pytest.raises(
        InputError, match=r"kvazir does not exist; did you mean kvasir\? Otherwise .*slicemamba config list"
    ):
        read_yaml(Path("kvazir"))
    with pytest.raises(InputError, match=r"mine\.yaml does not exist; give the path"):
        read_yaml(Path("mine.yaml"))
    with pytest.raises(InputError, match=r"one of clinicdb, .*uwf_rhs; got '\.\./pyproject'"):
        preset_text("../pyproject")


def test_the_command_lists_and_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    cli.register(app)
    listed = CliRunner().invoke(app, ["config", "list"], catch_exceptions=False)
    for name, heading in list_presets().items():
        assert name in listed.stdout
        assert heading in listed.stdout
    shown = CliRunner().invoke(app, ["config", "show", "laptop"], catch_exceptions=False)
    assert shown.stdout == (CONFIGS / "laptop.yaml").read_text(encoding="utf-8")
