"""Decoding of image and mask files, with every check that needs the pixels.

Arrays are rows first: images (H, W, C) uint8, C = 3 unless ``data.channels`` says otherwise, or (H, W, C) float32 for
slices of volumes; masks (H, W) uint8 holding class indices. Pixels are taken as they are stored: an EXIF orientation is
not applied, as masks are drawn on the stored pixels and carry no such tag (but Pillow applies that of TIFF).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from slicemamba.config import DataConfig, Fit
from slicemamba.data.dicom import is_dicom, read_frame
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.data.fit import Box, box_in, pad
from slicemamba.data.pairs import Pair
from slicemamba.data.slices import read_slice, resize_slice, resize_slice_labels
from slicemamba.data.tiff import DEEP, read_unusual
from slicemamba.data.tiff import EXTENSIONS as TIFF_EXTENSIONS
from slicemamba.data.volumes import check_orientation, is_nifti, read_nifti

Pixels = NDArray[np.uint8]
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow modes of one channel with more than 8 bits."""

ALPHA_MODES = ("RGBA", "LA", "PA")

IGNORED = 255
"""In masks of classes: pixels to be left out of training and scores."""

BINARY_WHITES = (1, 255, 65535)


def read_image(
    path: Path, window: tuple[float, float] | None = None, channels: int = 3, per_channel: bool = False
) -> Pixels:
    """Decodes an image, (H, W, channels) uint8.

    With 3 channels, grey and palette pictures become RGB, and with 1, colours become grey; an alpha channel that is the
    same everywhere is dropped, unless 4 channels are wanted (or 2, of grey with alpha).
    Pictures of 16 or 32 bits are stretched from their own lowest and highest value to 0…255, as the network's input is
    stretched so anyway; so are NIfTI slices, unless ``window`` gives the values (low, high) that become 0 and 255.

    Args:
        path: the file. window, channels: as in DataConfig.
        per_channel: stretch each channel on its own; the pages of a TIFF may then be channels.

    Raises:
        BadFileError: the file is missing, broken or no picture of a known format, has an alpha channel that varies, or
            another number of channels.
    """
    if is_nifti(path):
        values = _nifti_slice(path)
        return _fit_channels(
            _stretch(values if window is None else np.clip(values, *window), path, window), path, channels
        )
    if is_dicom(path):
        values = read_frame(path)
        if window is not None and values.ndim == 2:
            return _fit_channels(_stretch(np.clip(values, *window), path, window), path, channels)
        return _fit_channels(_eight_bits(values, path, per_channel), path, channels)
    unusual = read_unusual(path, pages_are_channels=per_channel)
    if unusual is not None:
        return _fit_channels(_eight_bits(unusual, path, per_channel), path, channels)
    picture = _decode(path)
    if picture.mode in WIDE_MODES:
        return _fit_channels(_stretch(np.asarray(picture), path), path, channels)
    if picture.mode in ALPHA_MODES:
        if channels == len(picture.getbands()):
            return np.asarray(picture)
        if _varies(picture.getchannel("A")):
            raise BadFileError(Fault.ALPHA, short_path(path))
    if channels not in (1, 3):
        raise BadFileError(Fault.CHANNELS, f"{short_path(path)} has {len(picture.getbands())}, not {channels}")
    pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"), dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def has_alpha(path: Path) -> bool:
    """Whether a picture that ``read_image`` takes bears an alpha channel. Only the header is read."""
    if is_nifti(path) or is_dicom(path) or path.suffix.lower() in TIFF_EXTENSIONS:
        return False
    with Image.open(path) as picture:
        return picture.mode in ALPHA_MODES


def as_rgb(picture: Image.Image, path: Path) -> Image.Image:
    """A decoded picture in 8-bit RGB, of whatever mode; ``path`` names it in errors.

    Raises:
        BadFileError: it holds values that are not finite.
    """
    if picture.mode in WIDE_MODES:  # Pillow itself would cut them off at 255
        return Image.fromarray(_as_rgb(_stretch(np.asarray(picture), path)))
    return picture.convert("RGB")


