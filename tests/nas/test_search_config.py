"""Options of the space and the search: the published defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nas.config import SearchConfig, SpaceConfig, SupernetConfig
from nas.objectives import OBJECTIVES
from slicemamba.architecture import SKIP, Block
from slicemamba.config import Config, validate
from slicemamba.errors import InputError


def test_defaults_are_the_published_search() -> None:
    search = SearchConfig()
    assert [block.slice_size for block in SpaceConfig().choices] == [(2, 2), (2, 4), (4, 2), (4, 4)]
    assert SpaceConfig().weight_sharing == "separate"
    assert (search.population_size, search.num_parents, search.num_mutations, search.num_crossovers) == (50, 10, 25, 25)
    assert search.num_trials == 20 * search.population_size
    assert search.mutation_probability == 0.1
    assert search.objectives == ("miou",)


@pytest.mark.parametrize("values", [["2x4", "3x5"], [[2, 4], [3, 5]], ((2, 4), "3x5")])
def test_choices_are_written_as_text_or_pairs(values: Any) -> None:
    space = SpaceConfig(choices=values)
    assert space.choices == (Block(2, 4), Block(3, 5))
    assert space.model_dump(mode="json")["choices"] == ["2x4", "3x5"]


def test_choices_may_be_smaller_blocks_and_none() -> None:
    space = SpaceConfig(choices=("2x2", "4x4n8e1", "-"))  # type: ignore[arg-type]
    assert space.choices == (Block(2, 2), Block(4, 4, 8, 1), SKIP)
    assert SpaceConfig.model_validate_json(space.model_dump_json()) == space


@pytest.mark.parametrize(
    "config",
    [
        SpaceConfig(choices=((1, 9), (3, 2))),
        SearchConfig.model_validate(
            {
                "constraints": {"latency_ms": {"max": 4}, "dice": {"min": 0.5}},
                "warm_start": {"study": "runs/a", "top": 3},
            }
        ),
        SupernetConfig(),
    ],
)
def test_options_survive_json(config: Config) -> None:
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("schema", "values", "pointer", "said"),
    [
        (SpaceConfig, {"choices": ["2x2", "0x2"]}, "/choices/1", "slice size must look like '2x4'"),
        (SpaceConfig, {"choices": ["2x2", [2]]}, "/choices/1", "got (2,)"),
        (SpaceConfig, {"choices": ["2x2", [2, 2.5]]}, "/choices/1", "got (2, 2.5)"),
        (SpaceConfig, {"choices": ["2x2", None]}, "/choices/1", "got 'None'"),
        (SpaceConfig, {"choices": ["2x2", "2x2"]}, "", "at least two different slice sizes; got 2x2, 2x2"),
        (SpaceConfig, {"choices": ["2x2"]}, "", "at least two different slice sizes; got 2x2"),
        (SpaceConfig, {"choices": []}, "", "got none"),
        (SpaceConfig, {"weight_sharing": "both"}, "/weight_sharing", "must be one of separate, shared"),
        (SearchConfig, {"searcher": "grid"}, "/searcher", "optuna_nsga2, tpe, random; got 'grid'"),
        (SearchConfig, {"constraints": {"auc": {"max": 1}}}, "/constraints/auc", "params, flops"),
        (SearchConfig, {"constraints": {"flops": {}}}, "/constraints/flops", "needs min, max or both"),
        (
            SearchConfig,
            {"constraints": {"dice": {"min": 2, "max": 1}}},
            "/constraints/dice",
            "min (2.0) must not exceed",
        ),
        (SearchConfig, {"warm_start": {"study": ""}}, "/warm_start/study", "at least 1 character"),
        (SearchConfig, {"warm_start": {"study": "a", "top": 0}}, "/warm_start/top", "got 0"),
        (SearchConfig, {"latency": "guessed"}, "/latency", "must be one of measured, table"),
        (SearchConfig, {"objectives": ["dice", "auc"]}, "/objectives/1", "got 'auc'"),
        (SearchConfig, {"objectives": []}, "", "objectives need at least one name"),
        (SearchConfig, {"objectives": ["dice", "dice"]}, "", "none of them twice"),
        (SearchConfig, {"num_parents": 51}, "", "num_parents (51) must not exceed population_size (50)"),
        (SearchConfig, {"num_mutations": 26}, "", "num_mutations + num_crossovers (51) must not exceed"),
        (SearchConfig, {"num_trials": 0}, "/num_trials", "got 0"),
        (SearchConfig, {"population_size": 1}, "/population_size", "got 1"),
        (SearchConfig, {"mutation_probability": 1.1}, "/mutation_probability", "got 1.1"),
        (SearchConfig, {"seed": -1}, "/seed", "greater than or equal to 0; got -1"),
        (SearchConfig, {"searcher": "tpe", "seed": 2**32}, "/seed", "less than 4294967296"),
        (SupernetConfig, {"seed": -1}, "/seed", "greater than or equal to 0; got -1"),
        (SupernetConfig, {"num_val_architectures": -1}, "/num_val_architectures", "got -1"),
    ],
)
def test_wrong_option_is_pointed_at(schema: type[Config], values: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(schema, values, source="test")
    assert caught.value.pointer == pointer
    assert said in caught.value.details[0]


def test_unknown_objective_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        validate(SearchConfig, {"objectives": ["auc"]}, source="test")
    assert all(name in str(caught.value) for name in OBJECTIVES)


def test_what_is_constrained_is_measured() -> None:
    config = SearchConfig.model_validate({"objectives": ["dice"], "constraints": {"hd95": {"max": 9}}})
    assert config.measured == {"dice", "hd95"}
