"""Which network of a frontier to take for a budget, and which ones to show. Imports neither torch nor Ray."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nas.objectives import OBJECTIVES, Bound, format_value, loss_matrix, violation
from slicemamba.errors import InputError

Metrics = Mapping[str, float]
Row = Mapping[str, Any]
T = TypeVar("T")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kMG]?)\s*", re.IGNORECASE)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Pick:
    """The member to take.

    Attributes:
        row: of the frontier: ``number``, ``architecture``, ``metrics``.
        best: the row of the best in the first objective, within the bounds or not.
        lost: by objective, the row's value less the best's.
    """

    row: Row
    best: Row
    lost: dict[str, float]


def parse_bounds(at_most: Iterable[str], at_least: Iterable[str]) -> dict[str, Bound]:
    """``["params=2M"]``, ``["dice=0.8"]`` → bounds by metric. Raises InputError for another form or metric."""
    limits: dict[str, dict[str, float]] = {}
    for end, texts in (("max", at_most), ("min", at_least)):
        for text in texts:
            name, equals, value = text.partition("=")
            found = _NUMBER.fullmatch(value)
            if not equals or found is None or name.strip() not in OBJECTIVES:
                raise InputError(
                    f"{end} must look like latency_ms=20 or params=2M, with one of {', '.join(OBJECTIVES)}; "
                    f"got {text!r}"
                )
            limits.setdefault(name.strip(), {})[end] = float(found[1]) * _UNITS[found[2].lower()]
    try:
        return {name: Bound(**ends) for name, ends in limits.items()}
    except ValueError as error:
        raise InputError(f"the bounds contradict one another: {error}") from None


def pick(members: Sequence[Row], objectives: Sequence[str], bounds: Mapping[str, Bound]) -> Pick:
    """Of the members within all bounds, the best in the first objective.

    Args:
        members: of the frontier, the best in the first objective first. bounds: by metric.

    Raises:
        InputError: a bounded metric was not measured; or no member is within the bounds, with the nearest.
    """
    if not members:
        raise InputError("the search has no frontier yet, so there is nothing to pick from")
    unknown = [name for name in bounds if any(name not in row["metrics"] for row in members)]
    if unknown:
        known = [name for name in OBJECTIVES if all(name in row["metrics"] for row in members)]
        raise InputError(f"{', '.join(unknown)} was not measured in this search; bound some of {', '.join(known)}")
    excess = [violation(row["metrics"], bounds) for row in members]  # type: ignore[arg-type]
    losses = loss_matrix([row["metrics"] for row in members], objectives[:1])[:, 0]
    within = [place for place in range(len(members)) if excess[place] == 0]
    if not within:
        nearest = members[int(np.argmin(excess))]
        raise InputError(
            f"no member of the frontier is within {_in_words(bounds)}; the nearest is trial {nearest['number']} with "
            + ", ".join(f"{name} {format_value(name, nearest['metrics'][name])}" for name in bounds)
            + "; loosen the bounds, or search with search.constraints"
            + "".join(_turned(name, bound) for name, bound in bounds.items())
        )
    chosen, best = members[min(within, key=lambda place: losses[place])], members[int(np.argmin(losses))]
    lost = {name: chosen["metrics"][name] - best["metrics"][name] for name in objectives}
    return Pick(chosen, best, lost)


def _turned(name: str, bound: Bound) -> str:
    """A hint where what is better the higher has an upper limit alone, or the other way round."""
    higher = OBJECTIVES[name].direction == "maximize"
    if (bound.max is None if higher else bound.min is None) or None not in (bound.min, bound.max):
        return ""
    way, limit = ("higher", f"--min {name}={bound.max:g}") if higher else ("lower", f"--max {name}={bound.min:g}")
    return f"; {name} is better the {way}: did you mean {limit}?"


def _in_words(bounds: Mapping[str, Bound]) -> str:
    ends = []
    for name, bound in bounds.items():
        ends += [f"{name} ≥ {format_value(name, bound.min)}"] if bound.min is not None else []
        ends += [f"{name} ≤ {format_value(name, bound.max)}"] if bound.max is not None else []
    return " and ".join(ends)


def knee(members: Sequence[Row], objectives: Sequence[str]) -> Row:
    """The member where giving up more of one objective starts to bring little of the others.

    The farthest from the plane through the best values of each objective alone, on the frontier scaled to 0…1: the one
    with the least sum of scaled losses.
    """
    losses = loss_matrix([row["metrics"] for row in members], objectives)
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
    return members[int(np.argmin(scaled.sum(axis=1)))]


def chosen_members(members: Sequence[Row], objectives: Sequence[str], wanted: str) -> list[Row]:
    """Those to retrain: ``all``, ``knee``, or a number of them spread evenly over the frontier, its ends first.

    Raises:
        InputError: something else is wanted, or there is no member.
    """
    if not members:
        raise InputError("the search has no frontier yet, so there is no member to take")
    if wanted == "all":
        return list(members)
    if wanted == "knee":
        return [knee(members, objectives)]
    if not wanted.isdecimal() or int(wanted) < 1:
        raise InputError(f"members must be all, knee or a number of 1 or more; got {wanted!r}")
    return spread(members, int(wanted))


def spread(members: Sequence[T], most: int) -> list[T]:
    """So many of a frontier's members, spread evenly over it, its ends first; all where there are no more."""
    places = np.linspace(0, len(members) - 1, min(most, len(members))).round().astype(int)
    return [members[place] for place in dict.fromkeys(places.tolist())]
