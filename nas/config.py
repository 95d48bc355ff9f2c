"""Configurations of the search space, the supernet, the search and its audit. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from nas.objectives import Bound, ObjectiveName
from slicemamba.architecture import BLOCK_PATTERN, Block, as_block, format_block, parse_block
from slicemamba.config import Config, Probability, Seed, TrainConfig


def _to_block(value: object) -> Block:
    return as_block(value) if isinstance(value, (list, tuple)) else parse_block(str(value))


BlockField = Annotated[
    Block,
    PlainValidator(_to_block),
    PlainSerializer(format_block, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^({BLOCK_PATTERN})$", "examples": ["2x4"]}),
]

Flip = Literal["horizontal", "vertical", "both"]
COUNTED = ("dice", "miou", "sensitivity", "specificity")
"""Objectives that are made from pixel counts alone."""

SearcherName = Literal["evolution", "nsga2", "local", "regularized_evolution", "optuna_nsga2", "tpe", "random"]


_SURVEYED, _MIN_SURVEYED, _WORTH_A_SURVEY = 32, 8, 100


PUBLISHED = ("2x2", "2x4", "4x2", "4x4")


class SpaceConfig(Config):
    """The slicings to choose from.

    Attributes:
        choices: slice sizes ``MxN`` available to every block; the published ones by default. ``-`` lets a block be
            omitted (elastic depth); ``2x4n8`` has 8 states and ``2x4e1`` an inner width equal to its channels, neither
            more than the model's, so that architectures differ in cost; ``c3`` is a convolution in place of the scan;
            ``full`` and ``half`` are widths of the skeleton ``conv``.
        weight_sharing: ``separate`` gives every choice of a block its own weights (published); ``shared`` gives all
            choices of a block one set of weights, a quarter of the memory with four choices.
    """

    choices: Annotated[tuple[BlockField, ...], Field(max_length=64, json_schema_extra={"default": list(PUBLISHED)})] = (
        tuple(map(parse_block, PUBLISHED))
    )
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
    """Training of the supernet: one drawn architecture per step, or several, the same on all workers.

    Attributes:
        sampling: ``uniform`` draws every block's choice at random (published); ``fair`` trains every choice of every
            block exactly once in as many steps as there are choices (strict fairness, FairNAS, arXiv 1907.01845).
            ``sandwich`` trains in each step the largest network of the space, the smallest and some at random, the
            others to mark what the largest marks (BigNAS, arXiv 2003.11142); for spaces whose choices differ in size.
        sandwich_random: random architectures in each step of a sandwich; a step costs that of ``2 + sandwich_random``
            networks at most.
        distillation_weight: of the largest network's soft masks in what the others of a sandwich learn from; the rest
            is the weight of the true masks.
        num_val_architectures: architectures drawn once from ``seed`` and validated together with the fixed slicings,
            so that epochs are compared on the same architectures.
    """

    sampling: Literal["uniform", "fair", "sandwich"] = "uniform"
    sandwich_random: Annotated[int, Field(ge=0)] = 2
    distillation_weight: Probability = 1.0
    num_val_architectures: Annotated[int, Field(ge=0)] = 4

    @property
    def paths_per_step(self) -> int:
        """Architectures that pass forward and backward in each step."""
        return 2 + self.sandwich_random if self.sampling == "sandwich" else 1


class WarmStart(Config):
    """An earlier search, of this data set or another, whose best architectures are evaluated early.

    Attributes:
        study: folder of the earlier run, or the study's name in the database that both share.
        top: how many of its best to use: members of its frontier first, beginning with its ends and the least crowded.
    """

    study: Annotated[str, Field(min_length=1)]
    top: PositiveInt = 10


class RacingConfig(Config):
    """When to abandon a candidate before all images were seen (see ``nas.racing``).

    Attributes:
        confidence: that an abandoned one would not have been a parent (``evolution``) or on the front (other
            searchers).
        min_images: images on which every candidate is scored; from then on there is a check after each batch.
    """

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    min_images: Annotated[int, Field(ge=5)] = 10


class SearchConfig(Config):
    """The search over a trained supernet. Defaults are the published evolution: 20 generations of 50.

    Attributes:
        searcher: ``evolution`` (published), ``nsga2`` (steady state), ``local``, ``regularized_evolution``, Optuna's
            ``optuna_nsga2`` or ``tpe``, or ``random``; docs/search.md says which is for what.
        objectives: what to optimise; ``evolution`` and ``regularized_evolution`` rank by the first and break ties by
            the next. The Pareto frontier covers all of them.
        constraints: minimum or maximum of a metric. An architecture that breaks one is recorded with its violation and
            is neither on the frontier nor the winner.
        num_trials: architectures to evaluate, including the fixed slicings. No architecture is evaluated twice.
        population_size: for ``evolution``, both ``nsga2`` and ``regularized_evolution``.
        num_parents: parents of ``evolution``; tournament size of ``regularized_evolution``; number of architectures
            that ``nsga2`` draws at random before it breeds.
        num_mutations, num_crossovers: for ``evolution``.
        mutation_probability: per block, for ``evolution`` and ``nsga2``.
        evaluate_fixed: first evaluate the slicings that give all blocks the same size.
        warm_start: architectures of an earlier search to evaluate next.
        random_baseline: after the search, evaluate as many random architectures for comparison, from their own seed.
        survey: random architectures to measure before the search, to tell what it can gain at most; at least 8, or 0
            for none. Null: 32 with ``stop_if_flat``, and where 100 candidates or more are evaluated; else none.
        stop_if_flat: where these scores differ no more than sampling of images explains, and no objective is a cost in
            which architectures differ, evaluate the fixed networks alone and take the best of them.
        batch_size: images per forward pass of the evaluation.
        flips: also score each image in these mirrored forms, and add up the pixel counts.
        precision: format of the forward pass. ``bf16`` is only used if it ranks slicings as ``float32`` does;
            otherwise a warning says so and ``float32`` is used.
        racing: abandon candidates that fall behind; null scores every one on all images (published). Needs objectives
            made of pixel counts: dice, miou, sensitivity, specificity.
        image_cache_mb: limit for prepared input images kept on a worker's device; a larger split is prepared anew for
            each candidate.
        activation_cache_mb: limit for activations kept on a worker's device, so that a candidate starts at the first
            block in which it differs from an earlier one; changes no score. 0 keeps none.
        latency: summed from a ``table`` of each block and size, timed once, or ``measured`` for each candidate.
        latency_batch_size: images per timed forward pass, on a search worker's device at the data's image size.
        latency_repeats: timed passes: rounds of the table, of which the medians count; or passes of each candidate, of
            which the shortest counts.
        seed: seed of the searcher, and of the order in which racing sees the images.
    """

    searcher: SearcherName = "evolution"
    objectives: tuple[ObjectiveName, ...] = ("miou",)
    constraints: dict[ObjectiveName, Bound] = Field(default_factory=dict)
    num_trials: PositiveInt = 1000
    population_size: Annotated[int, Field(ge=2)] = 50
    num_parents: PositiveInt = 10
    num_mutations: Annotated[int, Field(ge=0)] = 25
    num_crossovers: Annotated[int, Field(ge=0)] = 25
    mutation_probability: Probability = 0.1
    evaluate_fixed: bool = True
    warm_start: WarmStart | None = None
    random_baseline: bool = False
    survey: Annotated[int, Field(ge=0)] | None = None
    stop_if_flat: bool = False
    batch_size: PositiveInt = 16
    flips: tuple[Flip, ...] = ()
    precision: Literal["float32", "bf16"] = "float32"
    racing: RacingConfig | None = None
    image_cache_mb: Annotated[int, Field(ge=0)] = 1024
    activation_cache_mb: Annotated[int, Field(ge=0)] = 1024
    latency: Literal["measured", "table"] = "table"
    latency_batch_size: PositiveInt = 1
    latency_repeats: PositiveInt = 10
    seed: Seed = 0

    @property
    def num_surveyed(self) -> int:
        """Random architectures to measure before the search."""
        if self.survey is not None:
            return self.survey
        evaluated = self.num_trials * (2 if self.random_baseline else 1)
        return _SURVEYED if self.stop_if_flat or evaluated >= _WORTH_A_SURVEY else 0

    @property
    def measured(self) -> frozenset[str]:
        """Names of the metrics that the search needs: its objectives, and what it constrains."""
        return frozenset({*self.objectives, *self.constraints})

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
        if 0 < self.num_surveyed < _MIN_SURVEYED or (self.stop_if_flat and not self.num_surveyed):
            raise ValueError(
                f"survey needs {_MIN_SURVEYED} architectures or more to tell anything; got {self.num_surveyed}"
                + (", and stop_if_flat decides by it" if self.stop_if_flat else "; 0 for none")
            )
        if self.stop_if_flat and not self.evaluate_fixed:
            raise ValueError("stop_if_flat takes the best fixed network, so evaluate_fixed must be true")
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


class FinalsConfig(Config):
    """Finals after the search: those that may be the answer are trained on, each with weights of its own.

    Attributes:
        max_candidates: networks that take part at most: members of the frontier, and fixed networks.
        rounds: after each but the last, the better half goes on.
        epochs: of one that gets through all rounds; null for a quarter of the retraining's (without one, of the
            supernet's). After each round but the last, half of those after the next.
    """

    max_candidates: int = 8
    rounds: Annotated[int, Field(ge=1, le=4)] = 2
    epochs: PositiveInt | None = None

    @model_validator(mode="after")
    def _enough_to_compare(self) -> FinalsConfig:
        if self.max_candidates < 2:
            raise ValueError(
                f"finals compare networks, so max_candidates must be at least 2; got {self.max_candidates}: raise it, "
                "or set finals to null for none"
            )
        return self


class AuditConfig(Config):
    """What an audit does. The same settings on the same run resume a stopped audit.

    Attributes:
        num_retrained: sampled slicings to train from scratch, in addition to the best and the fixed ones.
        epochs: epochs of each of these trainings; null uses those of the run's ``retrain``.
        retrain_seeds: number of seeds from which the best and its rival are trained. With fewer than three, luck of
            training cannot be told from merit, and the verdict is ``weak`` at best.
        random_seeds: number of random searches with the search's budget.
        margin: by how much a cheaper network may score below the best fixed one on test and still count as no loss; to
            be set before looking.
        cheaper_members: members of the frontier, cheaper than the best fixed network, that are judged so; each is
            trained from ``retrain_seeds`` seeds. 0 judges none.
        seed: seed of everything drawn here but the random searches, whose seeds follow from that of the run's search.
    """

    num_retrained: Annotated[int, Field(ge=2)] = 8
    epochs: PositiveInt | None = None
    retrain_seeds: PositiveInt = 3
    random_seeds: PositiveInt = 3
    margin: float = 0.01
    cheaper_members: Annotated[int, Field(ge=0)] = 2
    seed: Seed = 0

    @model_validator(mode="after")
    def _margin_allows_something(self) -> AuditConfig:
        if not 0 < self.margin < 1:
            raise ValueError(
                f"margin is the loss that counts as none, a share of 1 such as 0.01 for one point of Dice; it must lie "
                f"between 0 and 1, got {self.margin:g}: to show that a network is better, look at the claim 'better'"
            )
        return self
