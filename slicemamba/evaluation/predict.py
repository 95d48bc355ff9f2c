"""Prediction on files: pictures and volumes in, masks of the same size out.

<name> is that of the input, with its sub-folder when a folder was given:

<out>/<name>.png | .nii.gz                              masks
<out>/<name>_seg.dcm                                    with ``dicom_seg``, of DICOM series
<out>/probabilities/<name>.png | .npz | .nii.gz         with ``probabilities``
<out>/overlays/<name>.png                               with ``overlays``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from slicemamba.config import DataConfig
from slicemamba.data.cases import case_and_channel, check_complete, join_channels, read_channel_volumes, read_channels
from slicemamba.data.dicom_seg import write_segmentation
from slicemamba.data.findings import BadFileError, Fault
from slicemamba.data.reading import as_picture, image_of
from slicemamba.data.volumes import (
    Volume,
    base_name,
    is_volume,
    write_labels,
    write_probabilities,
)
from slicemamba.errors import InputError, name_some
from slicemamba.evaluation.drawing import PREDICTION_COLOUR, Pixels, draw_outlines, enlarge, enlargement, tile
from slicemamba.evaluation.inference import Segmenter
from slicemamba.files import file_name, writing

Case = tuple[Path, ...]
"""The files of an image: one, or one a channel."""

PROBABILITIES, OVERLAYS = "probabilities", "overlays"
SEG = "_seg.dcm"
_SHEET = 12  # slices on the overlay of a volume
_NOT_FINITE = "the network gives values that are not finite"


@dataclass(frozen=True)
class Outputs:
    """What is written, and from what values of volumes.

    Attributes:
        folder: for the masks; further files go into folders below it.
        probabilities: write them too: 16-bit PNG (65535 is 1) of a binary network, else float16 ``probabilities``
            (K, H, W) in .npz; float32 NIfTI of volumes.
        overlays: write outlines on the image; of a volume, on up to 12 of its slices.
        window: values (low, high) of volumes that become 0 and 1; the network's own when None.
        roots: folders of inputs, whose sub-folders are kept.
        dicom_seg: write masks of DICOM series as DICOM SEG, too, which bears the tags of patient and study.
    """

    folder: Path
    probabilities: bool = False
    overlays: bool = False
    window: tuple[float, float] | None = None
    roots: tuple[Path, ...] = ()
    dicom_seg: bool = False


@dataclass
class Predicted:
    """Masks written, and the files that gave none with the reason; what to do about these reasons, each once."""

    masks: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    mends: list[str] = field(default_factory=list)

    def fail(self, path: Path, error: InputError) -> None:
        """Keeps the reason for a file."""
        bad = error if isinstance(error, BadFileError) else None
        self.failed[path] = str(error) if bad is None else bad.brief
        if bad is not None and bad.mend not in self.mends:
            self.mends.append(bad.mend)


def predict_files(
    segmenter: Segmenter,
    inputs: Sequence[Path],
    outputs: Outputs,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predicted:
    """Writes a mask for each image, at its own size; a file that cannot be read does not stop the others.

    Files of one channel each that are named as nnU-Net names them are one image (``cases.join_channels``).

    Masks of a binary network are PNG with 0 and 255, those of others PNG with the classes; those of volumes are NIfTI
    with the classes and the volume's geometry.

    Args:
        segmenter: the network.
        inputs: files; see ``inputs.find_inputs`` and ``name_masks``.
        outputs: what is written where.
        on_progress: called as (images and slices done, those known of in all).

    Raises:
        InputError: two inputs have one name, or a mask would overwrite an input; then nothing has been computed.
    """
    cases = list(join_channels(inputs, segmenter.config).values())
    places = name_masks(cases, outputs)
    _make_folders(outputs, {place.parent for place in places.values()})
    result = Predicted()
    pictures, volumes = list[Case](), list[Case]()
    for parts in cases:
        (volumes if is_volume(parts[0]) else pictures).append(parts)
    done = _Count(len(cases), on_progress)
    batch_size = segmenter.options.batch_size
    for start in range(0, len(pictures), batch_size):
        batch = {parts: places[parts] for parts in pictures[start : start + batch_size]}
        _predict_pictures(segmenter, batch, outputs, result, done)
    for parts in volumes:
        _predict_volume(segmenter, parts, places[parts], outputs, result, done)
    return result


class _Count:
    """Progress over files, of which volumes turn out to be many slices when they are opened."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._tell = 0, total, on_progress

    def expect(self, more: int) -> None:
        self._total += more

    def step(self) -> None:
        self._done += 1
        self._tell(self._done, self._total)


