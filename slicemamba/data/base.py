"""A split of a data set in memory-mapped arrays, whatever it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import DataConfig, Intensity
from slicemamba.data.cache import Source, cached_arrays, own_sizes
from slicemamba.data.catalog import SYNTHETIC, resolve_root
from slicemamba.data.findings import raise_findings
from slicemamba.data.fit import count_windows, enlarge
from slicemamba.data.folds import part_anew
from slicemamba.data.pairs import Pair, fingerprint_files, match_folders
from slicemamba.data.parallel import Progress
from slicemamba.data.patients import groups_of
from slicemamba.data.reading import IGNORED, as_picture, read_pair, resize_pair, size_of_picture
from slicemamba.data.slices import read_slice
from slicemamba.data.splits import SPLITS, check_split_name, split_pairs
from slicemamba.data.synthetic import GENERATOR_VERSION, draw_lesion, split_size

Pixels = NDArray[np.uint8]
READING_OPTIONS = {"num_classes", "label_map", "window", "channels", "per_channel", "ignore_label"}
"""Options that change what is read from a file."""


@dataclass(frozen=True, eq=False)
class SegmentationData:
    """One split, decoded and resized.

    Attributes:
        images: (N, H, W, C) uint8, RGB unless ``channels`` says otherwise, or float32 (slices of volumes), where C may
            be 1 for three equal channels; memory-mapped for reading.
        masks: (N, H, W) uint8 class indices; 0 and 1 when ``num_classes`` is 1, and ``IGNORED`` where nothing counts.
        names: N file names without extension, in the arrays' order.
        split: train, val, search or test.
        num_classes, intensity, channels: as in DataConfig.
        patients: N, each image's patient, or a name of its own where that is not told; None where nobody looked.
        per_channel: whether each channel is scaled on its own.
        window: (height, width) of what the network sees where images are not resized (``fit: patch``); None where it
            sees them whole. Then arrays are as large as the largest image, and each is in the upper left corner.
        sizes: (N, 2) height and width of each image there; None without a window.
        stretched: N files whose pictures were resized whatever their proportions; None where these were kept.
    """

    images: NDArray[Any]
    masks: Pixels
    names: tuple[str, ...]
    split: str
    num_classes: int
    intensity: Intensity = "minmax"
    patients: tuple[str, ...] | None = None
    channels: int = 3
    per_channel: bool = False
    window: tuple[int, int] | None = None
    sizes: NDArray[np.int64] | None = None
    stretched: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the network is given."""
        return self.window or (self.masks.shape[1], self.masks.shape[2])

    @property
    def num_samples(self) -> int:
        """Samples of an epoch of training: images, or the windows that they have room for."""
        return int(self.samples_by_image.sum())

    @property
    def samples_by_image(self) -> NDArray[np.int64]:
        """(N,) samples that each image gives in an epoch."""
        if self.window is None or self.sizes is None:
            return np.ones(len(self), np.int64)
        return np.array([count_windows((height, width), self.window) for height, width in self.sizes.tolist()])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image number ``index``."""
        height, width = self.masks.shape[1:] if self.sizes is None else self.sizes[index].tolist()
        return height, width

    def inside(self, index: int) -> tuple[slice, slice]:
        """Its rows and columns in arrays as large as the largest."""
        height, width = self.size(index)
        return slice(height), slice(width)

    def own(self, arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """Arrays (N, H, W) as large as the largest image, each cut to its own."""
        return [array[self.inside(index)] for index, array in enumerate(arrays)]

    def take(self, chosen: slice) -> SegmentationData:
        """Some of the images, without reading any."""
        return replace(
            self,
            images=self.images[chosen],
            masks=self.masks[chosen],
            names=self.names[chosen],
            patients=None if self.patients is None else self.patients[chosen],
            sizes=None if self.sizes is None else self.sizes[chosen],
            stretched=None if self.stretched is None else self.stretched[chosen],
        )

    def proportion(self, index: int) -> float:
        """Width of image number ``index`` over its height, before it was resized."""
        height, width = self.size(index)
        if self.stretched is not None:
            height, width = size_of_picture(self.stretched[index]) or (height, width)
        return width / height

    def picture(self, index: int) -> Pixels:
        """Image number ``index`` for drawing: (H, W, 3) uint8, whatever the set is stored as."""
        return as_picture(np.asarray(self.images[index][self.inside(index)]))


def load_split(
    config: DataConfig, split: str, cache_dir: Path, on_progress: Progress | None = None
) -> SegmentationData:
    """Loads a split, decoding it on the first call only.

    To hand a split to other processes, hand over ``config`` and ``cache_dir``: they map the same file, whereas a
    pickled memory map becomes a full copy.

    Args:
        config: the data set; a name without root is looked up in SLICEMAMBA_DATA.
        split: train, val, search or test.
        cache_dir: where decoded arrays are kept; shared by all data sets and processes.
        on_progress: called as (done, total) while decoding; not called when the arrays are there already.

    Raises:
        InputError: unknown set or split, a faulty file, or a cache folder that cannot be written.
    """
    check_split_name(split)
    config = resolve_root(config)
    source = _synthetic_source(config, split) if config.name == SYNTHETIC else _folder_source(config, split)
    return _load(config, source, split, cache_dir, on_progress)


def load_folders(config: DataConfig, folders: tuple[Path, Path], split: str, cache_dir: Path) -> SegmentationData:
    """As ``load_split``, for a folder of images and one of their masks, without splits; ``split`` is only a name."""
    pairs, findings = match_folders(*folders, split)
    raise_findings(findings, subject=f"data set {config.name!r}")
    return _load(config, _pairs_source(config, pairs, split), split, cache_dir, None)


def _load(
    config: DataConfig, source: Source, split: str, cache_dir: Path, on_progress: Progress | None
) -> SegmentationData:
    images, masks = cached_arrays(cache_dir, source, config.image_size, on_progress)
    patients = tuple(groups_of(source.names, config))
    return SegmentationData(
        images,
        masks,
        source.names,
        split,
        config.num_classes,
        config.intensity,
        patients,
        config.channels,
        config.scales_each,
        window=config.image_size if source.native else None,
        sizes=own_sizes(cache_dir, source, config.image_size) if source.native else None,
        stretched=source.files if config.fit == "stretch" else None,
    )


def _synthetic_source(config: DataConfig, split: str) -> Source:
    seed = config.synthetic.seed
    parts = {part: _synthetic_names(config, part) for part in SPLITS}
    parts["train"], parts["val"] = part_anew(parts["train"], parts["val"], config, str)
    names = parts[split]

    def read(index: int) -> tuple[NDArray[Any], Pixels]:
        drawn_for, _, number = names[index].partition("_")
        return draw_lesion(seed, drawn_for, int(number), config.image_size)

    return Source(
        label=f"{SYNTHETIC}-{split}",
        identity={"generator": GENERATOR_VERSION, "seed": seed, "split": split, **_fitted(config)},
        names=tuple(names),
        read=read,
        native=config.fit == "patch",
    )


def _synthetic_names(config: DataConfig, split: str) -> list[str]:
    return [f"{split}_{index:05d}" for index in range(split_size(config.synthetic, split))]


def _folder_source(config: DataConfig, split: str) -> Source:
    assert config.root is not None  # resolve_root has set it
    return _pairs_source(config, split_pairs(config.root, config)[split], split)


def _pairs_source(config: DataConfig, pairs: list[Pair], split: str) -> Source:
    def read(index: int) -> tuple[NDArray[Any], Pixels]:
        image, mask = read_pair(pairs[index], config)
        if config.fit == "patch":
            return enlarge(image, config.image_size), enlarge(mask, config.image_size, IGNORED)
        return resize_pair(image, mask, config.image_size, config.fit)

    volumes = pairs[0].is_slice  # all of a set or none
    files = [path for pair in pairs for path in (pair.image, pair.mask)]
    options = config.model_dump(mode="json", include=READING_OPTIONS)
    options |= _fitted(config)
    return Source(
        label=f"{config.name}-{split}",
        identity={"files": fingerprint_files(files), **options},
        names=tuple(pair.name for pair in pairs),
        read=read,
        channels=_stored_channels(pairs[0]) if volumes else config.channels,
        dtype="float32" if volumes else "uint8",
        native=config.fit == "patch",
        files=None if volumes else tuple(pair.image for pair in pairs),
    )


def _fitted(config: DataConfig) -> dict[str, str]:
    """What tells entries apart that differ in nothing but ``fit``; those of the first way are older than it."""
    return {} if config.fit == "stretch" else {"fit": config.fit}


def _stored_channels(pair: Pair) -> int:
    """Channels of a slice as it is stored: one or more."""
    image, _ = read_slice(pair.image, pair.slice_index)
    return 1 if image.ndim == 2 else int(image.shape[2])
