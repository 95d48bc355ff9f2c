"""Configurations of the search space, the supernet and the search. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, WithJsonSchema, model_validator

from nas.objectives import ObjectiveName
from slicemamba.architecture import SliceSize, format_slice_size, parse_slice_size
from slicemamba.config import Config, Probability, TrainConfig


def _to_slice_size(value: object) -> object:
    return parse_slice_size(value) if isinstance(value, str) else parse_slice_size("x".join(map(str, _sequence(value))))


def _sequence(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


SliceSizeField = Annotated[
    SliceSize,
    BeforeValidator(_to_slice_size),
    PlainSerializer(format_slice_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[1-9]\d*x[1-9]\d*$", "examples": ["2x4"]}),
]

Flip = Literal["horizontal", "vertical", "both"]
COUNTED = ("dice", "miou", "sensitivity", "specificity")
"""Objectives that are made from pixel counts alone."""

SearcherName = Literal["evolution", "nsga2", "tpe", "random"]


class SpaceConfig(Config):
    """The slicings to choose from.

    Attributes:
        choices: slice sizes ``MxN`` open to every block; the published ones by default.
        weight_sharing: ``separate`` gives every choice of a block weights of its own (published); ``shared`` gives all
            choices of a block one set of weights, a quarter of the memory with four choices.
    """

    choices: tuple[SliceSizeField, ...] = ((2, 2), (2, 4), (4, 2), (4, 4))
    weight_sharing: Literal["separate", "shared"] = "separate"

    @model_validator(mode="after")
    def _distinct(self) -> SpaceConfig:
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise ValueError(
                "choices need at least two different slice sizes; got "
                + (", ".join(map(format_slice_size, self.choices)) or "none")
            )
        return self


class SupernetConfig(TrainConfig):
    """Single-path training of the supernet: one drawn architecture a step, the same on all workers.

    Attributes:
        sampling: ``uniform`` draws every block's choice at random (published); ``fair`` trains every choice of every
            block exactly once in as many steps as there are choices (strict fairness, FairNAS, arXiv 1907.01845).
        num_val_architectures: architectures drawn once from ``seed`` that are validated beside the fixed slicings,
            so that epochs are compared on the same architectures.
    """

    sampling: Literal["uniform", "fair"] = "uniform"
    num_val_architectures: Annotated[int, Field(ge=0)] = 4


class RacingConfig(Config):
    """When a candidate is given up before all images were seen (see ``nas.racing``).

    Attributes:
        confidence: that one given up would not have been a parent (``evolution``) or on the front (other searchers).
        min_images: images that every candidate is scored on; one looks after each batch from then on.
    """

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    min_images: Annotated[int, Field(ge=5)] = 10


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
        flips: each image is scored as it is and in these mirrored forms too, and the pixel counts are added up.
        precision: of the forward pass. ``bf16`` is taken only if it is shown to rank slicings as ``float32`` does,
            and else refused with a warning.
        racing: gives up candidates that fall behind; null scores every one on all images (published). For objectives
            that are made from pixel counts: dice, miou, sensitivity, specificity.
        image_cache_mb: of ready input images kept on a worker's device; a split that needs more is made ready anew for
            each candidate.
        activation_cache_mb: of activations kept on a worker's device, so that a candidate starts at the first block in
            which it differs from an earlier one; changes no score. 0 keeps none.
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
    flips: tuple[Flip, ...] = ()
    precision: Literal["float32", "bf16"] = "float32"
    racing: RacingConfig | None = None
    image_cache_mb: Annotated[int, Field(ge=0)] = 1024
    activation_cache_mb: Annotated[int, Field(ge=0)] = 1024
    latency_repeats: PositiveInt = 10
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives need at least one name, none of them twice")
        if len(set(self.flips)) != len(self.flips):
            raise ValueError("flips must not name one twice")
        uncounted = [name for name in self.objectives if name not in COUNTED]
        if self.racing is not None and uncounted:
            raise ValueError(
                f"racing compares pixel counts, so objectives can be {', '.join(COUNTED)} only; got "
                f"{', '.join(uncounted)}; leave them out or set racing to null"
            )
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
