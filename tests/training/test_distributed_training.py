"""Two processes train to the weights of one, at the same global batch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import Tensor, nn
from training_cases import blobs, differences, train

from nas.sampling import PathSampler
from nas.space import SearchSpace
from slicemamba.architecture import SKIP, Architecture, Block
from slicemamba.config import ModelConfig, PicturesConfig, PretrainConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.pictures import Pictures
from slicemamba.data.transforms import to_input
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.supernet import Supernet
from slicemamba.training.pretraining import accuracy
from slicemamba.training.trainer import TrainingDivergedError
from slicemamba.training.validation import shared_scores

MODEL = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=4, drop_path_rate=0.0)
SPACE = SearchSpace(((2, 2), (4, 4)), MODEL.depths)
SIZED = SearchSpace((Block(2, 2), Block(4, 4), Block(2, 2, 2, 1), SKIP), MODEL.depths)
CONFIG = TrainConfig(
    epochs=2, batch_size=4, learning_rate=1e-3, clip_grad_norm=1.0, ema_decay=0.9, augment=False, seed=4
)
CPU = torch.device("cpu")
IMAGES = 7  # the last batch is filled up


class Double(nn.Module):
    """Computes in float64, where the order of a sum does not show through AdamW's division."""

    def __init__(self, space: SearchSpace = SPACE, weight_sharing: Literal["separate", "shared"] = "separate") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.supernet = Supernet(MODEL, 1, space.choices, weight_sharing).double()

    def forward(self, image: Tensor, architecture: Architecture) -> Tensor:
        logits: Tensor = self.supernet(image.double(), architecture)
        return logits


class Bright(nn.Module):
    """Calls a picture light or dark, class 1 or 0, by its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        light = (image.mean((1, 2, 3)) - 0.5) * self.scale
        return torch.stack([-light, light], dim=1)


def shades(folder: Path) -> tuple[Pictures, PicturesConfig]:
    """Five pictures of which three are of the class that ``Bright`` gives them."""
    labels, greys = [0, 1, 1, 0, 0], [10, 250, 20, 240, 30]
    for i, grey in enumerate(greys):
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(folder / f"shade_{i}.png")
    files = tuple(folder / f"shade_{i}.png" for i in range(5))
    data = PicturesConfig(image_size=(32, 32), intensity="unit")
    return Pictures(files, np.array(labels), ("dark", "light")), data


def run(rank: int, world: int, folder: Path) -> None:
    """One process of a group; writes what it has in the end."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    paths: list[str] = []

    sampler = PathSampler(SPACE, "uniform", CONFIG.seed)

    def draw(step: int) -> tuple[Architecture, ...]:
        paths.extend(map(str, sampler(step)))
        return sampler(step)

    reduced: list[int] = []
    reduce = dist.all_reduce

    def counted(tensor: Tensor) -> None:
        reduced.append(tensor.numel())
        reduce(tensor)

    dist.all_reduce = counted
    recorder = train(Double(), blobs(IMAGES), CONFIG, draw=draw)
    steps = len(reduced)
    several = PathSampler(SIZED, "sandwich", CONFIG.seed, model=MODEL)
    sandwich = train(Double(SIZED, "shared"), blobs(IMAGES), CONFIG, draw=several)
    sandwich_reductions = len(reduced) - steps
    del reduced[steps:]
    dist.all_reduce = reduce
    own = folder / f"{world}_{rank}"
    own.mkdir()
    pictures, data = shades(own)
    top = accuracy(Bright(), pictures, data, PretrainConfig(batch_size=2, decode_threads=1))
    losses = [report.loss for report in recorder.reports]
    ended = {"state": recorder.states[-1], "paths": paths, "losses": losses, "accuracy": top, "reduced": reduced}
    ended |= {"sandwich": sandwich.states[-1], "sandwich_reductions": sandwich_reductions}
    ended["validation"] = validation()
    torch.save(ended, folder / f"{world}_{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def validation() -> list[dict[str, float]]:
    """Of two classes and of one, of a network that gives NaN, and of fewer images than processes."""
    return [shared_scores(network, data, batch_size=2, device=CPU) for network, data in validated()]


def validated() -> list[tuple[nn.Module, SegmentationData]]:
    torch.manual_seed(22)
    five, one = blobs(5), blobs(1)
    two_classes = replace(five, masks=2 * five.masks, num_classes=3)
    broken = nn.Conv2d(3, 1, 1)
    nn.init.constant_(broken.weight, torch.nan)
    return [(nn.Conv2d(3, 1, 1), five), (nn.Conv2d(3, 3, 1), two_classes), (broken, five), (nn.Conv2d(3, 1, 1), one)]


class Spoilt(nn.Module):
    """Gives NaN for one image of the set, which it knows by its pixels."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self._image = image

    def forward(self, image: Tensor) -> Tensor:
        spoilt = (image == self._image).flatten(1).all(1)
        return self.bias * torch.where(spoilt, torch.nan, 1.0)[:, None, None, None] + torch.zeros_like(image[:, :1])


def meet_a_spoilt_image(rank: int, folder: Path) -> None:
    """One of two processes; writes how its training ended."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/spoilt", rank=rank, world_size=2)
    data = blobs(8)
    network = Spoilt(to_input(data.images[5:6])[0])
    with pytest.raises(TrainingDivergedError) as caught:
        train(network, data, TrainConfig(epochs=1, batch_size=4, augment=False, seed=2))
    assert network.bias.isfinite().all()
    (folder / f"told_{rank}.txt").write_text(str(caught.value))
    dist.destroy_process_group()


