"""Pretraining an encoder as a classifier (VMamba, arXiv 2401.10166): crops, mixup, smoothed labels, top-1 and top-5."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.config import PicturesConfig, PretrainConfig
from slicemamba.data.pictures import Pictures, Pixels, read_centre, read_crop
from slicemamba.data.transforms import to_input
from slicemamba.training.order import Indices, epoch_order
from slicemamba.training.seeds import generator_for
from slicemamba.training.trainer import place


class Classification:
    """Telling the classes of pictures, which threads decode while the batch before is trained on.

    Each picture's crop is drawn from a generator of its own, seeded by step and picture, so that neither the threads'
    order nor a resume shows.

    Args:
        pictures: the training split. data, config: how to read them, and how to train.
    """

    score = "top1"

    def __init__(self, pictures: Pictures, data: PicturesConfig, config: PretrainConfig) -> None:
        self._pictures = pictures
        self._data = data
        self._config = config
        self._threads = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")
        self._reading: dict[int, list[Future[Pixels]]] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def order(self, epoch: int) -> Indices:
        """Every picture once."""
        return epoch_order(len(self), self._config.seed, epoch)

    def name(self, index: int) -> str:
        return str(self._pictures.files[index])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits and target probabilities, both (B, classes)."""
        return F.cross_entropy(output.float(), target)

    def prefetch(self, indices: Indices, step: int) -> None:
        self._reading[step] = [self._threads.submit(self._read, int(index), step) for index in indices]

    def load(self, indices: Indices, step: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) and target probabilities (B, classes)."""
        if step not in self._reading:
            self.prefetch(indices, step)
        pixels = np.stack([future.result() for future in self._reading.pop(step)])
        inputs = to_input(pixels, self._data.intensity).to(device, non_blocking=True)
        count, smoothing = len(self._pictures.classes), self._config.label_smoothing
        labels = torch.from_numpy(self._pictures.labels[indices]).to(device)
        targets = F.one_hot(labels, count).float() * (1 - smoothing) + smoothing / count
        alpha = self._config.mixup_alpha
        if not alpha:
            return inputs, targets
        share = generator_for(self._config.seed, "mixup", step, rank).beta(alpha, alpha)
        return inputs.lerp(inputs.flip(0), share), targets.lerp(targets.flip(0), share)

    def _read(self, index: int, step: int) -> Pixels:
        path, config = self._pictures.files[index], self._config
        if not config.augment:
            return read_centre(path, self._data.image_size)
        rng = generator_for(config.seed, "augment", step, index)
        return read_crop(path, self._data.image_size, rng, config.crop_area, config.flip_probability)


@torch.inference_mode()
def accuracy(network: nn.Module, pictures: Pictures, data: PicturesConfig, config: PretrainConfig) -> dict[str, float]:
    """``top1`` and ``top5``: shares of a split whose class is the most probable, or among the five most probable.

    With several processes each takes its share of the pictures.

    Args:
        network: in eval mode, on its device. pictures: the split. data, config: how to read them.
    """
    device = next(network.parameters()).device
    rank, world = place()
    mine = np.arange(rank, len(pictures), world)
    hits = torch.zeros(2, dtype=torch.float64, device=device)
    with ThreadPoolExecutor(config.decode_threads) as threads:
        for start in range(0, len(mine), config.batch_size):
            indices = mine[start : start + config.batch_size]
            read = threads.map(lambda index: read_centre(pictures.files[index], data.image_size), indices.tolist())
            logits = network(to_input(np.stack(list(read)), data.intensity).to(device))
            labels = torch.from_numpy(pictures.labels[indices]).to(device)
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            hits += torch.stack([best[:, 0].sum(), best.sum()])
    if world > 1:
        dist.all_reduce(hits)
    top1, top5 = (hits / len(pictures)).tolist()
    return {"top1": top1, "top5": top5}
