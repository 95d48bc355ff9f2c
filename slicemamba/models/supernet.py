"""The supernet: one network that holds every slicing of the search space (METHOD: Adaptive Slicing Search).

Only the blocks of the given architecture run, so a step costs what one network costs, however many choices there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from slicemamba.architecture import SKIP, Architecture, Block, SliceSize, as_block, format_block
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block, SkippedBlock
from slicemamba.models.conv_skeleton import ConvPair
from slicemamba.models.unet import SliceMambaUNet, SliceUNet, make_block

WeightSharing = Literal["separate", "shared"]


class ChoiceBlock(nn.ModuleList):
    """One S³ block for each choice, of which ``forward`` runs the one asked for."""

    def __init__(self, choices: Sequence[Block], blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.choices = tuple(choices)

    def pick(self, block: Block) -> S3Block | SkippedBlock:
        """Raises InputError for a block that is not among the choices."""
        try:
            module = self[self.choices.index(block)]
        except ValueError:
            known = ", ".join(map(format_block, self.choices))
            raise InputError(f"block {format_block(block)} is not among the supernet's choices {known}") from None
        assert isinstance(module, (S3Block, SkippedBlock))
        return module

    def forward(self, x: Tensor, block: Block) -> Tensor:
        y: Tensor = self.pick(block)(x, block)
        return y

    def weights(self, block: Block) -> dict[str, Tensor]:
        """The weights of the choice, by name."""
        return dict(self.pick(block).named_parameters())


class Supernet(SliceUNet):
    """All architectures over ``choices`` in one network.

    Args:
        config, num_classes: as of the network.
        choices: what each block may take; slice sizes, and smaller or no blocks (see ``slicemamba.architecture``).
        weight_sharing: ``separate`` – every choice has weights of its own (published); ``shared`` – all choices of a
            block use the same weights, and any slice size is accepted. The widths of convolutions always share theirs.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        choices: Sequence[Block | SliceSize],
        weight_sharing: WeightSharing = "separate",
    ) -> None:
        blocks = tuple(map(as_block, choices))

        def make_choices(dim: int, drop_path: float) -> nn.Module:
            if weight_sharing == "shared":
                return make_block(config, dim, drop_path, [_whole(block) for block in blocks])
            of_blocks = [block for block in blocks if not block.divisor]
            return ChoiceBlock(of_blocks, [make_block(config, dim, drop_path, [block]) for block in of_blocks])

        super().__init__(config, num_classes, make_choices, ConvPair)
        self.choices = blocks
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
        inside = re.compile(r"(\.blocks\.|conv\.stages\.)")
        outside = {key: value for key, value in self.state_dict().items() if not inside.search(key)}
        network.load_state_dict(outside, strict=False)
        for module, copy, block in zip(self.blocks(), network.blocks(), architecture.blocks(), strict=True):
            assert isinstance(module, (S3Block, ChoiceBlock, ConvPair, SkippedBlock))
            copy.load_state_dict({} if block == SKIP else module.weights(block))
        return network.train(self.training).to(next(self.parameters()).device)


def _whole(block: Block) -> Block:
    """The block with the sizes that the network gives to those that name none: shared weights hold all of them."""
    return block._replace(d_state=0, expand=0)