def test_divergence_on_one_process_stops_all_with_the_batch_of_that_one(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(meet_a_spoilt_image, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    told = {(tmp_path / f"told_{rank}.txt").read_text() for rank in range(2)}
    assert len(told) == 1, "both say the same"
    [message] = told
    assert "the loss is nan at step" in message
    assert "blob_5" in message
    assert message.count("blob_") == 2, "the share of one process is named, not the whole batch"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What one process and each of two processes ended with."""
    folder = tmp_path_factory.mktemp("processes")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    threads = torch.get_num_threads()
    run(0, 1, folder)
    torch.set_num_threads(threads)
    mp.spawn(run, args=(2, folder), nprocs=2)  # type: ignore[no-untyped-call]
    return {name: torch.load(folder / f"{name}.pt") for name in ("1_0", "2_0", "2_1")}


def test_two_processes_give_the_weights_of_one(ended: dict[str, dict[str, dict[str, dict[str, Tensor]]]]) -> None:
    alone, together = (ended[name]["state"]["network"] for name in ("1_0", "2_0"))
    assert alone.keys() == together.keys()
    start = Double().state_dict()
    assert any((alone[name] - start[name]).abs().max() > 1e-3 for name in alone), "training moved the weights"
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_give_the_sandwich_of_one(ended: dict[str, dict[str, dict[str, dict[str, Tensor]]]]) -> None:
    """All processes run the same paths, and the gradients of all paths go into one reduction."""
    alone, together = (ended[name]["sandwich"]["network"] for name in ("1_0", "2_0"))
    start = Double(SIZED, "shared").state_dict()
    assert any((alone[name] - start[name]).abs().max() > 1e-3 for name in alone), "training moved the weights"
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert differences(ended["2_0"]["sandwich"], ended["2_1"]["sandwich"]) == []
    assert ended["2_0"]["sandwich_reductions"] == 4, "one a step"


def test_both_processes_end_with_equal_weights_and_losses(ended: dict[str, dict[str, object]]) -> None:
    assert differences(ended["2_0"]["state"], ended["2_1"]["state"]) == []
    assert ended["2_0"]["losses"] == ended["2_1"]["losses"] == pytest.approx(ended["1_0"]["losses"], abs=1e-6)


def test_processes_count_each_validation_picture_once(ended: dict[str, dict[str, object]]) -> None:
    """Five pictures, so the processes have unequal shares."""
    for name in ("1_0", "2_0", "2_1"):
        assert ended[name]["accuracy"] == {"top1": pytest.approx(0.6), "top5": 1.0}


def test_processes_share_the_validation_and_have_the_scores_of_one(ended: dict[str, dict[str, object]]) -> None:
    expected = []
    for network, data in validated():
        metrics = evaluate(network, data, batch_size=2, device=CPU, with_hd95=False).metrics
        expected.append({name: pytest.approx(metrics[name], abs=0, nan_ok=True) for name in ("dice", "miou")})
    for name in ("1_0", "2_0", "2_1"):
        assert ended[name]["validation"] == expected
    assert 0 < expected[0]["dice"].expected < 1


def test_process_validates_its_share_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slicemamba.training.validation.place", lambda: (1, 3))
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    seen = []

    def forward(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images[:, :1]

    shared_scores(forward, blobs(7), batch_size=8, device=CPU)
    assert seen == [2]


def test_all_processes_draw_the_same_paths(ended: dict[str, dict[str, object]]) -> None:
    assert ended["1_0"]["paths"] == ended["2_0"]["paths"] == ended["2_1"]["paths"]
    assert len(ended["1_0"]["paths"]) == 4  # type: ignore[arg-type]


def test_gradients_of_the_drawn_path_alone_are_reduced(ended: dict[str, dict[str, object]]) -> None:
    """And with them one loss of each process, in the same message."""
    supernet = Supernet(MODEL, 1, SPACE.choices)
    paths = [supernet.extract(Architecture.parse(path)) for path in ended["2_0"]["paths"]]  # type: ignore[attr-defined]
    expected = [sum(parameter.numel() for parameter in path.parameters()) + 2 for path in paths]
    assert ended["2_0"]["reduced"] == ended["2_1"]["reduced"] == expected
    assert max(expected) < 0.6 * sum(parameter.numel() for parameter in supernet.parameters()), "two choices a block"
    assert ended["1_0"]["reduced"] == []
