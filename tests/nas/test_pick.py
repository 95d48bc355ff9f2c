"""Choosing a member of the frontier: for a budget, at its knee, or several spread over it."""

from __future__ import annotations

from typing import Any

import pytest

from nas.objectives import Bound
from nas.pick import chosen_members, knee, parse_bounds, pick
from slicemamba.errors import InputError

OBJECTIVES = ("dice", "flops")


def row(number: int, dice: float, flops: float, params: float = 1e6) -> dict[str, Any]:
    metrics = {"dice": dice, "flops": flops, "params": params}
    return {"number": number, "architecture": f"a{number}", "metrics": metrics}


FRONT = [row(4, 0.80, 460e6, 3e6), row(7, 0.79, 170e6, 2e6), row(2, 0.70, 150e6), row(9, 0.60, 100e6)]


@pytest.mark.parametrize(
    ("at_most", "at_least", "number"),
    [([], [], 4), (["flops=200M"], [], 7), (["flops=0.2G", "params=1e6"], [], 2), ([], ["dice=0.795"], 4)],
)
def test_the_best_within_the_limits_is_taken(at_most: list[str], at_least: list[str], number: int) -> None:
    assert pick(FRONT, OBJECTIVES, parse_bounds(at_most, at_least)).row["number"] == number


def test_what_is_lost_is_told_against_the_best() -> None:
    found = pick(FRONT, OBJECTIVES, {"flops": Bound(max=170e6)})
    assert found.best["number"] == 4
    assert found.lost == {"dice": pytest.approx(-0.01), "flops": -290e6}


def test_limits_that_no_member_meets_name_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        pick(FRONT, OBJECTIVES, parse_bounds(["flops=140M"], ["dice=0.75"]))
    text = str(caught.value)
    assert "no member of the frontier is within flops ≤ 140 M and dice ≥ 0.7500" in text
    assert "the nearest is trial 2 with flops 150 M, dice 0.7000" in text


def test_a_limit_of_the_wrong_side_is_told() -> None:
    with pytest.raises(InputError, match=r"dice is better the higher: did you mean --min dice=0.1\?"):
        pick(FRONT, OBJECTIVES, parse_bounds(["dice=0.1"], []))
    with pytest.raises(InputError, match=r"flops is better the lower: did you mean --max flops=9e\+12\?"):
        pick(FRONT, OBJECTIVES, parse_bounds([], ["flops=9000G"]))


def test_what_was_not_measured_cannot_be_limited() -> None:
    with pytest.raises(InputError, match="latency_ms was not measured in this search; bound some of dice, params"):
        pick(FRONT, OBJECTIVES, {"latency_ms": Bound(max=5)})
    with pytest.raises(InputError, match="no frontier yet"):
        pick([], OBJECTIVES, {})


@pytest.mark.parametrize("text", ["latency=20", "latency_ms", "latency_ms=", "params=2T", "params=two", "=3"])
def test_limits_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="must look like latency_ms=20 or params=2M"):
        parse_bounds([text], [])


def test_limits_that_exclude_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="contradict"):
        parse_bounds(["dice=0.5"], ["dice=0.8"])
    assert parse_bounds(["dice=0.9", "params=35k"], ["dice=.8"]) == {
        "dice": Bound(min=0.8, max=0.9),
        "params": Bound(max=35e3),
    }


def test_knee_gives_up_little_for_much() -> None:
    assert knee(FRONT, OBJECTIVES)["number"] == 7
    assert knee(FRONT[:1], OBJECTIVES)["number"] == 4


@pytest.mark.parametrize(
    ("wanted", "numbers"), [("all", [4, 7, 2, 9]), ("knee", [7]), ("1", [4]), ("2", [4, 9]), ("9", [4, 7, 2, 9])]
)
def test_several_members_are_spread_over_the_front(wanted: str, numbers: list[int]) -> None:
    assert [one["number"] for one in chosen_members(FRONT, OBJECTIVES, wanted)] == numbers


@pytest.mark.parametrize("wanted", ["0", "-1", "best", ""])
def test_other_members_are_refused(wanted: str) -> None:
    with pytest.raises(InputError, match="must be all, knee or a number"):
        chosen_members(FRONT, OBJECTIVES, wanted)
