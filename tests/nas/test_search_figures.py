"""Figures of a search are written for any number of objectives, with whatever trials there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from search_cases import SPACE, score

from nas.report import plot_pareto, plot_slicing
from nas.report_figures import front_figure
from nas.study import Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture


def trial(number: int, state: TrialState = TrialState.COMPLETED, origin: str = "evolution") -> Trial:
    architecture = SPACE.decode([number >> bit & 1 for bit in range(6)])
    done = state is TrialState.COMPLETED
    return Trial(
        number=number,
        state=state,
        architecture=str(architecture),
        origin=origin,
        metrics=score(architecture) if done else {},
        asked_after=number,
        ended_as=number,
    )


SEARCH = [
    trial(0, origin="fixed"),
    *(trial(number) for number in (3, 21, 22, 42, 7)),
    trial(8, TrialState.FAILED),
    trial(9, TrialState.RUNNING),
    trial(63, origin="fixed"),
]
RANDOM = [trial(number, origin="random") for number in (11, 12, 13)] + [trial(14, TrialState.INFEASIBLE)]


def read(file: Path) -> NDArray[np.uint8]:
    """The picture's pixels; a PNG of another kind or cut short is an error."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("objectives", [("miou",), ("miou", "hd95"), ("hd95", "miou", "latency_ms")])
@pytest.mark.parametrize("random", [[], RANDOM], ids=["alone", "with random"])
def test_frontier_has_a_panel_a_further_objective(
    tmp_path: Path, objectives: tuple[str, ...], random: list[Trial]
) -> None:
    plot_pareto(tmp_path / "pareto.png", SEARCH, objectives, random=random)
    picture = read(tmp_path / "pareto.png")
    panels = max(1, len(objectives) - 1)
    assert picture.shape == (690, 840 * panels + 240, 3)
    assert (picture != 255).any()


def test_candidates_outside_the_constraints_are_marked_apart(tmp_path: Path) -> None:
    plot_pareto(tmp_path / "a.png", SEARCH, ("miou", "hd95"))
    outside = [one.model_copy(update={"violation": 0.1}) if one.number == 42 else one for one in SEARCH]
    plot_pareto(tmp_path / "b.png", outside, ("miou", "hd95"))
    assert not np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    spec = front_figure(outside, [], ("miou", "hd95"), "hd95", intervals={})
    search = next(trace for trace in spec["data"] if trace.get("meta") == "grows")
    assert search["marker"]["symbol"].count("triangle-down-open") == 1
    place = search["marker"]["symbol"].index("triangle-down-open")
    assert "outside the constraints" in search["text"][place]


def test_random_search_shows_in_the_picture(tmp_path: Path) -> None:
    plot_pareto(tmp_path / "a.png", SEARCH, ("miou", "hd95"))
    plot_pareto(tmp_path / "b.png", SEARCH, ("miou", "hd95"), random=RANDOM)
    assert not np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))


@pytest.mark.parametrize("objectives", [("miou",), ("miou", "hd95"), ("miou", "hd95", "latency_ms")])
@pytest.mark.parametrize("trials", [[trial(21)], [], [trial(4, TrialState.FAILED)]], ids=["one", "none", "failed"])
def test_frontier_of_one_or_none_is_drawn(tmp_path: Path, objectives: tuple[str, ...], trials: list[Trial]) -> None:
    plot_pareto(tmp_path / "pareto.png", trials, objectives)
    assert read(tmp_path / "pareto.png").shape[0] == 690


@pytest.mark.parametrize(
    ("objectives", "where", "points"),
    [
        (("miou", "hd95"), "post", [(1.0, 0.5), (2.0, 0.7), (3.0, 0.9)]),
        (("hd95", "miou"), "pre", [(0.5, 1.0), (0.7, 2.0), (0.9, 3.0)]),
    ],
)
def test_staircase_encloses_what_is_dominated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objectives: tuple[str, ...],
    where: str,
    points: list[tuple[float, float]],
) -> None:
    drawn: list[tuple[list[tuple[float, float]], str]] = []

    def step(self: Axes, x: tuple[float, ...], y: tuple[float, ...], *, where: str, **style: object) -> None:
        drawn.append((list(zip(x, y, strict=True)), where))

    monkeypatch.setattr(Axes, "step", step)
    metrics = [(0.7, 2.0), (0.5, 1.0), (0.6, 2.5), (0.9, 3.0)]  # the third is dominated by the first
    trials = [trial(i).model_copy(update={"metrics": {"miou": m, "hd95": h}}) for i, (m, h) in enumerate(metrics)]
    plot_pareto(tmp_path / "pareto.png", trials, objectives)
    assert drawn == [(points, where)]


@pytest.mark.parametrize("count", [1, 3])
def test_slicing_is_drawn_over_the_frontier(tmp_path: Path, count: int) -> None:
    front = [trial(number) for number in (42, 21, 10)][:count]
    plot_slicing(tmp_path / "slicing.png", front, SPACE)
    height, width, _ = read(tmp_path / "slicing.png").shape
    assert width > height > 100


def test_slicing_of_the_published_network_is_drawn(tmp_path: Path) -> None:
    from nas.space import SearchSpace

    space = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 9, 2, 2, 2, 2, 1))
    best = trial(0).model_copy(update={"architecture": str(space.sample(np.random.default_rng(0)))})
    plot_slicing(tmp_path / "slicing.png", [best], space)
    assert read(tmp_path / "slicing.png").shape[1] == round((0.46 * 22 + 2.4) * 150)


def test_frontier_of_the_search_is_drawable(tmp_path: Path) -> None:
    front = pareto_front(SEARCH, ("miou", "hd95"))
    assert all(Architecture.parse(member.architecture).num_blocks == 6 for member in front)
    plot_slicing(tmp_path / "slicing.png", front, SPACE)
    assert (tmp_path / "slicing.png").stat().st_size > 0
