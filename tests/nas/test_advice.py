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


@pytest.mark.parametrize("searcher", ["local", "evolution"])
def test_objectives_that_are_functions_of_one_another_are_told(searcher: str) -> None:
    config = SearchConfig.model_validate({"searcher": searcher, "objectives": ["miou", "dice"]})
    (sentence,) = advice(config)
    assert "objectives miou and dice are functions of one another" in sentence
    assert "Keep miou alone" in sentence
    assert advice(config, num_classes=9) == []  # means over classes order architectures each in its own way


def test_what_is_left_beside_a_function_of_the_first_is_told_too() -> None:
    config = SearchConfig.model_validate({"searcher": "evolution", "objectives": ["dice", "miou", "flops"]})
    alike, others = advice(config)
    assert "dice and miou are functions" in alike
    assert "looks at flops only in ties" in others


@pytest.mark.parametrize("searcher", ["evolution", "regularized_evolution", "optuna_nsga2"])
def test_population_larger_than_the_budget_is_told_to_be_random_search(searcher: str) -> None:
    config = SearchConfig(searcher=searcher, objectives=("dice",), num_trials=48)
    (told,) = advice(config)
    assert "draws its first 50 candidates at random" in told
    assert "this is random search" in told
    assert advice(config.model_copy(update={"population_size": 8})) == []
    assert advice(config.model_copy(update={"searcher": "nsga2"})) == []


def test_published_settings_and_one_objective_need_no_advice() -> None:
    assert advice(SearchConfig()) == []
    assert advice(SearchConfig(objectives=("hd95",))) == []
