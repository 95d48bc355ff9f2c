"""Which image and which mask belong together, by their names, and the layout ``<root>/<split>/{images,masks}``.

They belong together by the name without extension; the mask's name may carry one of ``MASK_SUFFIXES``. The layout is
that of ISIC, and of any set brought into the same form.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slicemamba.data.dicom import EXTENSIONS as DICOM_EXTENSIONS
from slicemamba.data.dicom import is_dicom
from slicemamba.data.findings import Fault, Finding, short_path
from slicemamba.data.volumes import NIFTI_EXTENSIONS, base_name
from slicemamba.errors import InputError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif")
RAW_EXTENSIONS = (*IMAGE_EXTENSIONS, *DICOM_EXTENSIONS)
"""Of single pictures that `data prepare` and `predict` take."""
ACCEPTED = (*IMAGE_EXTENSIONS, *NIFTI_EXTENSIONS)
MASK_SUFFIXES = ("_segmentation", "_mask", "-mask", "_seg", "_label", "_labels", "_gt", "_he")
"""Known endings of mask names, compared without regard to case; a mask may also be named exactly like its image."""
CHANNEL = "_0000"
"""Ending of image names in nnU-Net's layout, which their masks lack."""

EXPECTED_TREE = "<root>/{train,val,test}/{images,masks}, and optionally <root>/search/{images,masks}"


@dataclass(frozen=True, order=True)
class Pair:
    """An image and its mask.

    Attributes:
        name: the image's file name without extension; for a slice of a volume also the slice's number.
        image, mask: the files; one and the same when it holds both, as Synapse files do.
        slice_index: which slice of a volume it is; None when the file holds no more than this image.
    """

    name: str
    image: Path
    mask: Path
    slice_index: int | None = None

    @property
    def is_slice(self) -> bool:
        """True for a slice of a volume with its labels in the same file."""
        return self.image == self.mask


def match_pairs(root: Path, split: str) -> tuple[list[Pair], list[Finding]]:
    """Pairs of one split, sorted by name, and what is wrong. Only names are looked at; files are not opened."""
    return match_folders(root / split / "images", root / split / "masks", split)


def match_folders(image_folder: Path, mask_folder: Path, split: str) -> tuple[list[Pair], list[Finding]]:
    """Pairs of the pictures in two folders, sorted by name, and what is wrong; an empty ``split`` is named."""
    pairs, findings = match_files(picture_files(image_folder), picture_files(mask_folder), split)
    return pairs, findings + dead_links(image_folder, mask_folder)


def match_files(image_files: list[Path], mask_files: list[Path], split: str) -> tuple[list[Pair], list[Finding]]:
    """As ``match_folders``, for files from anywhere."""
    images, findings = _images_by_name(image_files)
    masks, orphans = _masks_by_image(mask_files, images)
    if not images:
        findings.append(Finding(Fault.NO_IMAGES, f"{split} (accepted: {', '.join(ACCEPTED)})"))
    findings += [Finding(Fault.NO_IMAGE, short_path(path)) for path in orphans]
    pairs = []
    for name, image in sorted(images.items()):
        found = masks.get(name, [])
        if not found:
            findings.append(Finding(Fault.NO_MASK, short_path(image)))
        elif len(found) > 1:
            names = " and ".join(path.name for path in found)
            findings.append(Finding(Fault.TWO_MASKS, f"{short_path(image)} ({names})"))
        else:
            pairs.append(Pair(name, image, found[0]))
    return pairs, findings


def plain_folders(root: Path) -> tuple[Path, Path] | None:
    """Images and masks that lie in a folder without splits; None where it is laid out otherwise."""
    folders = root / "images", root / "masks"
    return folders if all(folder.is_dir() for folder in folders) else None


def has_split(root: Path, split: str) -> bool:
    """True when the split's folder is there, whatever it holds."""
    return (root / split).is_dir()


