"""Volumes of slices: NIfTI, NRRD, MetaImage and HDF5 files in, label volumes as NIfTI out.

Arrays are (Z, H, W). NIfTI stores (X, Y, Z), so a volume is its array transposed: slice z, row y, column x. Voxels are
never reordered or flipped to a common orientation; the affine says where they lie, as in the file. So a label volume
written with the geometry of the image it was made from lies on it voxel by voxel in any viewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.dicom import MOST_VOXELS, is_series, read_series
from slicemamba.data.findings import BadFileError, Fault, short_path
from slicemamba.errors import InputError
from slicemamba.files import writing

NIFTI_EXTENSIONS = (".nii", ".nii.gz")
HDF5_EXTENSIONS = (".h5", ".hdf5")
ITK_EXTENSIONS = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_EXTENSIONS = (*NIFTI_EXTENSIONS, *HDF5_EXTENSIONS, *ITK_EXTENSIONS)
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""What a NIfTI length unit is in mm; most writers leave it unknown and mean mm."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of slices.

    Attributes:
        name: file name without its extensions.
        image: (Z, H, W) float32, or (Z, H, W, C) of several channels; scaled to 0…1 when read with a window.
        label: (Z, H, W) uint8 classes, or None when the file holds none (NIfTI files never do).
        spacing: distance of neighbouring voxels in mm along (z, y, x), or None when the file does not tell.
        affine: (4, 4) from voxel indices (x, y, z) to mm, or None when the file does not tell.
    """

    name: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None = None
    spacing: tuple[float, float, float] | None = None
    affine: NDArray[np.float64] | None = None


def is_nifti(path: Path) -> bool:
    """True for ``.nii`` and ``.nii.gz``, in any case."""
    return path.name.lower().endswith(NIFTI_EXTENSIONS)


def is_volume(path: Path) -> bool:
    """True for the extensions that ``read_volume`` takes, and for folders of a DICOM series."""
    return path.name.lower().endswith(VOLUME_EXTENSIONS) or is_series(path)


def base_name(path: Path) -> str:
    """The file name without its extensions: ``case0001`` for ``case0001.npy.h5``, ``a`` for ``a.nii.gz``."""
    name = path.name
    if path.is_dir() or path.suffix[1:].isdecimal():  # as of DICOM files named by identifiers
        return name
    for extension in (".nii.gz", ".nii", ".npy.h5", *HDF5_EXTENSIONS, *ITK_EXTENSIONS):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return path.stem


def read_volume(path: Path, window: tuple[float, float] | None = None, channels: int | None = None) -> Volume:
    """Reads NIfTI, NRRD, MetaImage, folders of a DICOM series, or HDF5 with ``image`` and perhaps ``label``.

    All are 3-D; a 2-D slice has Z = 1.

    HDF5 data sets are (Z, H, W), ``image`` perhaps (Z, H, W, C); the attributes ``spacing`` (z, y, x) and
    ``affine`` are read where the file has them (``slicemamba data prepare`` writes them, the published Synapse
    files have none).

    Args:
        path: the file; its extension tells the format.
        window: values (low, high) that become 0 and 1, all beyond is clipped: (-125, 275) for raw abdominal CT in
            Hounsfield units. None: values as they are, with a NIfTI header's slope and intercept applied.
        channels: length of the fourth axis of NIfTI, which then holds channels; without it such files are refused, as
            the axis may be time as well.

    Raises:
        BadFileError: the file is missing, broken, of another format or not 3-D, or holds values that are not finite.
    """
    if path.is_dir():
        volume = _read_series(path)
    elif is_nifti(path):
        volume = _read_nifti(path, channels)
    elif path.name.lower().endswith(ITK_EXTENSIONS):
        volume = _read_itk(path)
    elif is_volume(path):
        volume = _read_hdf5(path)
    else:
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (its extension is not known)")
    if window is None:
        return volume
    return Volume(volume.name, apply_window(volume.image, window), volume.label, volume.spacing, volume.affine)


def apply_window(values: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float32]:
    """Values clipped to ``window`` = (low, high) and scaled to 0…1, float32."""
    low, high = window
    if not low < high:
        raise InputError(f"window must be (low, high) with low below high; got ({low:g}, {high:g})")
    scaled: NDArray[np.float32] = ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)
    return scaled


def write_labels(path: Path, labels: NDArray[Any], like: Volume) -> None:
    """Writes classes (Z, H, W) as NIfTI with the geometry of ``like``; a volume that tells none has voxels of 1 mm.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made where absent.
        labels: classes 0…255, of the shape of ``like.image``.
        like: the volume that the labels belong to.

    Raises:
        InputError: another shape or extension.
    """
    if not is_nifti(path):
        raise InputError(f"labels are written as .nii or .nii.gz; got {path.name}")
    if labels.shape != like.image.shape[:3]:
        raise InputError(f"labels of {like.name} must be {like.image.shape[:3]} as its image; got {labels.shape}")
    _write_nifti(path, labels.astype(np.uint8).T, like)


