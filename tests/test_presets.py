"""Configurations by their names, for those who have the package and no checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from slicemamba import cli
from slicemamba.documents import read_yaml
from slicemamba.errors import InputError
from slicemamba.presets import CONFIGS, find_config, list_presets


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


def test_the_command_lists_and_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    cli.register(app)
    listed = CliRunner().invoke(app, ["config", "list"], catch_exceptions=False)
    for name, heading in list_presets().items():
        assert name in listed.stdout
        assert heading in listed.stdout
    assert show("laptop") == (CONFIGS / "laptop.yaml").read_text(encoding="utf-8")


def show(*arguments: str) -> str:
    app = typer.Typer()
    cli.register(app)
    return CliRunner().invoke(app, ["config", "show", *arguments], catch_exceptions=False).stdout


def test_a_file_is_shown_with_what_is_set_as_yaml_or_as_the_service_takes_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# of mine\nname: Größe\nsearch: {num_trials: 8}\n")
    assert show(str(mine)) == mine.read_text()
    changed = {"name": "Größe", "search": {"num_trials": 9}}
    assert yaml.safe_load(show(str(mine), "--set", "search.num_trials=9")) == changed
    assert json.loads(show(str(mine), "--set", "search.num_trials=9", "--json")) == changed
    with pytest.raises(InputError, match="must look like"):
        show(str(mine), "--set", "nothing")
