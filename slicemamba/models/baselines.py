"""Networks to compare with, trained and scored by the same code.

- U-Net (Ronneberger et al., arXiv 1505.04597) and Attention U-Net (Oktay et al., arXiv 1804.03999), as MONAI has them.
- VM-UNet (arXiv 2402.02491) needs no code of its own. Its SS2D scans the map row by row, column by column, and both
  backwards; horizontal slices one row high and vertical slices one column wide are just that. So VM-UNet is
  SliceMamba with slices of 1×1 in every block, up to the numbering of the four directions.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from slicemamba.config import ModelConfig
from slicemamba.models.layers import fit_image

ConvKind = Literal["unet", "attention_unet"]
CONV_KINDS: tuple[ConvKind, ...] = get_args(ConvKind)
TITLES: dict[str, str] = {"unet": "U-Net", "attention_unet": "Attention U-Net"}
_LEVELS = 5


class ConvUNet(nn.Module):
    """U-Net or Attention U-Net of MONAI over five resolutions, with the interface of ``SliceMambaUNet``.

    Widths are ⅔·C, doubled at each of four downsamplings: the usual 64 … 1024 at C = 96, where U-Net has 31.1 M
    parameters and Attention U-Net 31.7 M, beside the 35.8 M of SliceMamba. Beside the skeleton ``conv`` they are C, as
    there. The rest is as MONAI sets it: U-Net with instance norm and leaky ReLU, Attention U-Net with batch norm and
    ReLU.

    Args:
        kind: which of the two.
        config: ``embed_dim`` is C; the other settings are of scanning blocks and have no effect.
        num_classes: channels of the logits; 1 for binary segmentation.
    """

    stride = 2**_LEVELS
    """Height and width are padded to a multiple of it: the smallest map is then 2×2, which instance norm needs."""

    def __init__(self, kind: ConvKind, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        # Imported here, as it takes seconds and most commands do without.
        from monai.networks.nets.attentionunet import AttentionUnet
        from monai.networks.nets.basic_unet import BasicUNet

        self.kind = kind
        self.config = config
        self.num_classes = num_classes
        first = config.embed_dim if config.skeleton == "conv" else round(config.embed_dim * 2 / 3)
        widths = [first * 2**level for level in range(_LEVELS)]
        self.body: nn.Module = (
            BasicUNet(2, config.in_channels, num_classes, features=(*widths, widths[0]))
            if kind == "unet"
            else AttentionUnet(2, config.in_channels, num_classes, channels=widths, strides=[2] * (_LEVELS - 1))
        )

    def heads(self) -> list[nn.Conv2d]:
        """What gives the logits: MONAI's last convolution."""
        return [module for module in self.body.modules() if isinstance(module, nn.Conv2d)][-1:]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W), any H and W → logits (B, num_classes, H, W)."""
        logits: Tensor = self.body(fit_image(image, self.stride, self.config.in_channels))
        return logits[..., : image.shape[2], : image.shape[3]].contiguous()