def write_probabilities(path: Path, probabilities: NDArray[np.float32], like: Volume) -> None:
    """Writes (K, Z, H, W) as float32 NIfTI (X, Y, Z, K), or (X, Y, Z) where K is 1, with the geometry of ``like``."""
    classes_last = probabilities.transpose(3, 2, 1, 0)
    _write_nifti(path, classes_last[..., 0] if len(probabilities) == 1 else classes_last, like)


def _write_nifti(path: Path, array: NDArray[Any], like: Volume) -> None:
    import nibabel as nib  # where it is used: it takes half a second to load, with pydicom

    affine = like.affine if like.affine is not None else np.diag([*(like.spacing or (1.0, 1.0, 1.0))[::-1], 1.0])
    image: Any = nib.Nifti1Image(np.ascontiguousarray(array), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as draft:
        nib.save(image, draft)


def find_volumes(config: DataConfig) -> list[Path]:
    """The test volumes of a data set in the Synapse layout, in the order of its list; empty for other layouts.

    Raises:
        InputError: the data set is unknown, or a volume that the list names is missing.
    """
    from slicemamba.data.catalog import SYNTHETIC, resolve_root  # these read volumes in their turn
    from slicemamba.data.synapse import is_synapse, test_volumes

    config = resolve_root(config)
    if config.name == SYNTHETIC or config.root is None or not is_synapse(config.root):
        return []
    return test_volumes(config.root)


def read_nifti(path: Path, channels: int | None = None) -> tuple[NDArray[Any], Any]:
    """The array (Z, H, W) as stored, in the file's own type unless scaled by its header, and nibabel's image.

    A fourth axis of ``channels`` values makes it (Z, H, W, C).

    Raises:
        BadFileError: the file is missing, broken, in colour, complex or of more than three dimensions.
    """
    image = _open_nifti(path)
    try:
        stored = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel, gzip and numpy raise nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_reason(error)})") from error
    if stored.dtype.kind not in "uif":
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (voxels of type {stored.dtype})")
    if stored.ndim == 4 and 1 < stored.shape[3] == channels and 0 not in stored.shape:
        return stored.transpose(2, 1, 0, 3), image
    array = stored.reshape(stored.shape[:3]) if stored.shape[3:] == (1,) * (stored.ndim - 3) else stored
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        told = f"; if its fourth axis holds channels, set data.channels: {stored.shape[3]}" if stored.ndim == 4 else ""
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (shape {stored.shape}{told})")
    return array.T, image


def _open_nifti(path: Path) -> Any:
    """nibabel's image with its header read; raises BadFileError."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        count = math.prod(map(int, image.shape))
    except Exception as error:  # nibabel and gzip raise nearly anything on a broken file
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_reason(error)})") from error
    if not 0 <= count <= MOST_VOXELS:
        raise BadFileError(Fault.LARGE, f"{short_path(path)} ({'×'.join(map(str, image.shape))} voxels)")
    return image


def stored_channels(path: Path) -> int:
    """Values a voxel of NIfTI, NRRD and MetaImage, from the header; 1 for other files. Raises BadFileError."""
    if is_nifti(path):
        shape = _open_nifti(path).shape
        return int(shape[3]) if len(shape) > 3 else 1
    itk = path.name.lower().endswith(ITK_EXTENSIONS)
    return int(_itk_header(path).GetNumberOfComponents()) if itk else 1


def check_orientation(image: Path, mask: Path) -> None:
    """Raises BadFileError where two NIfTI files say that their voxels run in different directions.

    Voxels are taken as they are stored, so such a mask would lie mirrored or turned on its image. Files without an
    orientation in their header, and those that are no NIfTI, say nothing.
    """
    first, second = _axes(image), _axes(mask)
    if first is not None and second is not None and first != second:
        raise BadFileError(Fault.ORIENTATION, f"{short_path(image)} runs to {first}, {mask.name} to {second}")


def _axes(path: Path) -> str | None:
    """To where the first, second and third index rise, such as ``RAS`` (right, anterior, superior); from the header."""
    if path.is_dir():
        return None  # its labels are turned to it
    import nibabel as nib

    if path.name.lower().endswith(ITK_EXTENSIONS):
        affine = _itk_affine(_itk_header(path))
        return "".join(code or "?" for code in nib.aff2axcodes(affine))  # type: ignore[no-untyped-call]
    if not is_nifti(path):
        return None
    image = _open_nifti(path)
    if not (image.header["sform_code"] or image.header["qform_code"]):
        return None
    if not np.isfinite(image.affine).all():
        raise BadFileError(Fault.HEADER, f"{short_path(path)} (affine holds values that are not finite)")
    codes: tuple[str | None, ...] = nib.aff2axcodes(image.affine)  # type: ignore[no-untyped-call]
    return "".join(code or "?" for code in codes)


def _itk_header(path: Path) -> Any:
    """SimpleITK's reader with the header read; raises BadFileError."""
    import SimpleITK  # where it is used, as it takes long to load

    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_last_line(error)})") from error
    if reader.GetDimension() not in (2, 3):
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} ({reader.GetDimension()} dimensions)")
    if math.prod(reader.GetSize()) > MOST_VOXELS:
        sizes = "×".join(map(str, reader.GetSize()))
        raise BadFileError(Fault.LARGE, f"{short_path(path)} ({sizes} voxels)")
    return reader


