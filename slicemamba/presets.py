"""The configurations that travel with the package: the folder ``configs`` beside it, installed or in a checkout."""

from __future__ import annotations

import difflib
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def list_presets() -> dict[str, str]:
    """Names, each with the first line of the comment that heads the file."""
    return {path.stem: _heading(path) for path in sorted(CONFIGS.glob("*.yaml"))}


def find_config(path: Path) -> Path:
    """``path`` itself, or the configuration that it names where it is a bare name (``kvasir``) and no file."""
    preset = CONFIGS / f"{path}.yaml"
    bare = str(path) == path.stem
    return preset if bare and not path.is_file() and preset.is_file() else path


def complete_preset(incomplete: str) -> list[str]:
    """For the shell's completion; none where a path is typed."""
    return [name for name in list_presets() if name.startswith(incomplete)]


def advise_on(path: Path) -> str:
    """The configuration that is spelt much like ``path``, as the beginning of a sentence; else nothing."""
    near = difflib.get_close_matches(str(path), list_presets(), n=1)
    return f"did you mean {near[0]}? Otherwise " if near else ""


def _heading(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