def size_of_picture(path: Path) -> tuple[int, int] | None:
    """(height, width) by the header alone; None where that does not tell it: volumes, slices, what is gone."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of what is no picture
        return None


def is_turned(path: Path) -> bool:
    """Whether viewers turn or mirror this picture, as its EXIF orientation says, and ``read_image`` does not.

    Only the header is read, of a picture that ``read_image`` takes.
    """
    if is_nifti(path) or is_dicom(path) or path.suffix.lower() in TIFF_EXTENSIONS:
        return False
    with Image.open(path) as picture:
        if picture.format == "TIFF":  # Pillow turns these itself
            return False
        try:
            return bool(picture.getexif().get(ExifTags.Base.Orientation, 1) != 1)
        except Exception:  # tags that are broken say nothing, to viewers neither
            return False


def read_mask(
    path: Path, num_classes: int, label_map: Mapping[int, int] | None = None, ignore_label: int | None = None
) -> Pixels:
    """Decodes a mask as class indices, (H, W) uint8.

    With ``label_map`` each stored value becomes the class it is mapped to. Without it and with ``num_classes`` 1 the
    file holds 0 and one of 255 or 1 (65535 with 16 bits), and the result 0 and 1; otherwise file and result hold labels
    0…num_classes - 1. Pixels of ``ignore_label`` become ``IGNORED``.

    Raises:
        BadFileError: unreadable, in colour, not binary, with labels out of range, or with a value that is not mapped.
    """
    if is_nifti(path):
        values = _nifti_slice(path)
    elif (unusual := read_unusual(path)) is not None:
        values = _one_channel(unusual, path)
    else:
        values = _mask_values(_decode(path), path, binary=num_classes == 1 and label_map is None)
    return as_classes(values, short_path(path), num_classes, label_map, ignore_label)


def read_mask_values(path: Path) -> NDArray[Any]:
    """One value a pixel as stored, (H, W), whatever the values; a JPEG's colours, which compression makes, become grey.

    Raises:
        BadFileError: unreadable, or in colour and no JPEG.
    """
    if is_nifti(path):
        return _nifti_slice(path)
    unusual = read_unusual(path)
    if unusual is not None:
        return _one_channel(unusual, path)
    picture = _decode(path)
    if picture.format == "JPEG":
        return np.asarray(picture.convert("L"))
    return _mask_values(picture, path, binary=True)


def read_mask_colours(path: Path) -> Pixels:
    """A mask as it looks, (H, W, 3) uint8. Raises BadFileError."""
    unusual = None if is_nifti(path) else read_unusual(path)
    if unusual is not None or is_nifti(path):
        return read_image(path)
    return np.asarray(_decode(path).convert("RGB"))


def as_classes(
    values: NDArray[Any],
    where: str,
    num_classes: int,
    label_map: Mapping[int, int] | None = None,
    ignore_label: int | None = None,
) -> Pixels:
    """Stored mask values (H, W) as classes, as ``read_mask`` does; ``where`` names the file in errors.

    Floating-point labels within a thousandth of a whole number are that number, as rescaling a volume leaves them.
    """
    if values.dtype.kind == "f" and np.isfinite(values).all() and np.abs(values - np.rint(values)).max() < 1e-3:
        values = np.rint(values)
    if ignore_label is not None:
        ignored = values == ignore_label
        known = as_classes(np.where(ignored, _background(label_map), values), where, num_classes, label_map)
        return np.where(ignored, np.uint8(IGNORED), known)
    if label_map is not None:
        return _mapped(values, where, label_map)
    return _as_binary(values, where) if num_classes == 1 else _as_labels(values, where, num_classes)


def read_pair(pair: Pair, config: DataConfig) -> tuple[NDArray[Any], Pixels]:
    """Image and mask (H, W) of a pair.

    The image is (H, W, C) uint8, or float32 for a slice of a volume; a set holds only one of these kinds. C is
    ``channels``, or 1 for slices that the network repeats to three.

    Raises:
        BadFileError: a file is faulty, or image and mask differ in size or orientation.
    """
    if pair.is_slice:
        values, labels = read_slice(pair.image, pair.slice_index, config.window)
        image: NDArray[Any] = values if values.ndim == 3 else values[..., None]
        if image.shape[2] != config.channels and (image.shape[2], config.channels) != (1, 3):
            raise BadFileError(Fault.CHANNELS, f"{short_path(pair.image)} has {image.shape[2]}, not {config.channels}")
        mask = as_classes(labels, short_path(pair.mask), config.num_classes, config.label_map, config.ignore_label)
    else:
        image, mask = image_of(pair.image, config), mask_of(pair.mask, config)
    check_fit(pair, image, mask)
    return image, mask


def image_of(path: Path, config: DataConfig) -> Pixels:
    """``read_image`` with the options of a data set."""
    return read_image(path, config.window, config.channels, config.scales_each)


def mask_of(path: Path, config: DataConfig) -> Pixels:
    """``read_mask`` with the options of a data set."""
    return read_mask(path, config.num_classes, config.label_map, config.ignore_label)


def check_fit(pair: Pair, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """Raises BadFileError naming both files when image and mask differ in size (width×height) or orientation."""
    if image.shape[:2] != mask.shape:
        sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (image, mask)]
        turned = image.shape[:2] == mask.shape[::-1] and not pair.is_slice and is_turned(pair.image)
        why = (
            ": the image's EXIF orientation turns it in viewers, where the mask was drawn; turn its pixels"
            if turned
            else ""
        )
        raise BadFileError(Fault.SIZE, f"{short_path(pair.image)} is {sizes[0]}, {pair.mask.name} is {sizes[1]}{why}")
    if not pair.is_slice:
        check_orientation(pair.image, pair.mask)


def resize_pair(
    image: NDArray[Any], mask: Pixels, size: tuple[int, int], fit: Fit = "stretch"
) -> tuple[NDArray[Any], Pixels]:
    """Image and mask at ``size`` = (height, width), the mask by nearest neighbour; where ``fit`` pads, ``IGNORED``."""
    box = box_in((image.shape[0], image.shape[1]), size, fit)
    small = resize_mask(mask, box.size) if image.dtype == np.uint8 else resize_slice_labels(mask, box.size)
    return fit_image(image, size, box), pad(small, size, box, IGNORED)


def fit_image(image: NDArray[Any], size: tuple[int, int], box: Box) -> NDArray[Any]:
    """An image (h, w, C) resized into its box and padded to ``size``: pictures bilinear, antialiased, slices cubic."""
    if image.dtype == np.uint8:
        return pad(resize_image(image, box.size), size, box)
    resized = [resize_slice(channel, box.size) for channel in np.moveaxis(image, -1, 0)]
    return pad(np.stack(resized, axis=-1), size, box)


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bilinear resize to ``size`` = (height, width), antialiased when shrinking."""
    return _resize(image, size, Image.Resampling.BILINEAR)


