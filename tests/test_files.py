"""Files are written whole or not at all, and every error names its file; names fit into the file system."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from slicemamba.errors import InputError
from slicemamba.files import faults_of, file_name, from_here, save_figure, write_json, write_text, writing

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)


def save_png(path: Path) -> None:
    with writing(path) as draft:
        Image.fromarray(NOISE).save(draft)


def save_npz(path: Path) -> None:
    with writing(path) as draft:
        np.savez_compressed(draft, image=NOISE)


def save_weights(path: Path) -> None:
    with writing(path) as draft:
        save_file({"a": torch.zeros(100_000)}, draft)


def save_torch(path: Path) -> None:
    with writing(path) as draft:
        torch.save(torch.zeros(100_000), draft)


def save_picture(path: Path) -> None:
    figure = Figure(figsize=(9, 9))
    figure.figimage(NOISE)
    save_figure(figure, path, dpi=90)


def save_words(path: Path) -> None:
    write_text(path, "word " * 20_000)


WRITERS: dict[str, Callable[[Path], None]] = {
    "picture.png": save_png,
    "arrays.npz": save_npz,
    "weights.safetensors": save_weights,
    "state.pth": save_torch,
    "figure.png": save_picture,
    "figure.pdf": save_picture,
    "words.txt": save_words,
}

LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.test_files import WRITERS
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
folder = Path(sys.argv[1])
for name, write in WRITERS.items():
    try:
        write(folder / name)
    except OSError as error:
        print(error.errno, error.filename)
"""


def test_no_writer_leaves_a_part_and_all_name_the_file_where_the_disk_takes_no_more(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)  # what is there already stays as it is
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    made = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert made.stdout.splitlines() == [f"{errno.EFBIG} {tmp_path / name}" for name in WRITERS]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from slicemamba.errors import InputError
from slicemamba.files import writing
with writing(Path(sys.argv[1])) as draft:
    draft.write_text("half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_writer_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_json(target, {"whole": True})
    before = target.read_bytes()
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)]).returncode == -9
    assert target.read_bytes() == before
    [draft] = [file for file in tmp_path.iterdir() if file != target]
    assert draft.name.startswith(".")


def test_error_of_the_caller_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path / "a") as draft:
        _ = {}[draft.write_text("x")]
    with pytest.raises(FileNotFoundError, match="source"), writing(tmp_path / "a"):
        (tmp_path / "source").read_bytes()  # not the file's fault that is written
    assert list(tmp_path.iterdir()) == []


def test_errors_below_a_folder_name_what_it_becomes(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="final") as caught, faults_of(tmp_path / "final", tmp_path / "draft"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "draft" / "a.png"))
    assert caught.value.errno == errno.ENOSPC


def test_text_of_a_name_that_is_no_utf_8_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "names.csv", "a\udcff\r\n")
    assert (tmp_path / "names.csv").read_bytes() == b"a\\udcff\r\n"


@pytest.mark.parametrize("letter", ["x", "ü", "图", "\udcff"])
def test_names_fit_into_the_file_system_and_stay_apart(tmp_path: Path, letter: str) -> None:
    room = 245 // len(os.fsencode(letter))
    stems = [letter * room + end for end in ("a", "b", "a" * 40)]
    names = {file_name(stem, "_dice0.500.png") for stem in stems}
    assert len(names) == 3
    for name in names:
        save_png(tmp_path / name)
    assert file_name("short", ".png") == "short.png"


def test_relative_path_that_leads_nowhere_says_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    assert from_here(Path("set"), "data.root") == tmp_path / "set"
    assert from_here(tmp_path / "absent", "data.root") == tmp_path / "absent"  # told by whoever opens it
    with pytest.raises(InputError, match=f"looked up from the working directory {tmp_path}") as caught:
        from_here(Path("../set"), "data.root")
    assert caught.value.pointer == "/data/root"


WRITES = re.compile(
    r"\.(write_text|write_bytes|savefig|save_as|write_html)\(|\b(copyfile|copytree|imwrite|save_file|savez_compressed)\("
    r"""|open\(["'][wx]|h5py\.File\(.*["']w["']|(torch|np|nib|Image\.fromarray\(.*\))\.save\("""
)
PACKAGES = ("slicemamba", "nas", "cluster", "api")
ELSEWHERE = {
    "cluster/disk.py": "a probe, and a file that only takes room",
    "cluster/driver_log.py": "a log, which is read while it grows",
    "migrations/__init__.py": "a lock",
    "data/cache.py": "a folder that is renamed as a whole",
    "data/convert.py": "the same",
    "data/export_nnunet.py": "the same",
    "data/prepare_synapse.py": "the same",
    "data/synthetic.py": "an example, drawn anew at any time",
}


def test_all_files_are_written_as_drafts() -> None:
    """What writes a file under its final name at once leaves a part of it where the disk is full."""
    root = Path(__file__).parents[1]
    found: dict[str, list[str]] = defaultdict(list)
    for path in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if WRITES.search(line) and "draft" not in line and not line.lstrip().startswith(('"', "#")):
                found["/".join(path.parts[-2:])].append(line)
    assert {place: lines for place, lines in found.items() if place not in ELSEWHERE} == {}
    assert set(found) == set(ELSEWHERE)
