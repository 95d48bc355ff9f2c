"""Training the supernet on two processes: what is sent, what a step takes, and that the losses are those of one.

``python -m benchmarks.distributed`` prints Markdown tables:

- bytes that each step reduces over the processes: the drawn path (ours), against the whole supernet, which is what
  torch's DistributedDataParallel sends with ``find_unused_parameters``;
- seconds a step at one global batch: one process, two with ours, two with DistributedDataParallel, and the same under
  Ray Train. All are run in turn, several times; the ratios are of the medians.

Every process has one thread, so that two processes have twice the cores of one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from cluster.connect import ENVIRONMENT
from nas.config import SpaceConfig
from nas.sampling import PathSampler
from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig, SyntheticConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.models.supernet import Supernet
from slicemamba.training import trainer
from slicemamba.training.optim import Optimizer

WARM_UP = 4


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    dim: int
    size: int
    batch: int
    steps: int
    cache: str


@dataclass
class Told:
    """What one process saw: seconds and loss of each step, and bytes it reduced in each."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    reduced: list[int] = field(default_factory=list)


class LossesAlone(Optimizer):
    """For DistributedDataParallel, which has averaged the gradients by the time of ``average``."""

    def average(self, loss: float) -> list[float]:
        losses = torch.zeros(dist.get_world_size())
        losses[dist.get_rank()] = loss
        dist.all_reduce(losses)
        told: list[float] = losses.tolist()
        return told


class Parallel(nn.Module):
    """The supernet in DistributedDataParallel; by a hook, as its usual way of sending does not call ``all_reduce``."""

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.parallel = DistributedDataParallel(supernet, find_unused_parameters=True)
        self.parallel.register_comm_hook(None, allreduce_hook)

    def forward(self, image: Tensor, architecture: Architecture) -> Tensor:
        logits: Tensor = self.parallel(image, architecture)
        return logits


def train(setting: Setting, parallel: bool) -> Told:
    """Trains in this process, which is one of its group where there is one.

    Args:
        parallel: by DistributedDataParallel in place of ours.
    """
    torch.set_num_threads(1)
    model = ModelConfig(embed_dim=setting.dim, drop_path_rate=0.0)
    space = SearchSpace(SpaceConfig().choices, model.depths)
    synthetic = SyntheticConfig(num_train=setting.batch * setting.steps, num_val=2, num_search=2, num_test=2)
    data = load_split(
        DataConfig(name="synthetic", image_size=(setting.size, setting.size), synthetic=synthetic),
        "train",
        Path(setting.cache),
    )
    config = TrainConfig(epochs=1, batch_size=setting.batch, augment=False, clip_grad_norm=1.0)
    torch.manual_seed(0)
    supernet = Supernet(model, 1, space.choices)
    told, sent = Told(), [0]

    reduce = dist.all_reduce

    def counted(tensor: Tensor, *rest: Any, **more: Any) -> Any:
        sent[0] += tensor.nbytes
        return reduce(tensor, *rest, **more)

    last = time.perf_counter()

    def on_step(done: int, total: int, loss: float) -> None:
        nonlocal last
        now = time.perf_counter()
        told.seconds.append(now - last)
        told.losses.append(loss)
        told.reduced.append(sent[0])
        last, sent[0] = now, 0

    dist.all_reduce, usual = counted, trainer.Optimizer
    trainer.Optimizer = LossesAlone if parallel else usual  # type: ignore[misc]
    try:
        trainer.fit(
            Parallel(supernet) if parallel else supernet,
            data,
            config,
            validate=dict,
            on_epoch=lambda report, state: None,
            draw=PathSampler(space, "uniform", 0),
            on_step=on_step,
        )
    finally:
        dist.all_reduce, trainer.Optimizer = reduce, usual  # type: ignore[misc]
    return told


