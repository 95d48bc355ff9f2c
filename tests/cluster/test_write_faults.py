"""A disk that fills up, and a kill, at each write of a run's files: no file under its final name is partial."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.finals import _save as save_state
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.evaluation.evaluate import Evaluation
from slicemamba.evaluation.figures import save_predictions
from slicemamba.evaluation.per_image import image_rows, write_csv
from slicemamba.evaluation.scores import save_arrays
from slicemamba.files import write_text
from slicemamba.models.checkpoints import load_network, save_network
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.logs import plot_training

MODEL = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=2)
EPOCHS = [{"epoch": 1, "loss": 0.5, "val_dice": 0.5}, {"epoch": 2, "loss": float("nan"), "val_dice": None}]


def write_run(folder: Path) -> None:
    """Files of all kinds that a run leaves."""
    run = RunFolder(folder)
    run.write_json("config.json", {"kind": "search"})
    run.write_json("status.json", {"state": "RUNNING", "loss": float("nan")}, lasting=False)
    save_network(folder / "retrained", SliceMambaUNet(MODEL, 1, Architecture.uniform("2x2", MODEL.depths)))
    save_arrays(folder / "scores" / "00001.npz", counts=np.ones((3, 1, 4), np.int64))
    plot_training(folder / "training.png", [("Retrain", "val_dice", EPOCHS)])
    blank = np.zeros((2, 32, 32), np.uint8)
    data = SegmentationData(np.zeros((2, 32, 32, 3), np.uint8), blank, ("a", "b"), "test", 1)
    scored = Evaluation({"dice": 1.0}, np.ones((2, 1, 4), np.int64), blank)
    save_predictions(folder / "predictions", data, scored, limit=1)
    write_csv(folder / "per_image.csv", image_rows(data.names, scored))
    save_state(folder / "finals" / "1" / "00001.pt", {"epoch": 1, "network": {"a": torch.zeros(1000)}})
    write_text(folder / "report.html", "<p>" + 1000 * "word " + "</html>\n")
    run.write_json("result.json", {"dice": 1.0})


def is_whole(file: Path) -> bool:
    """Whether a file can be read to its end."""
    readers: dict[str, Callable[[], object]] = {
        ".json": lambda: json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(name)),
        ".npz": lambda: dict(np.load(file)),
        ".png": lambda: np.asarray(Image.open(file)),
        ".pt": lambda: torch.load(file, weights_only=False),
        ".html": lambda: file.read_text().rstrip().endswith("</html>") or pytest.fail(str(file)),
        ".csv": lambda: file.read_text().count("\n") == 3 or pytest.fail(str(file)),
        ".safetensors": lambda: load_network(file.parent) if (file.parent / "config.json").exists() else None,
    }
    readers[file.suffix]()
    return True


class _Killed(BaseException):
    """As a process that is gone: nothing behind it runs but what Python itself unwinds."""


@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), _Killed()], ids=["full", "killed"])
def test_no_write_of_a_run_leaves_a_part_under_a_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    write_run(tmp_path / "whole")
    complete = {file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file()}
    assert len(complete) == 12
    ends_at = 0
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal ends_at
        ends_at -= 1
        if ends_at == 0:
            self.write_bytes(self.read_bytes()[: self.stat().st_size // 2])  # as much as came to the disk
            raise end
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    for number in range(1, len(complete) + 1):
        ends_at, folder = number, tmp_path / str(number)
        with pytest.raises(type(end)) as caught:
            write_run(folder)
        left = [file for file in folder.rglob("*") if file.is_file() and file.name[0] != "."]
        assert len(left) == number - 1
        assert all(map(is_whole, left))
        if isinstance(caught.value, OSError):
            assert Path(str(caught.value.filename)).relative_to(folder) in complete