def name_masks(cases: Sequence[Case], outputs: Outputs) -> dict[Case, Path]:
    """Where the mask of each case goes below the output folder, without ending: sub-folders are kept.

    Inputs whose names differ in their extension alone keep it, as ``a.jpg`` and ``a.png`` in one folder.

    Raises:
        InputError: two files would go to one place, or one would overwrite an input.
    """
    stems = {parts: _place(parts[0], outputs.roots) / _name(parts) for parts in cases}
    uses = Counter(stems.values())
    places = {parts: stem if uses[stem] == 1 else stem.with_name(parts[0].name) for parts, stem in stems.items()}
    files = Counter(file for parts in cases for file in _written(places[parts], parts, outputs))
    twins = sorted(str(file) for file, count in files.items() if count > 1)
    if twins:
        raise InputError(f"images need different names, as their masks go into one folder; twice: {name_some(twins)}")
    here = {path.resolve() for parts in cases for path in parts}
    lost = sorted(file for file in files if file.resolve() in here)
    if lost:
        raise InputError(f"what is written would overwrite inputs: {name_some(lost)}; give another folder as --out")
    return places


def _name(parts: Case) -> str:
    return base_name(parts[0]) if len(parts) == 1 else case_and_channel(parts[0])[0]


def _written(place: Path, parts: Case, outputs: Outputs) -> list[Path]:
    """All files that a case may give."""
    volume = is_volume(parts[0])
    found = [_file(outputs.folder / place, ".nii.gz" if volume else ".png")]
    found += [_file(outputs.folder / place, SEG)] if outputs.dicom_seg and parts[0].is_dir() else []
    if outputs.probabilities:
        endings = (".nii.gz",) if volume else (".png", ".npz")
        found += [_file(outputs.folder / PROBABILITIES / place, ending) for ending in endings]
    return found + ([_file(outputs.folder / OVERLAYS / place, ".png")] if outputs.overlays else [])


def _place(path: Path, roots: Sequence[Path]) -> Path:
    """The folder of a file, relative to the one it was found in."""
    return next((path.parent.relative_to(root) for root in roots if path.parent.is_relative_to(root)), Path())


def _file(place: Path, ending: str) -> Path:
    return place.with_name(file_name(place.name, ending))


def _make_folders(outputs: Outputs, below: Collection[Path]) -> None:
    wanted = {"": True, PROBABILITIES: outputs.probabilities, OVERLAYS: outputs.overlays}
    try:
        for name, needed in wanted.items():
            if needed:
                for place in below:
                    (outputs.folder / name / place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{outputs.folder} cannot be created: {error.strerror}; give another folder as --out"
        ) from None


def _predict_pictures(
    segmenter: Segmenter, places: Mapping[Case, Path], outputs: Outputs, result: Predicted, done: _Count
) -> None:
    images: dict[Case, Pixels] = {}
    for parts in places:
        try:
            check_complete(parts, segmenter.config.channels)
            images[parts] = image_of(parts[0], segmenter.config) if len(parts) == 1 else read_channels(parts)
        except BadFileError as error:
            result.fail(parts[0], error)
            done.step()
    if not images:
        return
    for (parts, image), probabilities in zip(images.items(), segmenter.pictures(list(images.values())), strict=True):
        if torch.isfinite(probabilities).all():
            result.masks.append(_save_picture(segmenter, places[parts], image, probabilities, outputs))
        else:
            result.failed[parts[0]] = f"{parts[0].name} ({_NOT_FINITE})"
        done.step()


def _save_picture(segmenter: Segmenter, place: Path, image: Pixels, probabilities: Tensor, outputs: Outputs) -> Path:
    binary = segmenter.config.num_classes == 1
    labels, mask = segmenter.labels(probabilities), outputs.folder / _file(place, ".png")
    _save_image(labels * np.uint8(255) if binary else labels, mask)
    if outputs.probabilities and binary:
        grey = np.rint(probabilities[0].numpy() * 65535).astype(np.uint16)
        _save_image(grey, outputs.folder / PROBABILITIES / _file(place, ".png"))
    elif outputs.probabilities:
        half = probabilities.numpy().astype(np.float16)
        with writing(outputs.folder / PROBABILITIES / _file(place, ".npz")) as draft:
            np.savez_compressed(draft, probabilities=half)
    if outputs.overlays:
        drawn = draw_outlines(as_picture(image), labels, PREDICTION_COLOUR if binary else None)
        _save_image(drawn, outputs.folder / OVERLAYS / _file(place, ".png"))
    return mask


def _save_image(array: Pixels, path: Path) -> None:
    with writing(path) as draft:
        Image.fromarray(array).save(draft)