def _itk_affine(reader: Any) -> NDArray[np.float64]:
    """From voxel indices (x, y, z) to mm; ITK's world runs to left and posterior, NIfTI's to right and anterior."""
    dimension = reader.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))
    affine[:dimension, :dimension] = direction * np.array(reader.GetSpacing())
    affine[:dimension, 3] = reader.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _read_itk(path: Path) -> Volume:
    import SimpleITK

    reader = _itk_header(path)
    try:
        values = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_last_line(error)})") from error
    if reader.GetDimension() == 2:
        values = values[None]
    if values.dtype.kind not in "uif":
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (voxels of type {values.dtype})")
    z, y, x = (1.0, 1.0, 1.0, *reader.GetSpacing()[::-1])[-3:]
    return Volume(base_name(path), _finite(values, path), None, (z, y, x), _itk_affine(reader))


def _read_series(folder: Path) -> Volume:
    series = read_series(folder)
    return Volume(folder.name, _finite(series.values, folder), None, series.spacing, series.affine)


def turned_to(
    labels: NDArray[np.uint8], own: NDArray[np.float64] | None, wanted: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Labels (Z, H, W) with their axes in the order and directions of another affine than their own.

    Converters from DICOM flip axes, and say so in their header.
    """
    if own is None:
        return labels
    import nibabel as nib

    before, after = (nib.orientations.io_orientation(each) for each in (own, wanted))  # type: ignore[no-untyped-call]
    turn = nib.orientations.ornt_transform(before, after)  # type: ignore[no-untyped-call]
    turned: NDArray[np.uint8] = nib.orientations.apply_orientation(labels.T, turn).T  # type: ignore[no-untyped-call]
    return turned


def _last_line(error: Exception) -> str:
    """Of what ITK says: lines before it name its source files."""
    return (str(error).strip().splitlines() or [""])[-1].split(": ", 1)[-1] or type(error).__name__


def _read_nifti(path: Path, channels: int | None = None) -> Volume:
    array, image = read_nifti(path, channels)
    try:
        unit = MILLIMETRES[image.header.get_xyzt_units()[0]]
    except KeyError as error:
        raise BadFileError(Fault.HEADER, f"{short_path(path)} (unit of length {error})") from error
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    if not np.isfinite(affine).all():
        raise BadFileError(Fault.HEADER, f"{short_path(path)} (affine holds values that are not finite)")
    affine[:3] *= unit
    zooms = [float(zoom) * unit for zoom in image.header.get_zooms()[:3]]
    z, y, x = (*reversed(zooms),) if len(zooms) == 3 else (1.0, *reversed(zooms))
    return Volume(base_name(path), _finite(array, path), None, (z, y, x), affine)


def _read_hdf5(path: Path) -> Volume:
    try:
        with h5py.File(path) as file:
            held = list(file)
            _check_shapes(file, path)
            image, label = (file[name][()] if name in file else None for name in ("image", "label"))
            spacing, affine = (file.attrs.get(name) for name in ("spacing", "affine"))
    except BadFileError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError … on broken files
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} ({_reason(error)})") from error
    if image is None:
        held_names = ", ".join(held) or "nothing"
        raise BadFileError(Fault.NO_VOLUME, f"{short_path(path)} (no data set 'image'; it holds {held_names})")
    for array, what, axes in ((image, "image", (3, 4)), (label, "label", (3,))):
        if array is None:
            continue
        kind = np.asarray(array).dtype
        if np.ndim(array) not in axes or kind.kind not in "uif" or 0 in np.shape(array):
            raise BadFileError(
                Fault.NO_VOLUME, f"{short_path(path)} ('{what}' has shape {np.shape(array)}, type {kind})"
            )
    if label is not None and label.shape != image.shape[:3]:
        raise BadFileError(Fault.SIZE, f"{short_path(path)} ('image' is {image.shape}, 'label' {label.shape})")
    return Volume(
        base_name(path),
        _finite(image, path),
        None if label is None else _as_bytes(label, path),
        None if spacing is None else tuple(float(value) for value in spacing),  # type: ignore[arg-type]
        None if affine is None else np.asarray(affine, dtype=np.float64),
    )


def _check_shapes(file: h5py.File, path: Path) -> None:
    """Raises BadFileError where an array is too large to be read."""
    for name in ("image", "label"):
        if name in file and math.prod(file[name].shape) > MOST_VOXELS:
            raise BadFileError(Fault.LARGE, f"{short_path(path)} ({'×'.join(map(str, file[name].shape))} voxels)")


def _as_bytes(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    classes: NDArray[np.uint8] = values.astype(np.uint8)
    if not (classes == values).all():
        raise BadFileError(Fault.LABELS, f"{short_path(path)} (values {values.min():g} … {values.max():g})")
    return classes


def _finite(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    image: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(image).all():
        raise BadFileError(Fault.BROKEN, f"{short_path(path)} (holds values that are not finite)")
    return image


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
