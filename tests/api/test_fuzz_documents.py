"""Generated jobs, whole and broken, as files, as options and as requests: each is taken or refused with a pointer and
never met with a traceback, and the command line and REST agree on each.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from service_helpers import BODY, Bench

import slicemamba.cli
from api.cli import explain
from cluster import cli, driver
from cluster.config import SearchJob, check_document
from slicemamba.data.checks import check_dataset

NUM_JOBS, NUM_TEXTS, NUM_OTHERS = 700, 200, 150
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 3, 4, 8, 64, 10**9, 2**63, 10**400, 0.0, 0.5, -0.5, 1.5, 1e-300, 1e308,
    float("nan"), float("inf"), "", " ", "x", "dice", "dise", "2x2", "2x0", "c3", "c4", "-", "s1:2x2", "null", "1e-3",
    "١", "a" * 300, "ü", "\u202e", "a\nb", "a\0b", "\ud800", "$y^", "[bold]", "{0}", "../../etc", "2026-01-31", "yes",
    [], [[]], ["dice"], ["dice", "dice"], ["hd95", "flops"], [32, 32], [32, 33], [1, 2, 3], ["2x2", "4x4"], [None],
    {}, {"a": 1}, {"dice": {"min": 0.5}}, {"min": 1, "max": 0}, {"": {}}, {"num_train": 1}, {"epochs": 1},
)  # fmt: skip


def paths(values: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of all options, parts included."""
    found = [place] if place else []
    for key, value in values.items() if isinstance(values, dict) else ():
        found += paths(value, (*place, key))
    return found


FULL = SearchJob.model_validate(BODY).model_dump(mode="json")
PLACES = [place for place in paths(FULL) if place not in (("data", "root"), ("init",), ("search", "warm_start"))]


def put(values: dict[str, Any], place: tuple[Any, ...], value: Any) -> bool:
    """Sets one option; False where its part has become something else."""
    for key in place[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            return False
    values[place[-1]] = value
    return True


def misspelt(rng: random.Random, name: str) -> str:
    at = rng.randrange(len(name))
    return rng.choice([name[:at] + name[at + 1 :], name + "s", name.upper(), f"{name[:at]}_{name[at:]}"]) or "x"


def made(rng: random.Random) -> tuple[dict[str, Any], list[tuple[tuple[Any, ...], Any]]]:
    """A job with up to three changes, and those of them that may be given as options on the command line."""
    values, changes = copy.deepcopy(BODY), []
    for _ in range(rng.randrange(4)):
        place, value = rng.choice(PLACES), rng.choice(ODD)
        if rng.random() < 0.2:
            place = (*place[:-1], misspelt(rng, place[-1]))
        if rng.random() < 0.3:  # what is already there in another form
            value = rng.choice([str, lambda one: [one], lambda one: {"a": one}, lambda one: one])(FULL.get(place[0]))
        if put(values, place, value):
            changes.append((place, value))
    if rng.random() < 0.1:
        values["kind"] = rng.choice(["search", "serach", "retrain", "supernet", "pretrain", "audit", None, 3, []])
    return values, changes


@pytest.fixture(scope="module")
def command() -> Any:
    """``slicemamba``, put together once: typer would do so for each call."""
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    slicemamba.cli.register(app, check_document)
    return typer.main.get_command(app)


@pytest.fixture
def call(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The exit code of a command and what it says; a run ends where its data has been checked."""
    monkeypatch.setattr(driver, "run_job", lambda job, run, **__: driver._check_input(driver.with_paths(job), run))
    monkeypatch.setattr("cluster.summary.print_summary", lambda *_: None)
    monkeypatch.setattr("cluster.summary.print_scores", lambda *_: None)
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        try:
            ended = command.main(args=list(arguments), prog_name="slicemamba", standalone_mode=False)
        except Exception as error:
            told = explain(error)
            if told is None:  # a traceback
                raise
            return told[1], told[0]
        return ended or 0, ""

    return run


def test_command_line_and_rest_agree_on_generated_jobs(bench: Bench, call: Callable[..., tuple[int, str]]) -> None:
    rng = random.Random(19)
    accepted = 0
    for number in range(NUM_JOBS):
        values, changes = made(rng)
        options: list[str] = []
        file, in_file = Path(f"{number}.yaml"), values
        names = [".".join(place) for place, _ in changes]
        alone = changes and not any(
            one != other and (one == other or other.startswith(f"{one}.") or one.startswith(f"{other}."))
            for one in names
            for other in names
        )
        if alone and len(set(names)) == len(names) and number % 3 == 0:
            in_file = copy.deepcopy(BODY) | ({"kind": values["kind"]} if "kind" in values else {})
            for name, (_, value) in zip(names, changes, strict=True):
                options += ["--set", f"{name}={yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()}"]
        file.write_text(yaml.safe_dump(in_file), encoding="utf-8")
        code, said = call("search", str(file), "--out", "run", *options)
        answer = bench.http.post(
            "/v1/searches/validate", content=json.dumps(values), headers={"Content-Type": "application/json"}
        )
        context = (values, options, code, said, answer.status_code, answer.text)
        assert code in (0, 2), context
        assert answer.status_code in (200, 422), context
        assert (code == 0) == (answer.status_code == 200), context
        if code:
            found = answer.json()["errors"]
            assert found, context
            assert all(error["pointer"] is not None for error in found), context
        accepted += code == 0
    assert NUM_JOBS // 5 < accepted < NUM_JOBS  # else one of the two kinds is not tried


def test_broken_texts_are_refused_with_the_file(bench: Bench, call: Callable[..., tuple[int, str]]) -> None:
    rng = random.Random(20)
    whole = yaml.safe_dump(FULL | {"data": BODY["data"]})
    for number in range(NUM_TEXTS):
        text = bytearray(whole.encode())
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(4)] = bytes(rng.choices(b"\0\t\n:{}[]&*!|>%@`'\"\xff-0a ", k=rng.randrange(4)))
        if rng.random() < 0.3:
            del text[rng.randrange(len(text)) :]
        Path("broken.yaml").write_bytes(bytes(text))
        code, said = call("search", "broken.yaml", "--out", f"run-{number}")
        assert code in (0, 2), (bytes(text), said)
        if code:
            assert "broken.yaml" in said or "data" in said or "run" in said, (bytes(text), said)
        answer = bench.http.post(
            "/v1/searches/validate", content=bytes(text), headers={"Content-Type": "application/json"}
        )
        assert 400 <= answer.status_code < 500, (bytes(text), answer.text)


def test_other_commands_take_or_refuse_generated_jobs(call: Callable[..., tuple[int, str]]) -> None:
    rng = random.Random(21)
    commands = (
        ["train-supernet"], ["retrain", "--architecture", "2x2"], ["retrain", "--network", "unet"], ["pretrain"],
        ["data", "check", "--no-sheet"],
    )  # fmt: skip
    for number in range(NUM_OTHERS):
        values, _ = made(rng)
        file = Path(f"{number}.yaml")
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = commands[number % len(commands)]
        words, options = (command[:2], command[2:]) if command[0] == "data" else (command[:1], command[1:])
        out = [] if command[0] == "data" else ["--out", "run"]
        code, said = call(*words, str(file), *options, *out)
        assert code in (0, 2), (command, values, said)


def test_check_of_data_is_the_same_for_both(tmp_path: Path) -> None:
    """What the two tests above rest on: the data of ``BODY`` has no faults."""
    check_dataset(SearchJob.model_validate(BODY).data, cache_dir=tmp_path)
