"""A frontier that is not made of noise: its properties on any scores, and what is told of known ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.counts import ScoredImages
from nas.front import measured_front, timing_noise_ms
from nas.pareto import measurable_front, pareto_mask
from nas.study import Trial, TrialState

Floats = NDArray[np.float64]


@st.composite
def fronts(draw: st.DrawFn, exact: int, noisy: int) -> tuple[Floats, Floats]:
    """Losses of a Pareto-optimal set, and a resolution for each pair in the noisy columns."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(1, 30))
    losses = rng.integers(0, 12, (count, exact + noisy)) / 4
    losses = losses[pareto_mask(losses)]
    n = len(losses)
    resolution = np.zeros((n, n, exact + noisy))
    pairs = rng.uniform(0, draw(st.sampled_from([0.1, 1.0, 3.0])), (n, n, noisy))
    resolution[..., exact:] = (pairs + pairs.transpose(1, 0, 2)) / 2
    return losses, resolution


def better(losses: Floats, resolution: Floats, i: int, j: int) -> bool:
    return bool((losses[i] < losses[j] - resolution[i, j]).any())


@pytest.mark.parametrize(("exact", "noisy"), [(1, 1), (2, 1), (0, 1)])
def test_members_are_measurably_better_than_each_other_and_cover_all_others(exact: int, noisy: int) -> None:
    @given(fronts(exact, noisy))
    def check(front: tuple[Floats, Floats]) -> None:
        losses, resolution = front
        members = np.flatnonzero(measurable_front(losses, resolution)).tolist()
        assert members
        for i in members:
            assert all(better(losses, resolution, i, j) for j in members if j != i)
        for row in set(range(len(losses))) - set(members):
            assert any(not better(losses, resolution, row, member) for member in members), "covered by a member"

    check()


@pytest.mark.parametrize(("exact", "noisy"), [(1, 1), (1, 2), (0, 3)])
def test_measuring_twice_changes_nothing_and_no_member_is_dominated(exact: int, noisy: int) -> None:
    @given(fronts(exact, noisy))
    def check(front: tuple[Floats, Floats]) -> None:
        losses, resolution = front
        chosen = np.flatnonzero(measurable_front(losses, resolution))
        again = measurable_front(losses[chosen], resolution[np.ix_(chosen, chosen)])
        assert again.all(), "idempotent"
        worse = (losses[:, None] <= losses[None, chosen]).all(axis=2)  # of all rows against each member
        beyond = (losses[:, None] < losses[None, chosen] - resolution[:, chosen]).any(axis=2)
        assert not (worse & beyond).any(), "no member is dominated by more than the resolution"

    check()


@given(fronts(2, 1))
def test_without_noise_the_front_is_the_plain_one(front: tuple[Floats, Floats]) -> None:
    losses, resolution = front
    distinct = np.unique(losses, axis=0)
    assert measurable_front(distinct, np.zeros((len(distinct), len(distinct), 3))).all()
    assert measurable_front(losses, 0 * resolution).sum() == len(distinct), "one of equal rows"


def trial(number: int, dice: float, flops: float = 1e6, latency_ms: float = 1.0, origin: str = "local") -> Trial:
    return Trial(
        number=number,
        state=TrialState.COMPLETED,
        architecture=f"a{number}",
        origin=origin,
        metrics={"dice": dice, "flops": flops, "params": 10.0, "latency_ms": latency_ms},
        asked_after=0,
        ended_as=number,
    )