def check_layout(root: Path, required: Iterable[str]) -> None:
    """Raises InputError unless the folder ``root`` holds ``images`` and ``masks`` for each required split."""
    wanted = [f"{split}/{part}" for split in required for part in ("images", "masks")]
    faults = [f"missing: {folder}{_other_name(root, folder)}" for folder in wanted if not (root / folder).is_dir()]
    faults += [f"cannot be read: {folder}" for folder in wanted if not _is_open(root / folder)]
    if faults:
        holds = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(
            f"data folder {root} is not laid out as expected, {EXPECTED_TREE}; it holds {holds}",
            pointer="/data/root",
            details=faults,
        )


def alike(root: Path, split: str) -> str | None:
    """A folder that by its name holds a split, but is named otherwise, such as ``Train`` or ``validation``."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    return next((name for name in names if name != split and name.lower().startswith(split)), None)


def _other_name(root: Path, folder: str) -> str:
    split = folder.split("/")[0]
    name = None if has_split(root, split) else alike(root, split)
    if name:
        return f" (rename {name} to {split}?)"
    return " (move some of train's images and masks there)" if split == "val" and not has_split(root, split) else ""


def _is_open(folder: Path) -> bool:
    return not folder.is_dir() or os.access(folder, os.R_OK | os.X_OK)


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Hash of path, size and time of change of each file: tells cheaply whether anything changed.

    A file rewritten with the same size and the same time in nanoseconds is not noticed.
    """
    digest = hashlib.sha256()
    for path in sorted(set(paths), key=os.fspath):  # all slices of a volume are one file
        status = path.stat()
        digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_picture_name(name: str) -> bool:
    """A picture by its extension; hidden ones are none: file managers leave some behind, such as ``._a.jpg``."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def picture_files(folder: Path, extensions: tuple[str, ...] = ACCEPTED) -> list[Path]:
    """Picture files in a folder, hidden ones left out (file managers leave some behind)."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # tells files from folders without a look at each
        wanted = (entry for entry in entries if entry.name.lower().endswith(extensions) and entry.name[0] != ".")
        names = sorted(entry.name for entry in wanted if entry.is_file())
    return [folder / name for name in names]


def raw_files(folder: Path) -> list[Path]:
    """Picture files and DICOM files in a folder, of which these need no extension."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and is_raw(path))


def is_raw(path: Path) -> bool:
    """A file that `data prepare` and `predict` take for a picture."""
    return path.name.lower().endswith((*ACCEPTED, *RAW_EXTENSIONS)) or is_dicom(path)


def dead_links(*folders: Path) -> list[Finding]:
    """Links to pictures that are not there: left out in silence, they would make the set smaller than it looks."""
    names = [
        Path(entry.path)
        for folder in folders
        if folder.is_dir()
        for entry in os.scandir(folder)
        if entry.is_symlink() and entry.name.lower().endswith(ACCEPTED) and not entry.name.startswith(".")
    ]
    return [Finding(Fault.DEAD_LINK, short_path(path)) for path in sorted(names) if not path.exists()]


def normal_name(path: Path) -> str:
    """The file name without extension in Unicode's composed form: macOS decomposes an ö that others write as one."""
    return unicodedata.normalize("NFC", base_name(path))


def _images_by_name(files: list[Path]) -> tuple[dict[str, Path], list[Finding]]:
    images: dict[str, Path] = {}
    findings = []
    for path in files:
        name = normal_name(path)
        if name in images:
            findings.append(Finding(Fault.TWO_IMAGES, f"{short_path(path)} and {images[name].name}"))
        images.setdefault(name, path)
    return images, findings


def _masks_by_image(files: list[Path], images: dict[str, Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Masks of each image name, and masks that belong to no image."""
    masks: dict[str, list[Path]] = defaultdict(list)
    orphans = []
    for path in files:
        name = _image_name(normal_name(path), images)
        if name is None:
            orphans.append(path)
        else:
            masks[name].append(path)
    return masks, orphans


def _image_name(stem: str, images: dict[str, Path]) -> str | None:
    """The image a mask belongs to: the exact name first, as an image's own name may end in ``_seg``."""
    for name in (stem, stem + CHANNEL):
        if name in images:
            return name
    for suffix in MASK_SUFFIXES:
        if stem.lower().endswith(suffix) and stem[: -len(suffix)] in images:
            return stem[: -len(suffix)]
    return None
