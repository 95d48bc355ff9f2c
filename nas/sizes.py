"""Which choices of a space make the largest and the smallest networks, in closed form and without torch.

Slicings all cost the same; convolutions, fewer states, narrower and omitted blocks and narrower convolutions do not.
"""

from __future__ import annotations

from collections.abc import Iterator

from nas.space import SearchSpace
from slicemamba.architecture import format_block
from slicemamba.config import ModelConfig
from slicemamba.costs import block_flops

Options = tuple[tuple[int, ...], ...]


def place_costs(space: SearchSpace, model: ModelConfig) -> list[dict[int, float]]:
    """For each place, in forward order, what each gene costs: FLOPs of a block at one pixel of its map.

    Of the width of a stage's convolutions, whose cost depends on the stages before, the share of full width.
    """
    costs = zip(_channels(model), space.options, strict=True)
    return [{gene: _cost(space, model, gene, channels) for gene in options} for channels, options in costs]


def _channels(model: ModelConfig) -> Iterator[int]:
    """Of each place."""
    for level, depth in zip(model.stage_levels, model.depths, strict=True):
        yield from [model.embed_dim * 2**level] * depth


def _cost(space: SearchSpace, model: ModelConfig, gene: int, channels: int) -> float:
    block = space.choices[gene]
    return 1 / block.divisor if block.divisor else float(block_flops(model, channels, block))


def extremes(space: SearchSpace, model: ModelConfig) -> tuple[Options, Options]:
    """For each place, the genes of the largest networks and of the smallest; several where they cost the same."""
    costs = place_costs(space, model)
    largest, smallest = (
        tuple(tuple(gene for gene, cost in place.items() if cost == pick(place.values())) for place in costs)
        for pick in (max, min)
    )
    return largest, smallest


def has_sizes(space: SearchSpace, model: ModelConfig) -> bool:
    """Whether architectures of the space differ in size, and not in slicing alone."""
    largest, smallest = extremes(space, model)
    return largest != smallest


def refuse_without_sizes(space: SearchSpace, model: ModelConfig) -> None:
    """Raises ValueError where the largest network is the smallest too."""
    if not has_sizes(space, model):
        raise ValueError(
            "supernet.sampling sandwich trains the largest and the smallest network of the space in each step, and "
            f"all of space.choices ({', '.join(map(format_block, space.choices))}) are of one size: slicing changes no "
            "cost, so the largest is the smallest. Add smaller choices, such as 2x2n4e1 or -, or use uniform or fair"
        )
