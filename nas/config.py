"""Configurations of the search space, the supernet and the search. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, PositiveInt, WithJsonSchema, model_validator

from nas.objectives import ObjectiveName
from slicemamba.architecture import BLOCK_PATTERN, Block, as_block, format_block, parse_block
from slicemamba.config import Config, Probability, TrainConfig


def _to_block(value: object) -> Block:
    return as_block(value) if isinstance(value, (list, tuple)) else parse_block(str(value))


BlockField = Annotated[
    Block,
    PlainValidator(_to_block),
    PlainSerializer(format_block, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^({BLOCK_PATTERN})$", "examples": ["2x4"]}),
]

SearcherName = Literal["evolution", "nsga2", "tpe", "random"]


class SpaceConfig(Config):
    """The slicings to choose from.

    Attributes:
        choices: slice sizes ``MxN`` open to every block; the published ones by default. With ``-`` among them a block
            may be left out (elastic depth); ``2x4n8`` has 8 states and ``2x4e1`` an inner width of once its channels,
            at most as many as the model's, so that architectures differ in cost.
        weight_sharing: ``separate`` gives every choice of a block weights of its own (published); ``shared`` gives all
            choices of a block one set of weights, a quarter of the memory with four choices.
    """

    choices: tuple[BlockField, ...] = (Block(2, 2), Block(2, 4), Block(4, 2), Block(4, 4))
    weight_sharing: Literal["separate", "shared"] = "separate"

    @model_validator(mode="after")
    def _distinct(self) -> SpaceConfig:
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise ValueError(
                "choices need at least two different slice sizes; got "
                + (", ".join(map(format_block, self.choices)) or "none")
            )
        return self


class SupernetConfig(TrainConfig):
    """Single-path training of the supernet: one uniformly drawn architecture a step, the same on all workers.

    Attributes:
        num_val_architectures: architectures drawn once from ``seed`` that are validated beside the fixed slicings,
            so that epochs are compared on the same architectures.
    """

    num_val_architectures: Annotated[int, Field(ge=0)] = 4


class SearchConfig(Config):
    """The search over a trained supernet. Defaults are the published evolution: 20 generations of 50.

    Attributes:
        searcher: ``evolution`` (published), Optuna's ``nsga2`` or ``tpe``, or ``random``.
        objectives: what is optimised; ``evolution`` ranks by the first and breaks ties by the next. The Pareto
            frontier is taken over all of them.
        num_trials: architectures to evaluate, the fixed slicings included. No architecture is evaluated twice.
        population_size, num_parents, num_mutations, num_crossovers, mutation_probability: of ``evolution``;
            ``population_size`` is that of ``nsga2`` too.
        evaluate_fixed: evaluate the slicings that give all blocks one size first.
        random_baseline: after the search, evaluate as many random architectures, to tell what the search was worth.
        batch_size: images a forward pass of the evaluation.
        latency_repeats: timed forward passes of one image; the shortest is reported.
    """

    searcher: SearcherName = "evolution"
    objectives: tuple[ObjectiveName, ...] = ("miou", "dice")
    num_trials: PositiveInt = 1000
    population_size: Annotated[int, Field(ge=2)] = 50
    num_parents: PositiveInt = 10
    num_mutations: Annotated[int, Field(ge=0)] = 25
    num_crossovers: Annotated[int, Field(ge=0)] = 25
    mutation_probability: Probability = 0.1
    evaluate_fixed: bool = True
    random_baseline: bool = False
    batch_size: PositiveInt = 16
    latency_repeats: PositiveInt = 10
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives need at least one name, none of them twice")
        if self.num_parents > self.population_size:
            raise ValueError(
                f"num_parents ({self.num_parents}) must not exceed population_size ({self.population_size})"
            )
        if self.num_mutations + self.num_crossovers > self.population_size:
            raise ValueError(
                f"num_mutations + num_crossovers ({self.num_mutations + self.num_crossovers}) must not exceed "
                f"population_size ({self.population_size})"
            )
        return self
