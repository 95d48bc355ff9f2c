"""What the pages name exists: links, commands, targets, variables, messages; and every option says what it means."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pages import DOCS, ROOT, blocks

from api.cli import app
from docs.generators import commands, configuration, pictures, rest

PACKAGES = ("slicemamba", "nas", "cluster", "api")
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
SHELLS = ("sh", "bash", "console", "")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """In the sources as they stand. MkDocs checks the anchors, and does not see the README's links."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and "://" not in target:
            assert (page.parent / path).exists(), f"{_name(page)} links to {target}"


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_commands_exist(page: Path) -> None:
    """Subcommands and options of ``slicemamba`` in blocks of commands."""
    for words in _calls(page, "slicemamba"):
        command: Any = typer.main.get_command(app)
        while words and getattr(command, "commands", None):
            assert words[0] in command.commands, f"{_name(page)}: slicemamba has no command {words[0]!r}"
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        unknown = given - known - {"--help"}
        assert not unknown, f"{_name(page)}: slicemamba {command.name} has no option {', '.join(unknown)}"


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in _calls(page, "make"):
        assert set(words[:1]) <= targets, f"{_name(page)}: make {words[0]}"


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_modules_and_files_exist(page: Path) -> None:
    for words in _calls(page, "python"):
        if words[:1] == ["-m"] and words[1].partition(".")[0] in (*PACKAGES, "benchmarks", "docs"):
            path = ROOT / words[1].replace(".", "/")
            assert path.with_suffix(".py").exists() or path.is_dir(), f"{_name(page)}: python -m {words[1]}"
    for path in re.findall(
        r"`((?:slicemamba|nas|cluster|api|tests|benchmarks|configs|docs)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / path).exists() or _made_by(page, path), f"{_name(page)} names {path}"


def test_variables_are_documented() -> None:
    told = " ".join(page.read_text(encoding="utf-8") for page in TEXTS) + configuration.page()
    used = {name for text in _literals() for name in re.findall(r"\bSLICEMAMBA_[A-Z_]+[A-Z]\b", text)}
    assert len(used) > 10
    assert {name for name in used if name not in told} == set()


def test_messages_are_those_of_the_code() -> None:
    """Each message quoted on the page of failures stands in the code, ``…`` for what is put in."""
    page = (DOCS / "operations/failures.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| ")]
    cells = [row[2] if row[1].strip().isdigit() else row[1] for row in rows]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) if " " in message]
    assert len(messages) > 30
    texts = list(_literals())
    missing = [message for message in messages if not any(_says(text, message) for text in texts)]
    assert missing == []


@pytest.mark.parametrize(
    "section", configuration.sections(), ids=lambda s: f"{s.path or s.kinds[0]}-{s.model.__name__}"
)
def test_every_option_says_what_it_means(section: configuration.Section) -> None:
    rows = [row for row in configuration.table(section.model).splitlines()[2:] if row.rstrip().endswith("|  |")]
    assert rows == [], f"describe these in the docstring of {section.model.__name__}, under Attributes:"


def test_references_hold_what_there_is() -> None:
    job = configuration.page()
    assert "| `num_trials` | integer ≥ 1 | `1000` | architectures to evaluate" in job
    assert "| `SLICEMAMBA_PORT` | integer ≥ 0, ≤ 65535 | `8000` |" in job
    assert "## `slicemamba cross-validate`" in commands.page()
    endpoints = rest.page()
    assert "### POST /v1/searches { #post-v1-searches " in endpoints
    assert "[Problem](#problem)" in endpoints
    assert "### Problem" in endpoints


def test_pictures_are_drawn_and_small(tmp_path: Path) -> None:
    drawn = pictures.draw(tmp_path)
    stored = {path.name: path.stat().st_size for path in pictures.FOLDER.iterdir()}
    assert set(stored) == {path.name for path in drawn}
    assert all(path.stat().st_size > 1000 for path in drawn)
    assert max(stored.values()) < 100_000


def _calls(page: Path, program: str) -> Iterator[list[str]]:
    """Words after the program's name in each call of it in the page's blocks of commands."""
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in re.split(r";|&&|\$\(|\|", line.split(" #")[0]):
                words = re.sub(r"^\s*\$\s+", "", part).strip()
                if words.startswith(f"{program} "):
                    yield _words(words)[1:]


def _words(line: str) -> list[str]:
    try:
        return [word for word in shlex.split(line) if word != "…"]
    except ValueError:  # a quotation that goes on in the next line
        return line.split()


def _made_by(page: Path, path: str) -> bool:
    return any(block.title == path for block in blocks(page))


def _literals() -> Iterator[str]:
    """Texts in the code; what is put into one is an ellipsis."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def _says(text: str, message: str) -> bool:
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    return re.search(".*?".join(map(re.escape, pieces)), text, re.DOTALL) is not None