def _process(rank: int, world: int, setting: Setting, parallel: bool, folder: str) -> None:
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    told = train(setting, parallel)
    if rank == 0:
        (Path(folder) / "told.json").write_text(json.dumps(asdict(told)))
    if world > 1:
        dist.destroy_process_group()


def without_ray(setting: Setting, world: int, parallel: bool = False) -> Told:
    """In processes of torch's own."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, args=(world, setting, parallel, folder), nprocs=world)  # type: ignore[no-untyped-call]
        return Told(**json.loads((Path(folder) / "told.json").read_text()))


def _ray_worker(config: dict[str, Any]) -> None:
    told = train(Setting(**config["setting"]), parallel=False)
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["file"]).write_text(json.dumps(asdict(told)))


def with_ray(setting: Setting, world: int) -> Told:
    """On Ray Train, as any training of a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "told.json"
        TorchTrainer(
            _ray_worker,
            train_loop_config={"setting": asdict(setting), "file": str(file)},
            scaling_config=ScalingConfig(num_workers=world),
            run_config=RunConfig(name="steps", storage_path=folder),
        ).fit()
        return Told(**json.loads(file.read_text()))


def path_bytes(dim: int) -> tuple[float, int]:
    """MB of gradients of one path (mean over ten paths) and of the whole supernet, in float32."""
    model = ModelConfig(embed_dim=dim)
    space = SearchSpace(SpaceConfig().choices, model.depths)
    with torch.device("meta"):
        supernet = Supernet(model, 1, space.choices)
        whole = sum(parameter.nbytes for parameter in supernet.parameters())
        sampler = PathSampler(space, "uniform", 0)
        paths = [sum(p.nbytes for p in supernet.extract(*sampler(step)).parameters()) for step in range(10)]
    return statistics.fmean(paths) / 1e6, whole / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT, RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1", RAY_worker_niceness="0")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    ways: dict[str, Callable[[Setting], Told]] = {
        "1 process": lambda setting: without_ray(setting, 1),
        "2 processes, the path": lambda setting: without_ray(setting, 2),
        "2 processes, DistributedDataParallel": lambda setting: without_ray(setting, 2, parallel=True),
        "Ray Train, 1 worker": lambda setting: with_ray(setting, 1),
        "Ray Train, 2 workers, the path": lambda setting: with_ray(setting, 2),
    }
    told: dict[str, list[Told]] = {way: [] for way in ways}
    ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as cache:
        setting = Setting(options.dim, options.size, options.batch, options.steps, cache)
        for _ in range(options.rounds):
            for way, run in ways.items():
                told[way].append(run(setting))
    ray.shutdown()

    print(
        f"C = {options.dim}, {options.size}×{options.size}, global batch {options.batch}, {options.rounds} rounds of "
        f"{options.steps} steps of which the first {WARM_UP} are left out; load {os.getloadavg()[0]:.1f}\n"
    )
    print("| way | s a step | against 1 process | MB reduced a step | largest difference of a loss from 1 process |")
    print("| --- | ---: | ---: | ---: | ---: |")
    alone = told["1 process"]
    usual = _seconds(alone)
    for way, rounds in told.items():
        difference = max(abs(a - b) for a, b in zip(rounds[0].losses, alone[0].losses, strict=True))
        reduced = statistics.fmean(rounds[0].reduced) / 1e6
        seconds = _seconds(rounds)
        print(f"| {way} | {seconds:.3f} | {seconds / usual:.2f} | {reduced:.2f} | {difference:.1e} |")
    print("\n| C | MB of gradients, one path | whole supernet | ratio |\n| ---: | ---: | ---: | ---: |")
    for dim in (16, 48, 96):
        path, whole = path_bytes(dim)
        print(f"| {dim} | {path:.1f} | {whole:.1f} | {whole / path:.2f} |")


def _seconds(rounds: list[Told]) -> float:
    """Median over the rounds of the median step."""
    return statistics.median(statistics.median(told.seconds[WARM_UP:]) for told in rounds)


if __name__ == "__main__":
    main()
