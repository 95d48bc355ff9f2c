"""What is said of settings that are valid and seldom wanted."""

from __future__ import annotations

import pytest

from nas.advice import FIRST_ALONE, advice
from nas.config import SearchConfig


@pytest.mark.parametrize("searcher", FIRST_ALONE)
def test_ranking_by_the_first_of_several_objectives_is_told(searcher: str) -> None:
    (sentence,) = advice(SearchConfig.model_validate({"searcher": searcher, "objectives": ["dice", "hd95", "params"]}))
    assert f"{searcher} ranks by dice alone and looks at hd95, params only in ties" in sentence
    assert "search.searcher to local or nsga2" in sentence


@pytest.mark.parametrize("searcher", ["local", "nsga2", "optuna_nsga2", "tpe", "random"])
def test_searchers_for_several_objectives_need_no_advice(searcher: str) -> None:
    assert advice(SearchConfig.model_validate({"searcher": searcher, "objectives": ["dice", "hd95"]})) == []


def test_published_settings_and_one_objective_need_no_advice() -> None:
    assert advice(SearchConfig()) == []
    assert advice(SearchConfig(objectives=("hd95",))) == []
