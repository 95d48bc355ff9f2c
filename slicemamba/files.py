"""How files are written: whole or not at all, and with the file's name in every error. And how others' are opened."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from slicemamba.errors import InputError
from slicemamba.text import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISK_FAULTS = {
    errno.ENOSPC: "is full; free space",
    errno.EDQUOT: "is over its quota; free space",
    errno.EFBIG: "accepts no larger files (ulimit -f); raise the limit",
    errno.EROFS: "is read-only; make it writable",
    errno.EIO: "fails to read or write; repair it",
    errno.ESTALE: "is gone from its server; mount it again",
}
"""What is wrong with a disk, and the mend, by the number of the error."""
_LONGEST_NAME = 255  # bytes, on all common file systems
_PROBE_BYTES = 1 << 16


@contextmanager
def writing(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """Gives a draft beside ``path`` to write to, which takes its name when the block ends; its folder must exist.

    Readers never see half of a file, and a process that is killed leaves none under its final name: only a
    hidden draft.

    Args:
        path: the file. lasting: it outlives a loss of power, too, for which the disk is waited for.

    Raises:
        OSError: with ``path`` as its file name, also where the writer's library names neither file nor cause.
    """
    # Named at random, as threads, processes and hosts may write one file at a time; not after the file, as a name of
    # 255 bytes leaves no room. Writers choose the format by the ending.
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    draft = path.with_name(f".{uuid.uuid4().hex}{ending}")
    try:
        with faults_of(path, draft):
            yield draft
            if lasting:
                with draft.open("rb+") as file:
                    os.fsync(file.fileno())
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def faults_of(path: Path, draft: Path) -> Iterator[None]:
    """Errors of the disk that come while ``draft`` (a file, or a folder of them) is written name ``path`` in its place.

    Those of other files, such as one that is copied from, pass as they are.
    """
    try:
        yield
    except Exception as error:
        about = error.filename2 or error.filename if isinstance(error, OSError) else None
        number = _errno_of(error, draft)
        if number is None or (about is not None and not Path(os.fsdecode(about)).is_relative_to(draft)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def open_inside(folder: Path, path: Path) -> BinaryIO:
    """Opens a file of a folder for reading, whatever others may have put there.

    What is no regular file, such as a pipe, which a reader would wait for without an end, and what a link leads to
    outside of the folder is as if it were not there.

    Args:
        folder: with all links in its own path followed. path: of the file.

    Raises:
        FileNotFoundError: there is no such file. OSError: it cannot be read.
    """
    absent = FileNotFoundError(errno.ENOENT, "no regular file of its folder", str(path))
    try:
        found = path.resolve(strict=True)
    except RuntimeError:  # a loop of links
        raise absent from None
    if not found.is_relative_to(folder):
        raise absent
    # It may have become another one since it was resolved.
    number = os.open(found, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise absent
    return os.fdopen(number, "rb")


def write_text(path: Path, text: str, *, lasting: bool = False) -> None:
    """Writes UTF-8 through ``writing``; bytes of names that are none are escaped (``\\udcff``)."""
    with writing(path, lasting=lasting) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, values: Any) -> None:
    """Writes JSON, indented, with null for what is not finite, through ``writing``."""
    write_text(path, to_json(values, indent=2) + "\n")


def save_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Writes a picture of matplotlib through ``writing``; letters that its font lacks are drawn as boxes."""
    with writing(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(draft, dpi=dpi)


def file_name(stem: str, ending: str) -> str:
    """``stem + ending``, or where that is too long for a file system, a cut stem with a digest that tells it apart."""
    if len(os.fsencode(stem + ending)) <= _LONGEST_NAME:
        return stem + ending
    tail = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{ending}"
    room = _LONGEST_NAME - len(os.fsencode(tail))
    return os.fsdecode(os.fsencode(stem)[:room]).encode("utf-8", "ignore").decode() + tail


def from_here(path: Path, option: str) -> Path:
    """The path made absolute, as workers have other working directories.

    Args:
        path: as given by a user. option: that holds it, such as ``data.root``.

    Raises:
        InputError: it is relative and leads nowhere; says from where it was looked up.
    """
    path = path.expanduser()
    if not path.is_absolute() and not path.exists():
        raise InputError(
            f"{option} {path} does not exist: it is relative, and is looked up from the working directory {Path.cwd()},"
            " not from the folder of the configuration; give an absolute path, or run the command from the folder it "
            "starts in",
            pointer="/" + option.replace(".", "/"),
        )
    return path.resolve()


def _errno_of(error: Exception, draft: Path) -> int | None:
    """The disk's fault behind an error of any writer; None for an error that is not the disk's.

    Writers in C and Rust (pictures, weights, programs) often keep the cause to themselves; more bytes to the same file
    then tell it. ``draft`` is a file, or a folder in which one is written.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    told = re.search(r"os error (\d+)", str(error))
    if told:
        return int(told[1])
    try:
        with (draft / f".{uuid.uuid4().hex}" if draft.is_dir() else draft).open("ab") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        return fault.errno
    return None
