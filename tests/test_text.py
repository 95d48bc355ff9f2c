"""Free text and numbers are made fit for JSON, UTF-8 and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from slicemamba.files import save_figure
from slicemamba.text import ascii_name, displayable, figure_text, finite, to_json, well_formed


def test_numbers_that_are_not_finite_become_null_wherever_they_stand() -> None:
    values = {"a": math.nan, "b": [1.5, -math.inf, (math.inf,)], "c": {"d": np.float32("nan")}, "e": True}
    assert finite(values) == {"a": None, "b": [1.5, None, [None]], "c": {"d": None}, "e": True}
    assert json.loads(to_json(values)) == finite(values)
    assert to_json({"n": np.int64(3), "x": np.float32(0.5)}, compact=True) == '{"n":3,"x":0.5}'


def test_json_is_ascii_and_keeps_halves_of_characters() -> None:
    name = "über \ud800"
    assert to_json(name).isascii()
    assert json.loads(to_json(name)) == name


def test_name_for_what_takes_ascii_alone() -> None:
    assert ascii_name("run 1 (a)") == "run 1 (a)"
    assert ascii_name("über%") == "%C3%BCber%25"
    assert ascii_name("\udcff图") == "%FF%E5%9B%BE"


def test_what_an_older_version_stored_can_be_shown() -> None:
    assert displayable({"a\ud800": ["\udfff", 1, {"b": None}]}) == {"a?": ["?", 1, {"b": None}]}


def test_halves_of_characters_are_not_kept_in_text() -> None:
    assert well_formed("a\ud800ü") == "a?ü"


@pytest.mark.parametrize("name", ["x$y^$", "$", r"\$a$", "a\nb\tc", "$\\frac{$", "bad\udcff", "图像", "_{}^", "$$$"])
def test_every_name_can_be_drawn_and_dollars_are_dollars(tmp_path: Path, name: str) -> None:
    figure = Figure()
    text = figure.suptitle(figure_text(name))
    save_figure(figure, tmp_path / "a.png", dpi=50)
    assert text.get_text().replace(r"\$", "$").count("$") == name.count("$")
