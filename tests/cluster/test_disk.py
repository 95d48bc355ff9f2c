"""A disk that is full, read-only or over a limit: told before a run starts, or plainly when it happens in one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import cluster.disk
from cluster.attempts import only_driver
from cluster.disk import Reserve, check_disk, disk_faults
from cluster.driver import open_study
from cluster.run_folder import RunFolder
from cluster.status import StatusWriter
from nas.space import SearchSpace
from nas.study import Study, Trial, TrialState, find_trials, mend_journal, open_storage
from slicemamba.errors import InputError, RunFailedError

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
SMALL = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    try:
        subprocess.run(options, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that leaves not a byte."""
    file = folder / "filler"
    for size in (65536, 1):
        with suppress(OSError), file.open("ab", buffering=0) as opened:
            while True:
                opened.write(bytes(size))
    return file


def architecture(number: int) -> str:
    return str(SPACE.decode([number >> bit & 1 for bit in range(6)]))


def evaluate(study: Study, number: int) -> Trial:
    study.start(SPACE.decode([number >> bit & 1 for bit in range(6)]), origin="x", asked_after=number)
    return study.complete(number, {"dice": 0.5}, ended_as=number, seconds=0.1)


def test_writable_folder_with_room_passes_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.disk, "MIN_FREE_BYTES", 1)
    check_disk(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_folder_that_cannot_be_made_or_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        check_disk(tmp_path / "file" / "run")


def test_disk_with_next_to_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.disk, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(InputError, match=r"the disk of .* has [\d.]+ MB left"):
        check_disk(tmp_path)


def test_read_only_disk_is_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        check_disk(small_disk / "run")


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "is full; free space"), (errno.EROFS, "is read-only"), (errno.EFBIG, "accepts no larger files")],
)
def test_faults_of_the_disk_are_told_with_the_mend(tmp_path: Path, number: int, says: str) -> None:
    with pytest.raises(RunFailedError, match=says), disk_faults(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), disk_faults(tmp_path):  # any other is not
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_run_that_fills_its_disk_says_so_and_goes_on_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.disk, "MIN_FREE_BYTES", 0)
    run = RunFolder(small_disk / "run")
    ended: list[Trial] = []

    def search() -> None:
        with only_driver(run), StatusWriter(run):
            study = open_study(run, "search", SPACE, ("dice",), "random")
            for number in range(64):
                ended.append(evaluate(study, number))  # what was done until it fails counts
                if number == 2:
                    fill(small_disk)

    with pytest.raises(RunFailedError, match="is full; free space and run again"):
        search()
    status = run.read_status()
    assert status is not None
    assert (status.state, "is full" in (status.error or "")) == ("FAILED", True)
    assert len(ended) >= 3
    (small_disk / "filler").unlink()
    with only_driver(run), StatusWriter(run):
        study = open_study(run, "search", SPACE, ("dice",), "random")
        kept = study.trials()
        assert [trial for trial in kept if trial.ended] == ended
        if len(kept) > len(ended):  # one was begun for whose end there was no room
            ended.append(study.complete(kept[-1].number, {"dice": 0.5}, ended_as=len(ended), seconds=0.1))
        ended.append(evaluate(study, len(ended)))
    assert find_trials(open_storage(run.study_location), "search") == ended


LIMITED = """
import resource, signal, sys
from pathlib import Path
from nas.space import SearchSpace
from nas.study import Study
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300, resource.RLIM_INFINITY))  # half a record
study = Study(path, "search", SearchSpace(((2, 2), (4, 4)), (2, 1, 3)), ("dice",), "random")
study.start(study.space.decode([1] * 6), origin="x", asked_after=1)
"""


def test_record_cut_short_does_not_spoil_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "search.journal"
    ended = evaluate(Study(journal, "search", SPACE, ("dice",), "random"), 0)
    whole = journal.stat().st_size
    cut = subprocess.run([sys.executable, "-c", LIMITED, str(journal)], capture_output=True, text=True)
    assert "File too large" in cut.stderr
    assert journal.stat().st_size > whole
    mend_journal(journal)
    mend_journal(journal)  # what is whole stays
    study = Study(journal, "search", SPACE, ("dice",), "random")
    evaluate(study, 1)
    [first, second] = find_trials(open_storage(journal), "search")
    assert first == ended
    assert (second.state, second.architecture) == (TrialState.COMPLETED, architecture(1))


@pytest.mark.parametrize("content", [b"", b"no line at all", b"one\n", b"x" * 200_000, b"one\n" + b"x" * 200_000])
def test_journal_is_cut_after_its_last_line(tmp_path: Path, content: bytes) -> None:
    journal = tmp_path / "search.journal"
    journal.write_bytes(content)
    mend_journal(journal)
    assert journal.read_bytes() == (b"one\n" if b"\n" in content else b"")
    mend_journal(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_reserve_gives_its_room_back(small_disk: Path) -> None:
    reserve = Reserve(small_disk)
    fill(small_disk)
    reserve.give_up()
    (small_disk / "last words").write_bytes(bytes(4096))


def test_fault_of_another_disk_names_it_and_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SLICEMAMBA_CACHE", raising=False)
    run = tmp_path / "run"
    for place, says in {
        tmp_path / "home" / ".ray" / "auth_token": "home/.ray/auth_token is read-only.*, or set HOME to",
        tmp_path / "home" / ".cache" / "slicemamba" / "a": "is read-only.*, or set SLICEMAMBA_CACHE to",
        run / "result.json": f"the disk of {run} is read-only; make it writable and run again",
    }.items():
        with pytest.raises(RunFailedError, match=says), disk_faults(run):
            raise OSError(errno.EROFS, "Read-only file system", str(place))
