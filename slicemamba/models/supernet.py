"""The supernet: one network that holds every slicing of the search space (METHOD: Adaptive Slicing Search).

Only the blocks of the given architecture run, so a step costs what one network costs, however many choices there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from slicemamba.architecture import Architecture, SliceSize, format_slice_size
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block
from slicemamba.models.unet import SliceMambaUNet, SliceUNet, block_factory

WeightSharing = Literal["separate", "shared"]


class ChoiceBlock(nn.ModuleList):
    """One S³ block for each slice size, of which ``forward`` runs the one asked for."""

    def __init__(self, choices: Sequence[SliceSize], blocks: Iterable[S3Block]) -> None:
        super().__init__(blocks)
        self.choices = tuple(choices)

    def pick(self, slice_size: SliceSize) -> S3Block:
        """Raises InputError for a slice size that is not among the choices."""
        try:
            block = self[self.choices.index(slice_size)]
        except ValueError:
            known = ", ".join(map(format_slice_size, self.choices))
            raise InputError(
                f"slice size {format_slice_size(slice_size)} is not among the supernet's choices {known}"
            ) from None
        assert isinstance(block, S3Block)
        return block

    def forward(self, x: Tensor, slice_size: SliceSize) -> Tensor:
        y: Tensor = self.pick(slice_size)(x, slice_size)
        return y


class Supernet(SliceUNet):
    """All architectures over ``choices`` in one network.

    Args:
        config, num_classes: as of the network.
        choices: slice sizes that each block may take.
        weight_sharing: ``separate`` – every choice has weights of its own (published); ``shared`` – all choices of a
            block use the same weights, and any slice size is accepted.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        choices: Sequence[SliceSize],
        weight_sharing: WeightSharing = "separate",
    ) -> None:
        make = block_factory(config)

        def make_choices(dim: int, drop_path: float) -> nn.Module:
            return ChoiceBlock(choices, [make(dim, drop_path) for _ in choices])

        super().__init__(config, num_classes, make_choices if weight_sharing == "separate" else make)
        self.choices = tuple(choices)
        self.weight_sharing = weight_sharing

    def forward(self, image: Tensor, architecture: Architecture) -> Tensor:
        """(B, 1 or 3, H, W) → logits (B, num_classes, H, W) of the given subnet."""
        return self.run(image, architecture)

    def extract(self, architecture: Architecture) -> SliceMambaUNet:
        """A plain network with copies of the weights of one subnet; its outputs equal the supernet's.

        Raises:
            InputError: the architecture is not one of this supernet.
        """
        network = SliceMambaUNet(self.config, self.num_classes, architecture)
        outside = {key: value for key, value in self.state_dict().items() if ".blocks." not in key}
        network.load_state_dict(outside, strict=False)
        for block, copy, size in zip(self.blocks(), network.blocks(), architecture.blocks(), strict=True):
            chosen = block.pick(size) if isinstance(block, ChoiceBlock) else block
            copy.load_state_dict(chosen.state_dict())
        return network.train(self.training).to(next(self.parameters()).device)
