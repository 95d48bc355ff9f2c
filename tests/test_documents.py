"""Nothing in a user's document is lost in silence, and no document ends a command with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicemamba.documents import override, parse_yaml, read_yaml
from slicemamba.errors import InputError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:\n  name: a\nmodel: {}\ndata:\n  root: /b\n", "'data' is given twice, in lines 1 and 4"),
        ("search:\n  seed: 1\n  num_trials: 2\n  seed: 3\n", "'seed' is given twice, in lines 2 and 4"),
        ("train: {epochs: 1, epochs: 2}", "'epochs' is given twice, in lines 1 and 1"),
        ('{"a": {"b": 1,\n "b": 2}}', "'b' is given twice, in lines 1 and 2"),
        ("1: a\n1: b\n", "1 is given twice, in lines 1 and 2"),
        ("[" * 3000, "more than 50 levels"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "more than 50 levels"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("? [a, b]\n: c\n", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    ],
)
def test_what_would_be_lost_or_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is not valid YAML") as caught:
        read_yaml(file)
    assert said in str(caught.value)
    assert "job.yaml" in str(caught.value)


def test_merged_keys_may_be_given_anew_and_dates_are_text() -> None:
    text = "base: &base {epochs: 1, seed: 2}\nretrain:\n  <<: *base\n  epochs: 5\nname: 2026-01-31\n"
    assert parse_yaml(text) == {
        "base": {"epochs": 1, "seed": 2},
        "retrain": {"epochs": 5, "seed": 2},
        "name": "2026-01-31",
    }


@pytest.mark.parametrize(
    "assignments", [["a.b=1", "a.b=2"], ["a.b=1", "a={c: 2}"], ["a={b: 1, b: 2}"], ["a..b=1"], [".a=1"], ["a.=1"]]
)
def test_override_that_would_be_lost_is_refused(assignments: list[str]) -> None:
    with pytest.raises(InputError, match="override"):
        override({}, assignments)


def test_override_may_refine_an_earlier_one_and_replace_null() -> None:
    assert override({"retrain": None}, ["data={name: a}", "data.root=/b", "retrain.epochs=3"]) == {
        "retrain": {"epochs": 3},
        "data": {"name": "a", "root": "/b"},
    }
