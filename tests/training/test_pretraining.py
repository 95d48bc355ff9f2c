"""Pretraining on pictures: targets, determinism whatever the threads do, resume, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from training_cases import Recorder, differences

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig, PicturesConfig, PretrainConfig
from slicemamba.data.pictures import Pictures, find_pictures
from slicemamba.errors import InputError
from slicemamba.models.classifier import SliceClassifier
from slicemamba.training.pretraining import Classification, accuracy
from slicemamba.training.trainer import State, fit, trained_weights

DATA = PicturesConfig(image_size=(32, 32), intensity="zscore")
MODEL = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=4, drop_path_rate=0.1)
CPU = torch.device("cpu")


def quick(**options: Any) -> PretrainConfig:
    values = {"epochs": 3, "batch_size": 4, "warmup_epochs": 1, "t_max": 2, "decode_threads": 2, "ema_decay": 0.5}
    return PretrainConfig.model_validate(values | options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pictures, Pictures]:
    """Three classes told by the direction of stripes; 4 pictures each to train on, 2 to validate."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :40]
    for split, count in (("train", 4), ("val", 2)):
        for name, along in (("columns", x), ("rows", y), ("slanted", x + y)):
            for i in range(count):
                wave = 128 + 80 * np.sin(2 * np.pi * (along / 8 + rng.random()))
                pixels = wave[..., None] + rng.normal(0, 10, (48, 40, 3))
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return find_pictures(DATA.model_copy(update={"root": root}))


def network(seed: int = 3) -> SliceClassifier:
    torch.manual_seed(seed)
    return SliceClassifier(MODEL, 3, Architecture.uniform((2, 2), MODEL.depths))


def run(classifier: nn.Module, pictures: tuple[Pictures, Pictures], config: PretrainConfig, **more: Any) -> Recorder:
    recorder = Recorder()
    task = Classification(pictures[0], DATA, config)
    validate = more.pop("validate", lambda: accuracy(classifier, pictures[1], DATA, config))
    fit(classifier, task, config, validate=validate, on_epoch=recorder, **more)
    return recorder


def test_targets_are_smoothed_and_mixed_by_one_share(pictures: tuple[Pictures, Pictures]) -> None:
    indices = np.array([0, 5, 11, 2])
    plain = Classification(pictures[0], DATA, quick(mixup_alpha=0, label_smoothing=0.3))
    mixed = Classification(pictures[0], DATA, quick(mixup_alpha=0.8, label_smoothing=0.3))
    inputs, targets = plain.load(indices, 7, 0, CPU)
    assert inputs.shape == (4, 3, 32, 32)
    assert targets.tolist() == [pytest.approx([0.8 if k == c else 0.1 for k in range(3)]) for c in (0, 1, 2, 0)]
    mixed_inputs, mixed_targets = mixed.load(indices, 7, 0, CPU)
    share = (mixed_targets - targets)[1, 1] / (targets.flip(0) - targets)[1, 1]
    assert 0 < share < 1
    torch.testing.assert_close(mixed_targets, targets.lerp(targets.flip(0), share))
    torch.testing.assert_close(mixed_inputs, inputs.lerp(inputs.flip(0), share), atol=1e-4, rtol=1e-4)
    assert mixed_targets.sum(1).tolist() == pytest.approx([1] * 4)


def test_batch_is_the_same_however_it_is_read(pictures: tuple[Pictures, Pictures]) -> None:
    indices = np.array([3, 1, 4, 1])
    batches = []
    for threads, ahead in ((1, False), (4, False), (3, True)):
        task = Classification(pictures[0], DATA, quick(decode_threads=threads))
        if ahead:
            task.prefetch(indices, 5)
        batches.append(task.load(indices, 5, 0, CPU))
    for inputs, targets in batches[1:]:
        assert torch.equal(inputs, batches[0][0])
        assert torch.equal(targets, batches[0][1])
    assert not torch.equal(task.load(indices, 6, 0, CPU)[0], batches[0][0])


def test_resumed_pretraining_equals_the_uninterrupted_one_to_the_last_bit(pictures: tuple[Pictures, Pictures]) -> None:
    config = quick(accumulate_steps=2)
    whole = run(network(), pictures, config)
    resumed = run(network(seed=8), pictures, config, state=whole.states[0])
    assert [report.epoch for report in resumed.reports] == [2, 3]
    assert differences(whole.states[-1], resumed.states[-1]) == []
    assert replace(whole.reports[-1], seconds=0) == replace(resumed.reports[-1], seconds=0)


def test_pretraining_learns_to_tell_the_classes(pictures: tuple[Pictures, Pictures]) -> None:
    config = quick(
        epochs=30, batch_size=12, learning_rate=1e-2, t_max=29, ema_decay=None, mixup_alpha=0, label_smoothing=0,
        crop_area=(0.5, 1), flip_probability=0.0, weight_decay=0, validate_every=30,
    )  # fmt: skip
    recorder = run(network(), pictures, config)
    assert recorder.reports[0].loss == pytest.approx(np.log(3), abs=0.3)
    assert recorder.reports[-1].loss < 0.5
    assert recorder.reports[-1].validation["top1"] >= 5 / 6


def test_early_stopping_goes_by_top1(pictures: tuple[Pictures, Pictures]) -> None:
    config = quick(early_stop_epochs=1)
    recorder = run(network(), pictures, config, validate=lambda: {"top1": 0.4, "top5": 1.0})
    assert [report.stopped_early for report in recorder.reports] == [False, True]


class Told(nn.Module):
    """Gives the logits it was told, in the order it is asked for them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self._logits = logits
        self._done = 0

    def forward(self, image: Tensor) -> Tensor:
        self._done += len(image)
        return self._logits[self._done - len(image) : self._done] * self.scale


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_accuracy_counts_the_most_probable_and_the_five_most_probable(
    pictures: tuple[Pictures, Pictures], batch_size: int
) -> None:
    val = replace(pictures[1], labels=np.array([0, 1, 2, 3, 4, 5]), classes=tuple("abcdefg"))
    logits = torch.zeros(6, 7)
    ranks = [0, 0, 1, 4, 5, 6]  # of the true class, best first
    for row, (label, rank) in enumerate(zip(val.labels, ranks, strict=True)):
        order = [k for k in range(7) if k != label]
        order.insert(rank, int(label))
        logits[row, order] = torch.arange(7, 0, -1.0)
    found = accuracy(Told(logits), val, DATA, quick(batch_size=batch_size))
    assert found == {"top1": pytest.approx(2 / 6), "top5": pytest.approx(4 / 6)}


def test_saved_weights_are_the_averaged_ones(pictures: tuple[Pictures, Pictures]) -> None:
    state: State = run(network(), pictures, quick(epochs=1)).states[0]
    assert differences(trained_weights(state), state["network"]) != []
    network().load_state_dict(trained_weights(state))


def test_unreadable_picture_stops_the_training_with_its_name(
    pictures: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    files = (tmp_path / "bad.png", *pictures[0].files[1:])
    with pytest.raises(InputError, match=r"bad\.png"):
        run(network(), (replace(pictures[0], files=files), pictures[1]), quick(epochs=1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rotate_probability": 0.5}, "rotate_probability is for segmentation"),
        ({"crop_area": (0.5, 0.2)}, "crop_area must be"),
        ({"crop_area": (0.5, 1.2)}, "crop_area must be"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quick(**options)
