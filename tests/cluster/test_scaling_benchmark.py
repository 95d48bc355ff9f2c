"""The arithmetic of benchmarks.scaling."""

from __future__ import annotations

import pytest

from benchmarks.scaling import efficiency, gap, ideal
from benchmarks.sleeper import duration, score
from nas.space import SearchSpace

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))


def test_efficiency_leaves_out_starting_up_and_running_out() -> None:
    """Two workers, the second begins at 1 and is idle from 3 to 4; the first has nothing left from 5."""
    spans = [(1, 0.0, 3.0), (1, 3.0, 5.0), (2, 1.0, 3.0), (2, 4.0, 9.0)]
    assert efficiency(spans) == pytest.approx((4 + 3) / (2 * 4))


def test_gap_is_the_median_between_candidates_of_one_worker() -> None:
    spans = [(1, 0.0, 3.0), (1, 3.1, 5.0), (2, 1.0, 3.0), (2, 3.3, 9.0), (1, 5.2, 6.0)]
    assert gap(spans) == pytest.approx(200)


def test_hand_out_without_delay_keeps_all_workers_busy_but_at_a_barrier() -> None:
    assert efficiency(ideal(200, 8, 2.0, None)) == pytest.approx(1)
    spans = ideal(104, 32, 2.0, 50)
    fixed, first, second = spans[:4], spans[4:54], spans[54:]
    for earlier, later in ((fixed, first), (first, second)):
        assert min(began for _, began, _ in later) >= max(ended for _, _, ended in earlier)
    assert efficiency(spans) < 0.8


def test_sleeps_spread_by_30_percent_and_are_the_same_each_time() -> None:
    drawn = [duration(number, 2.0) for number in range(1000)]
    assert drawn == [duration(number, 2.0) for number in range(1000)]
    assert 1.4 <= min(drawn) < 1.45
    assert 2.55 < max(drawn) <= 2.6
    assert sum(drawn) / 1000 == pytest.approx(2, abs=0.05)


def test_made_up_scores_differ_from_slicing_to_slicing() -> None:
    scores = {score(architecture)["miou"] for architecture in SPACE.neighbours(SPACE.fixed()[0])}
    assert len(scores) == 6
