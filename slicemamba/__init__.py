"""SliceMamba: a U-shaped vision-Mamba segmentation network whose blocks slice their feature maps before scanning.

What a notebook needs stands here, and is imported when it is first asked for:

    segmenter = slicemamba.Segmenter.load("runs/skin")      # a run's folder, a network's or a bundle's
    masks = segmenter.masks([image])                        # (h, w, 3) uint8 in, (h, w) labels out
    network = slicemamba.SliceMambaUNet(config, 1, slicemamba.Architecture.uniform("2x2", config.depths))

A search's handle, with trials as a table and plots, is ``api.client.http.Client().search("latest")``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slicemamba.architecture import Architecture
    from slicemamba.config import DataConfig, ModelConfig
    from slicemamba.evaluation.inference import InferenceOptions, Segmenter
    from slicemamba.models.checkpoints import load_network
    from slicemamba.models.supernet import Supernet
    from slicemamba.models.unet import SliceMambaUNet

__version__ = "0.1.0"

_HOME = {
    "Architecture": "architecture",
    "DataConfig": "config",
    "InferenceOptions": "evaluation.inference",
    "ModelConfig": "config",
    "Segmenter": "evaluation.inference",
    "SliceMambaUNet": "models.unet",
    "Supernet": "models.supernet",
    "load_network": "models.checkpoints",
}
__all__ = [
    "Architecture",
    "DataConfig",
    "InferenceOptions",
    "ModelConfig",
    "Segmenter",
    "SliceMambaUNet",
    "Supernet",
    "load_network",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'slicemamba' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"slicemamba.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
