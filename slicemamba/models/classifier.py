"""The encoder as a classifier: pretrained on labelled pictures, its weights then start a segmentation network.

    image → PatchEmbed → encoder stages → LayerNorm → mean over the map → Linear → logits (B, classes)

Module names of the encoder are those of the segmentation network, so its weights fit there by name.
Source: VMamba (arXiv 2401.10166), whose classifier has the same order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from slicemamba.architecture import Architecture
from slicemamba.config import Config, ModelConfig
from slicemamba.errors import InputError
from slicemamba.files import write_json, writing
from slicemamba.models.checkpoints import CARD, WEIGHTS
from slicemamba.models.layers import PatchEmbed, fit_image
from slicemamba.models.unet import encoder_stages, init_linear, make_block, stage_dims


class SliceClassifier(nn.Module):
    """Classifies pictures with the encoder of an architecture; its decoder's slice sizes are not used.

    Args:
        config: widths, depths and block settings. num_classes: of the pictures.
        architecture: slice sizes, of encoder and decoder as everywhere.
    """

    def __init__(self, config: ModelConfig, num_classes: int, architecture: Architecture) -> None:
        super().__init__()
        if architecture.depths != config.depths:
            raise InputError(f"architecture has stages of depths {architecture.depths}, the network {config.depths}")
        self.config = config
        self.num_classes = num_classes
        self.architecture = architecture
        dims = stage_dims(config)
        self.patch_embed = PatchEmbed(dims[0], config.in_channels)
        blocks = architecture.blocks()
        self.layers = encoder_stages(config, lambda dim, drop_path: make_block(config, dim, drop_path, [next(blocks)]))
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(init_linear)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) → logits (B, num_classes)."""
        x = self.patch_embed(fit_image(image, self.config.stride, self.config.in_channels))
        for stage, blocks in zip(self.layers, self.architecture.stages, strict=False):  # the decoder's are left
            x = stage(x, blocks)
        logits: Tensor = self.head(self.norm(x).mean(dim=(1, 2)))
        return logits


class EncoderCard(Config):
    """What a pretrained encoder is, beside its weights.

    Attributes:
        classes: names of the classes, in the order of the head's outputs. data: name of the data set.
    """

    format: Literal[1] = 1
    kind: Literal["encoder"] = "encoder"
    model: ModelConfig
    architecture: str
    classes: tuple[str, ...]
    data: str


def save_encoder(folder: Path, network: SliceClassifier, classes: tuple[str, ...], data: str) -> None:
    """Writes ``weights.safetensors`` and ``config.json``; the card last, so a folder with a card is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with writing(folder / WEIGHTS) as draft:
        save_file(state, draft)
    card = EncoderCard(model=network.config, architecture=str(network.architecture), classes=classes, data=data)
    write_json(folder / CARD, card.model_dump(mode="json"))


def read_encoder_card(folder: Path) -> EncoderCard | None:
    """The card of a pretrained encoder; None where the folder holds something else."""
    try:
        return EncoderCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