def resize_mask(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """Nearest-neighbour resize to ``size`` = (height, width): no label appears that was not there."""
    return _resize(mask, size, Image.Resampling.NEAREST)


def content_digest(image: NDArray[Any]) -> str:
    """Hash of an image's pixels and shape: equal for equal pictures, whatever their names and formats."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(repr(image.shape).encode())
    return digest.hexdigest()


def as_picture(image: NDArray[Any]) -> Pixels:
    """An image (H, W, C) for drawing, (H, W, 3) uint8: its first three channels in false colour, or the first as grey.

    Of floats, 0…1 become black to white; other ranges are stretched.
    """
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        span = (0.0, 1.0) if low >= -0.5 and high <= 1.5 else (low, high)
        image = np.rint(np.clip((image - span[0]) / (span[1] - span[0]), 0, 1) * 255).astype(np.uint8)
    return image[..., :3] if image.shape[2] >= 3 else _as_rgb(image[..., 0])


def _resize(array: Pixels, size: tuple[int, int], method: Image.Resampling) -> Pixels:
    if array.shape[:2] == size:
        return array
    if array.ndim == 3 and array.shape[2] != 3:  # Pillow knows no pictures of as many channels
        return np.stack([_resize(channel, size, method) for channel in np.moveaxis(array, -1, 0)], axis=-1)
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method))


def _decode(path: Path) -> Image.Image:
    """Opens and fully decodes a file: a header alone does not show that a picture is intact."""
    try:
        with Image.open(path) as picture:  # closes the file; the pixels stay
            frames = getattr(picture, "n_frames", 1) if picture.format in ("TIFF", "GIF") else 1
            stored = "".join(str(tile.args) for tile in picture.tile)
            picture.load()
    except Image.DecompressionBombError as error:
        raise BadFileError(Fault.LARGE, f"{short_path(path)} ({str(error).split(',')[0]})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = str(error).replace(str(path), path.name).splitlines() or [type(error).__name__]
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({reason[0]})") from error
    if frames > 1:
        raise BadFileError(Fault.FORM, f"{short_path(path)} (holds {frames} pages; one is expected)")
    if DEEP in stored and picture.mode in ("RGB", *ALPHA_MODES):
        raise BadFileError(Fault.DEPTH, short_path(path))
    return picture


def _nifti_slice(path: Path) -> NDArray[Any]:
    """The one slice (H, W) that a NIfTI file holds, as stored."""
    volume, _ = read_nifti(path)
    if len(volume) != 1:
        raise BadFileError(
            Fault.FORM, f"{short_path(path)} (holds {len(volume)} slices; one is expected: save each slice as a file)"
        )
    one: NDArray[Any] = volume[0]
    return one


def _as_rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _stretch(values: NDArray[Any], path: Path, bounds: tuple[float, float] | None = None) -> Pixels:
    """0…255 from the lowest to the highest value, or from ``bounds``, which no value exceeds."""
    exact = values.astype(np.float64)
    low, high = bounds or (exact.min(), exact.max())
    if not np.isfinite(exact).all():
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} (holds values that are not finite)")
    scale = 255 / (high - low) if high > low else 0.0
    stretched: Pixels = np.rint((exact - low) * scale).astype(np.uint8)
    return stretched


def _mask_values(picture: Image.Image, path: Path, *, binary: bool) -> NDArray[Any]:
    """One value a pixel as stored, (H, W)."""
    if picture.mode in ALPHA_MODES and _varies(picture.getchannel("A")) and not _varies(picture.convert("RGB")):
        raise BadFileError(Fault.ALPHA_MASK, short_path(path))
    if picture.mode == "P":
        return _palette_values(picture) if binary else np.asarray(picture)
    if picture.mode in ("1", "L", *WIDE_MODES):
        return np.asarray(picture)
    channels = np.asarray(picture.convert("L") if picture.mode == "LA" else picture.convert("RGB"))
    return _one_channel(channels, path)


def _one_channel(channels: NDArray[Any], path: Path) -> NDArray[Any]:
    """(H, W) of values (H, W) or of (H, W, C) whose channels are equal. Raises BadFileError for colours."""
    if channels.ndim == 2:
        return channels
    if (channels != channels[..., :1]).any():
        raise BadFileError(Fault.COLOUR_MASK, short_path(path))
    grey: NDArray[Any] = channels[..., 0]
    return grey


def _eight_bits(values: NDArray[Any], path: Path, per_channel: bool) -> Pixels:
    """Values (H, W) or (H, W, C) in 8 bits: such as they are, others stretched, over all channels alike or each."""
    if values.dtype.kind not in "buif":
        raise BadFileError(Fault.FORM, f"{short_path(path)} (values of type {values.dtype})")
    if values.dtype == np.uint8:
        return values
    if per_channel and values.ndim == 3:
        return np.stack([_stretch(channel, path) for channel in np.moveaxis(values, -1, 0)], axis=-1)
    return _stretch(values, path)


def _fit_channels(pixels: Pixels, path: Path, channels: int) -> Pixels:
    """(H, W, channels) of pixels (H, W) or (H, W, C): grey repeated to three, an even fourth dropped, three to grey."""
    stored = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 3 and stored == 4:
        if np.ptp(pixels[..., 3]) > 0:
            raise BadFileError(Fault.ALPHA, short_path(path))
        return pixels[..., :3]
    if channels == 3 and stored == 1:
        return _as_rgb(pixels.reshape(pixels.shape[:2]))
    if channels == 1 and stored == 3:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    if stored != channels:
        raise BadFileError(Fault.CHANNELS, f"{short_path(path)} has {stored}, not {channels}")
    return pixels.reshape(*pixels.shape[:2], stored)


def _varies(picture: Image.Image) -> bool:
    extrema = picture.getextrema()
    return any(low != high for low, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))


def _palette_values(picture: Image.Image) -> NDArray[Any]:
    """Grey values when the palette is black and white, whose order is arbitrary; the indices otherwise."""
    indices = np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    black_and_white = bool(((colours == 0) | (colours == 255)).all() and (colours == colours[..., :1]).all())
    return colours[..., 0] if black_and_white else indices


def _background(label_map: Mapping[int, int] | None) -> int:
    """A stored value that is some class: 0 without a map."""
    return 0 if label_map is None else next(iter(label_map))


def _mapped(values: NDArray[Any], where: str, label_map: Mapping[int, int]) -> Pixels:
    strangers = [value for value in distinct(values) if value not in label_map]
    if strangers:
        raise BadFileError(Fault.NOT_IN_MAP, f"{where} (values {_some(strangers)})")
    stored = sorted(label_map)
    classes = np.array([label_map[value] for value in stored], np.uint8)
    return classes[np.searchsorted(stored, values)]


def _as_binary(values: NDArray[Any], where: str) -> Pixels:
    seen = distinct(values)
    if not any(set(seen) <= {0, white} for white in BINARY_WHITES):
        raise BadFileError(Fault.NOT_BINARY, f"{where} (values {_some(seen)})")
    marked: Pixels = (values != 0).astype(np.uint8)
    return marked


def _as_labels(values: NDArray[Any], where: str, num_classes: int) -> Pixels:
    seen = distinct(values)
    if not all(0 <= value < num_classes and value == int(value) for value in seen):
        raise BadFileError(Fault.LABELS, f"{where} (values {_some(seen)}, num_classes {num_classes})")
    labels: Pixels = values.astype(np.uint8)
    return labels


def distinct(values: NDArray[Any]) -> list[float]:
    """The different values of an array, ascending."""
    if values.dtype == np.uint8:  # counting is many times faster than sorting
        return [float(value) for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256))]
    distinct: list[float] = np.unique(values).tolist()
    return distinct


def _some(values: list[float], limit: int = 6) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:limit])
    return shown if len(values) <= limit else f"{shown} … {values[-1]:g}, {len(values)} in all"