def scored(hits: Floats, size: int = 1000) -> ScoredImages:
    """Images of which half is marked; ``hits`` (N,) are the pixels found of each, and nothing else is."""
    found = hits.astype(np.int64)
    counts = np.stack([found, 0 * found, size // 2 - found, 0 * found + size // 2], axis=-1)[:, None]
    return ScoredImages(tuple(f"i{k:03d}" for k in range(len(hits))), counts, None)


def dice_of(images: ScoredImages) -> float:
    tp, fp, fn, _ = images.counts.sum(axis=(0, 1))
    return float(2 * tp / (2 * tp + fp + fn))


def population(rng: np.random.Generator, levels: list[float]) -> dict[int, ScoredImages]:
    """Trials of the given levels on 60 images: hard images are hard for all, and each has noise of its own."""
    hard = rng.normal(0, 60, 60)
    return {
        number: scored(np.clip(level + hard + rng.normal(0, 10, 60), 0, 500)) for number, level in enumerate(levels)
    }


def test_networks_that_score_alike_are_told_to_be_alike() -> None:
    images = population(np.random.default_rng(0), [300.0] * 8)
    trials = [trial(number, dice_of(one)) for number, one in images.items()]
    front = measured_front(trials, ("dice",), images.get)
    assert front.num_optimal == 1
    assert front.sentence.startswith("No measurable difference between these networks (on these 60 images")
    [member] = front.members
    assert len(member.tied_with) == 7
    assert member.intervals["dice"].low < member.metrics["dice"] < member.intervals["dice"].high


def test_what_costs_more_must_be_measurably_better() -> None:
    """The dearest is better by a hair, as it happens; the one before it is better by much."""
    images = population(np.random.default_rng(1), [250.0, 330.0, 332.0])
    costs = [1e6, 2e6, 4e6]
    trials = [trial(number, dice_of(one), costs[number]) for number, one in images.items()]
    assert trials[2].metrics["dice"] > trials[1].metrics["dice"], "so that all three are Pareto-optimal"
    front = measured_front(trials, ("dice", "flops"), images.get)
    assert front.num_optimal == 3
    assert [member.number for member in front.members] == [1, 0], "the best first"
    assert front.sentence.startswith("2 networks of the frontier differ measurably from one another; 1 more")
    assert 0 < front.resolution["dice"] < 0.05
    assert front.resolution["flops"] == 0


def test_few_images_name_no_small_network_for_one_that_scores_points_more() -> None:
    """Four images on which networks do well in turns: ten points cannot be told from chance, two tenths are none."""
    hits = np.array([[100, 400, 100, 400], [101, 399, 102, 400], [430, 150, 440, 160]])
    images = {number: scored(row) for number, row in enumerate(hits)}
    trials = [trial(number, dice_of(one), 1e6 * (1 + number)) for number, one in images.items()]
    front = measured_front(trials, ("dice", "flops"), images.get)
    assert front.resolution["dice"] > 0.05
    assert trials[2].metrics["dice"] - trials[0].metrics["dice"] > 0.05
    assert trials[1].metrics["dice"] > trials[0].metrics["dice"], "so that all three are Pareto-optimal"
    assert [member.number for member in front.members] == [2, 0]
    assert (front.num_undecided, front.members[0].tied_with) == (1, ())
    assert front.sentence.startswith("2 networks are on the frontier; 1 of them scores higher than a cheaper one")


def test_latencies_within_their_noise_are_equal() -> None:
    images = population(np.random.default_rng(2), [300.0, 300.0])
    slow, fast = sorted(images, key=lambda number: -dice_of(images[number]))  # the slower has the higher score
    trials = [trial(slow, dice_of(images[slow]), latency_ms=1.1), trial(fast, dice_of(images[fast]), latency_ms=1.0)]
    trials.sort(key=lambda one: one.number)
    equal, unequal = (
        measured_front(trials, ("dice", "latency_ms"), images.get, latency_ms=resolution) for resolution in (0.2, 0.01)
    )
    assert (equal.num_optimal, len(equal.members), len(equal.members[0].tied_with)) == (2, 1, 1)
    assert [member.number for member in unequal.members] == [fast]
    assert unequal.members[0].tied_with == ()


def test_patients_are_drawn_whole() -> None:
    """Thirty images of each of two patients say less than sixty images that stand alone."""
    images = population(np.random.default_rng(3), [300.0, 306.0])
    trials = [trial(number, dice_of(one)) for number, one in images.items()]
    alone = measured_front(trials, ("dice",), images.get)
    grouped = measured_front(trials, ("dice",), images.get, patients=["a"] * 30 + ["b"] * 30)
    assert (alone.num_patients, grouped.num_patients) == (60, 2)
    assert alone.resolution != grouped.resolution


def test_without_counts_figures_are_taken_as_they_are() -> None:
    front = measured_front([trial(0, 0.7), trial(1, 0.70001, 2e6)], ("dice", "flops"), lambda _: None)
    assert [member.number for member in front.members] == [1, 0]
    assert (front.num_images, front.resolution) == (0, {"dice": 0.0, "flops": 0.0})


def test_noise_of_timings_is_that_of_networks_of_equal_cost() -> None:
    """Two groups of equal cost; 1.96·√2 times their pooled standard deviation. Without a group nothing is known."""
    trials = [trial(0, 0.5, 1e6, 1.0), trial(1, 0.5, 1e6, 1.2), trial(2, 0.5, 2e6, 3.0), trial(3, 0.5, 2e6, 3.4)]
    assert timing_noise_ms(trials) == pytest.approx(1.96 * np.sqrt(2 * (0.02 + 0.08) / 2), rel=1e-3)
    assert timing_noise_ms(trials[::2]) == 0.0
