"""Fifty SIGKILLs and more over everything that takes part in a search: nothing lost, nothing twice, the same result."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from chaos import Disturbed, Kill, Target, chaos_place, undisturbed
from disturbed_job import check_nothing_lost_or_twice, check_same

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow]

KILLS = int(os.environ.get("SLICEMAMBA_CHAOS_KILLS", "50"))
SEED = int(os.environ.get("SLICEMAMBA_CHAOS_SEED", "0"))
PACE = float(os.environ.get("SLICEMAMBA_CHAOS_PACE", "1"))


def shares(kills: int) -> Counter[Target]:
    """How often each is killed: what a search has most of is killed most."""
    budget: Counter[Target] = Counter({"api": kills * 3 // 10, "driver": kills // 5, "training worker": kills // 10})
    budget["evaluating worker"] = kills - budget.total()
    return budget


@pytest.mark.timeout(6 * 3600)
def test_search_disturbed_by_kills_gives_what_an_undisturbed_one_gives(tmp_path: Path) -> None:
    rng, budget = random.Random(SEED), shares(KILLS)
    kills: list[Kill] = []
    with chaos_place(tmp_path) as place:
        runs, resumed = [], 0
        while budget.total() > 0:
            disturbed = Disturbed(place, rng, budget, PACE)
            disturbed.to_the_end()
            check_nothing_lost_or_twice(disturbed.run)
            runs.append(disturbed.run)
            kills += disturbed.kills
            resumed += disturbed.num_resumed
        expected = undisturbed(place)
    print(Counter((kill.target, kill.phase) for kill in kills), f"{len(runs)} runs, {resumed} resumed by hand")
    assert len(kills) >= KILLS
    for run in runs:
        check_same(run, expected)
