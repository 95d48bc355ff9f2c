"""Prediction on image files: a mask file for each, at the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.findings import BadFileError
from slicemamba.data.isic import IMAGE_EXTENSIONS
from slicemamba.data.reading import read_image, resize_image, resize_mask
from slicemamba.data.transforms import to_input
from slicemamba.errors import InputError, name_some
from slicemamba.evaluation.metrics import to_labels
from slicemamba.models.ensemble import SegmentationNetwork


@dataclass
class Predicted:
    """Masks written, and the files that could not be read with the reason."""

    masks: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as given, folders by the images in them (not below), sorted.

    Raises:
        InputError: a path does not exist, or there is no image at all.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(f"no such file or folder: {name_some(missing)}")
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS) if path.is_dir() else [path]
        found += inside
    if not found:
        raise InputError(f"no image ({', '.join(sorted(IMAGE_EXTENSIONS))}) in {name_some(list(paths))}")
    return found


@torch.inference_mode()
def predict_files(
    network: SegmentationNetwork,
    images: Sequence[Path],
    destination: Path,
    *,
    config: DataConfig,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Writes ``<destination>/<name>.png`` for each image: 0 and 255 for a binary network, labels for a multi-class one.

    Args:
        network: in eval mode, on ``device``.
        images: files; two of one name are refused, as one mask would overwrite the other.
        config: of the data the network was trained on: its size and intensity. Masks get each image's own size back.
        on_progress: called as (done, in all).

    Raises:
        InputError: two images have one name. A file that cannot be read does not stop the others; see ``Predicted``.
    """
    stems = [path.stem for path in images]
    twins = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twins:
        raise InputError(f"images must differ in name, as their masks go into one folder; twice: {name_some(twins)}")
    destination.mkdir(parents=True, exist_ok=True)
    result = Predicted()
    for done, path in enumerate(images, 1):
        try:
            image = read_image(path)
        except BadFileError as error:
            result.failed[path] = str(error)
        else:
            logits = network(to_input(resize_image(image, config.image_size)[None], config.intensity).to(device))
            labels = to_labels(logits, network.num_classes)[0].to(torch.uint8).cpu().numpy()
            mask = resize_mask(labels * np.uint8(255 if network.num_classes == 1 else 1), image.shape[:2])
            Image.fromarray(mask).save(destination / f"{path.stem}.png")
            result.masks.append(destination / f"{path.stem}.png")
        if on_progress is not None:
            on_progress(done, len(images))
    return result