def _predict_volume(
    segmenter: Segmenter, parts: Case, place: Path, outputs: Outputs, result: Predicted, done: _Count
) -> None:
    try:
        check_complete(parts, segmenter.config.channels)
        volume = open_volume(parts, segmenter, outputs.window)
        done.expect(len(volume.image) - 1)
        labels, probabilities = segment_volume(
            segmenter, volume, with_probabilities=outputs.probabilities, on_slice=done.step
        )
    except InputError as error:
        result.fail(parts[0], error)
        done.step()
        return
    mask = _file(outputs.folder / place, ".nii.gz")
    write_labels(mask, labels, volume)
    if probabilities is not None:
        write_probabilities(outputs.folder / PROBABILITIES / place.parent / mask.name, probabilities, volume)
    if outputs.overlays:
        sheet = contact_sheet(volume.image, labels, binary=segmenter.config.num_classes == 1)
        _save_image(sheet, outputs.folder / OVERLAYS / _file(place, ".png"))
    result.masks.append(mask)
    if outputs.dicom_seg and parts[0].is_dir():
        try:
            write_segmentation(_file(outputs.folder / place, SEG), labels, parts[0], class_names(segmenter.config))
        except InputError as error:
            result.fail(parts[0], error)


def class_names(config: DataConfig) -> list[str]:
    """Of the classes from 1 on."""
    count = max(2, config.num_classes)
    return list((config.class_names or [f"class {label}" for label in range(count)])[1:])


def open_volume(parts: Case, segmenter: Segmenter, window: tuple[float, float] | None = None) -> Volume:
    """Reads a volume, of one file or of one a channel, as the network's training slices were read.

    Raises:
        BadFileError: as ``read_volume``, or another number of channels than the network takes.
        InputError: a network that takes values as they are (``intensity: unit``) needs a window for values like these.
    """
    path = parts[0]
    volume = read_channel_volumes(parts, window or segmenter.config.window, segmenter.config.channels)
    stored = 1 if volume.image.ndim == 3 else volume.image.shape[3]
    if stored != segmenter.config.channels and (stored, segmenter.config.channels) != (1, 3):
        raise BadFileError(Fault.CHANNELS, f"{path.name} has {stored}, not {segmenter.config.channels}")
    low, high = float(volume.image.min()), float(volume.image.max())
    if segmenter.config.intensity == "unit" and not -0.5 <= low <= high <= 1.5:
        raise InputError(
            f"{path.name} holds values from {low:g} to {high:g}, but the network takes 0…1; say which values become 0 "
            "and 1, such as -125 and 275 for abdominal CT: predict --window=-125,275, or data.window of the network"
        )
    return volume


def segment_volume(
    segmenter: Segmenter,
    volume: Volume,
    *,
    with_probabilities: bool = False,
    on_slice: Callable[[], None] = lambda: None,
) -> tuple[Pixels, npt.NDArray[np.float32] | None]:
    """Labels (Z, H, W) of a volume, slice by slice, and on demand probabilities (K, Z, H, W).

    Raises:
        InputError: the network gives values that are not finite.
    """
    labels = np.empty(volume.image.shape[:3], dtype=np.uint8)
    kept: list[npt.NDArray[np.float32]] = []
    for z, (slice_labels, probabilities) in enumerate(segmenter.slices(volume.image)):
        if not torch.isfinite(probabilities).all():
            raise InputError(f"{volume.name}, slice {z} ({_NOT_FINITE})")
        labels[z] = slice_labels
        if with_probabilities:
            kept.append(probabilities.numpy())
        on_slice()
    return labels, np.stack(kept, axis=1) if with_probabilities else None


def contact_sheet(image: npt.NDArray[np.float32], labels: Pixels, *, binary: bool) -> Pixels:
    """Up to 12 slices with outlines, evenly spread over those with a label (over all where none has one)."""
    marked = np.flatnonzero(labels.any(axis=(1, 2)))
    among = marked if len(marked) else np.arange(len(labels))
    chosen = among[np.unique(np.linspace(0, len(among) - 1, min(_SHEET, len(among))).round().astype(int))]
    low, span = float(image.min()), max(float(np.ptp(image)), 1e-6)
    colour = PREDICTION_COLOUR if binary else None
    factor = enlargement(labels.shape[1:])
    stretched = ((image if image.ndim == 4 else image[..., None]) - low) / span
    pictures = [
        draw_outlines(enlarge(as_picture(stretched[z]), factor), enlarge(labels[z], factor), colour) for z in chosen
    ]
    return tile(pictures, columns=4)
