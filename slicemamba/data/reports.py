"""The report on a data set that has passed the checks, and how it is remembered for an unchanged set."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

from pydantic import Field, ValidationError

from slicemamba.config import Config
from slicemamba.errors import InputError
from slicemamba.files import write_json

MAX_REPORTS = 500
"""That are kept in a folder, the newest ones."""


class DatasetReport(Config):
    """What a data set holds, once it has passed the checks.

    Attributes:
        name: as in DataConfig.
        num_images: images in each split; search counts those held out of train when there is no search folder.
        smallest_size, largest_size: (height, width) in pixels of the images with the fewest and the most of them.
        median_size: (height, width) in pixels, the median of each.
        foreground_share: share of marked pixels, 0…1, the mean over the images of each split.
        class_share: share of the pixels of each class, background first, the mean over the images of each split.
        class_images: share of the train images that show each class, background first; empty in older reports.
        aspect_ratios: lowest, median and highest width / height.
        smallest_lesion: of each image's smallest connected marked piece, as a share of the image, the smallest and the
            median; None where nothing is marked.
        intensities: mean and standard deviation of each channel's values, each the mean over train images.
        num_alike: pairs of images in different splits that look alike.
        num_patients: patients (or volumes, videos) in each split, where ``dataset.yaml`` or names tell them.
        value_range: lowest and highest value of CT slices; None for pictures.
        class_names: as in DataConfig or the folder's ``dataset.yaml``.
        warnings: what is legal but worth a look.
        fingerprint: changes when any file or an option that matters to the checks changes.
    """

    name: str
    num_images: dict[str, int]
    smallest_size: tuple[int, int]
    largest_size: tuple[int, int]
    median_size: tuple[int, int] = (0, 0)
    foreground_share: dict[str, float]
    class_share: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    class_images: tuple[float, ...] = ()
    aspect_ratios: tuple[float, float, float] | None = None
    smallest_lesion: tuple[float, float] | None = None
    intensities: tuple[tuple[float, float], ...] = ()
    num_alike: int = 0
    num_patients: dict[str, int] = Field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    fingerprint: str


def recall(cache_dir: Path | None, fingerprint: str) -> DatasetReport | None:
    """The report kept under a fingerprint, or None when there is none or it cannot be read."""
    if cache_dir is None:
        return None
    try:
        return DatasetReport.model_validate_json((cache_dir / f"check-{fingerprint[:20]}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def newest_report(cache_dir: Path, name: str) -> tuple[DatasetReport, datetime] | None:
    """The report last kept of the set of this name, and when; None where none can be read. Its files may have changed
    since."""
    found = []
    for path in cache_dir.glob("check-*.json"):
        try:
            report = DatasetReport.model_validate_json(path.read_bytes())
            moment = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        except (OSError, ValidationError):
            continue
        if report.name == name:
            found.append((moment, report))
    if not found:
        return None
    moment, report = max(found, key=lambda pair: pair[0])
    return report, moment


def remember(cache_dir: Path | None, report: DatasetReport) -> None:
    """Keeps a report for ``recall``; raises InputError when the folder cannot be written."""
    if cache_dir is None:
        return
    path = cache_dir / f"check-{report.fingerprint[:20]}.json"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, report.model_dump(mode="json"))
        _forget_oldest(cache_dir)
    except OSError as error:
        raise InputError(
            f"cache folder {cache_dir} cannot be written ({error}); free space, or set SLICEMAMBA_CACHE to another"
        ) from error


def _forget_oldest(cache_dir: Path) -> None:
    """A report is small, but requests may ask for a set under any number of options."""
    written = []
    for path in cache_dir.glob("check-*.json"):
        with contextlib.suppress(FileNotFoundError):  # another process has been faster
            written.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(written)[:-MAX_REPORTS]:
        path.unlink(missing_ok=True)
