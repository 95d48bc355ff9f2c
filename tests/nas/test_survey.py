"""What random architectures tell before a search: spread of images is told from spread of architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas.config import SearchConfig
from nas.counts import ScoredImages
from nas.space import SearchSpace
from nas.study import Trial, TrialState
from nas.survey import Survey, survey

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 2))


def measured(
    rng: np.random.Generator, count: int, spread: float, effect: float = 0.0, own: float = 0.05
) -> tuple[list[Trial], dict[int, ScoredImages]]:
    """Random architectures whose true Dice scatters by ``spread``, and by ``effect`` with the first block's choice.

    60 images that are hard for all alike, each with noise of its own, on 1000 pixels of which half is marked.
    """
    hard = rng.normal(0, 0.1, 60)
    trials, images = [], {}
    for number in range(count):
        architecture = SPACE.sample(rng)
        level = 0.7 + rng.normal(0, spread) + effect * SPACE.encode(architecture)[0]
        found = (500 * np.clip(level + hard + rng.normal(0, own, 60), 0, 1)).astype(np.int64)
        counts = np.stack([found, 500 - found, 500 - found, found], axis=-1)[:, None]
        images[number] = ScoredImages(tuple(f"i{k:02d}" for k in range(60)), counts, None)
        trials.append(
            Trial(
                number=number,
                state=TrialState.COMPLETED,
                architecture=str(architecture),
                origin="random",
                metrics={"dice": float(found.sum() / 30_000)},
                asked_after=0,
                ended_as=number,
            )
        )
    return trials, images


def surveyed(trials: list[Trial], images: dict[int, ScoredImages], **options: Any) -> Survey:
    given: dict[str, Any] = {"num_candidates": 100, "has_costs": False} | options
    found = survey(trials, images.get, SPACE, "dice", **given)
    assert found is not None
    return found


def test_spread_by_images_alone_is_flat_as_often_as_the_level_says() -> None:
    """Of 100 sets of equally good architectures, about 95 are called flat."""
    rng = np.random.default_rng(0)
    flat = [surveyed(*measured(rng, 16, 0.0)).flat for _ in range(100)]
    assert 88 <= sum(flat) <= 100


def test_spread_of_architectures_is_found_with_its_share() -> None:
    """Standard deviations of 0.02 between architectures and of 0.05/√60 by their images: 91 % of the variance."""
    found = surveyed(*measured(np.random.default_rng(1), 64, 0.02))
    assert not found.flat
    assert found.share == pytest.approx(0.91, abs=0.06)
    assert found.spread == pytest.approx(0.021, rel=0.25)
    assert found.gain == pytest.approx(0.02 * 2.33, rel=0.3), "of the best of a hundred"
    assert "of the variance is the architecture's" in found.sentence


def test_choice_that_matters_is_named() -> None:
    found = surveyed(*measured(np.random.default_rng(2), 32, 0.0, effect=0.05))
    assert found.choice is not None
    assert "in block 1" in found.choice
    assert found.choice in found.sentence
    assert surveyed(*measured(np.random.default_rng(3), 32, 0.0)).choice is None


def test_where_costs_differ_there_is_something_to_gain() -> None:
    trials, images = measured(np.random.default_rng(4), 16, 0.0)
    alone, weighed = surveyed(trials, images), surveyed(trials, images, has_costs=True)
    assert (alone.flat, weighed.flat) == (True, False)
    assert alone.sentence.endswith(
        "no more than sampling of images explains: there is nothing that a search could gain."
    )
    assert weighed.sentence.endswith("what can be saved is cost.")


def test_few_scores_tell_nothing() -> None:
    trials, images = measured(np.random.default_rng(5), 9, 0.02)
    failed = [one.model_copy(update={"state": TrialState.FAILED}) if one.number < 2 else one for one in trials]
    assert survey(failed, images.get, SPACE, "dice", num_candidates=10, has_costs=False) is None


def test_number_surveyed_and_settings_that_contradict() -> None:
    assert SearchConfig(num_trials=99).num_surveyed == 0
    assert SearchConfig(num_trials=100).num_surveyed == 32
    assert SearchConfig(num_trials=50, random_baseline=True).num_surveyed == 32
    assert SearchConfig(num_trials=100, survey=0).num_surveyed == 0
    assert SearchConfig(num_trials=10, stop_if_flat=True).num_surveyed == 32
    assert SearchConfig(survey=16).num_surveyed == 16
    for values, words in (
        ({"survey": 3}, "survey needs 8 architectures or more"),
        ({"survey": 0, "stop_if_flat": True}, "stop_if_flat decides by it"),
        ({"stop_if_flat": True, "evaluate_fixed": False}, "evaluate_fixed must be true"),
    ):
        with pytest.raises(ValueError, match=words):
            SearchConfig.model_validate(values)
