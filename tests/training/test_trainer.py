"""The training loop on one process: it learns, resumes to the last bit, sees every image, and says when it diverges."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_cases import Recorder, blobs, differences, train

from nas.sampling import PathSampler
from nas.space import SearchSpace
from slicemamba.architecture import SKIP, Architecture, Block, parse_block
from slicemamba.config import ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import to_input
from slicemamba.errors import InputError
from slicemamba.models.supernet import Supernet, WeightSharing
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training import trainer
from slicemamba.training.losses import distillation_loss, segmentation_loss
from slicemamba.training.optim import learning_rate
from slicemamba.training.seeds import generator_for
from slicemamba.training.task import Segmentation
from slicemamba.training.trainer import EpochReport, State, TrainingDivergedError, fit, trained_weights

QUICK = TrainConfig(epochs=3, batch_size=3, learning_rate=1e-3, seed=11)
LEARN = TrainConfig(epochs=30, batch_size=4, learning_rate=2e-2, augment=False)
LEARNER = ModelConfig(embed_dim=16, encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=4, drop_path_rate=0.0)


class Watcher(nn.Module):
    """Predicts a constant and notes the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.batches: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, image: Tensor) -> Tensor:
        self.batches.append(image.clone())
        self.modes.append(self.training)
        return self.bias.expand(image.shape[0], 1, *image.shape[2:])

    def seen(self, data: SegmentationData) -> list[list[int]]:
        """Indices of the images of each batch."""
        known = to_input(data.images)
        return [[int((known == image).all(dim=(1, 2, 3)).nonzero()) for image in batch] for batch in self.batches]


def fresh_supernet(model: ModelConfig, space: SearchSpace) -> Supernet:
    torch.manual_seed(3)
    return Supernet(model, 1, space.choices)


def test_training_lowers_the_loss_below_that_of_any_constant() -> None:
    network = SliceMambaUNet(LEARNER, 1, Architecture.uniform((2, 2), LEARNER.depths))
    losses = [report.loss for report in train(network, blobs(4), LEARN).reports]
    assert losses[0] > 1.2
    assert losses[-1] < 1.0, "the best constant prediction has 1.28"


def test_supernet_training_lowers_the_loss() -> None:
    space = SearchSpace(((2, 2), (4, 4)), LEARNER.depths)
    supernet = Supernet(LEARNER, 1, space.choices, "shared")
    losses = [report.loss for report in train(supernet, blobs(4), LEARN, draw=PathSampler(space, "uniform", 0)).reports]
    assert losses[-1] < 1.0


def test_training_on_label_masks_lowers_the_loss() -> None:
    data = blobs(4)
    masks = data.masks.copy()
    masks[:, :16] *= 2
    network = SliceMambaUNet(LEARNER, 3, Architecture.uniform((2, 2), LEARNER.depths))
    losses = [report.loss for report in train(network, replace(data, masks=masks, num_classes=3), LEARN).reports]
    assert losses[-1] < 0.75 * losses[0]


OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "accumulated": {"accumulate_steps": 3},
    "averaged": {"ema_decay": 0.9},
    "warmed up": {"warmup_epochs": 2, "clip_grad_norm": 0.5},
    "stopping": {"early_stop_epochs": 2},
    "all": {"precision": "bf16", "accumulate_steps": 3, "ema_decay": 0.9, "clip_grad_norm": 1, "early_stop_epochs": 3},
}


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resumed_training_equals_the_uninterrupted_one_to_the_last_bit(
    tiny_model: ModelConfig,
    tiny_space: SearchSpace,
    tiny_data: SegmentationData,
    options: dict[str, object],
    epoch: int,
) -> None:
    """With stochastic depth, augmentation and drawn paths; the state goes through a file, as a checkpoint does."""
    assert tiny_model.drop_path_rate > 0
    assert QUICK.augment
    config = TrainConfig.model_validate(QUICK.model_dump() | options)

    def run(supernet: Supernet, state: State | None = None) -> Recorder:
        def validate() -> dict[str, float]:
            return {"dice": 0.0, "weight": sum(float(weight.detach().sum()) for weight in supernet.parameters())}

        return train(
            supernet, tiny_data, config, draw=PathSampler(tiny_space, "uniform", 0), state=state, validate=validate
        )

    whole = run(fresh_supernet(tiny_model, tiny_space))
    file = io.BytesIO()
    torch.save(whole.states[epoch - 1], file)
    file.seek(0)
    torch.manual_seed(99)  # the resuming process has generators of its own
    resumed = run(Supernet(tiny_model, 1, tiny_space.choices), torch.load(file, weights_only=True))
    assert [report.epoch for report in whole.reports] == [1, 2, 3]
    assert [report.epoch for report in resumed.reports] == list(range(epoch + 1, 4))
    assert differences(whole.states[-1], resumed.states[-1]) == []
    for before, after in zip(whole.reports[epoch:], resumed.reports, strict=True):
        assert replace(before, seconds=0.0) == replace(after, seconds=0.0)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulated_gradient_is_that_of_the_whole_batch(
    tiny_model: ModelConfig, tiny_data: SegmentationData, parts: int
) -> None:
    """In float64, where the order of a sum does not show; seven images in parts of four and three at the least."""
    model = tiny_model.model_copy(update={"drop_path_rate": 0.0})

    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.network = SliceMambaUNet(model, 1, Architecture.uniform((2, 4), model.depths)).double()

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.network(image.double())
            return logits

    def weights(accumulate_steps: int) -> tuple[dict[str, Tensor], list[float]]:
        config = QUICK.model_copy(update={"batch_size": 12, "epochs": 2, "accumulate_steps": accumulate_steps})
        recorder = train(Double(), tiny_data, config)
        return recorder.states[-1]["network"], [report.loss for report in recorder.reports]

    (whole, losses), (parted, parted_losses) = weights(1), weights(parts)
    assert parted_losses == pytest.approx(losses, rel=1e-6)
    start = Double().state_dict()
    assert any((whole[name] - start[name]).abs().max() > 1e-3 for name in whole), "training moved the weights"
    for name, weight in whole.items():
        torch.testing.assert_close(parted[name], weight, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_averaged_weights_are_validated_and_kept_and_the_others_trained_on(
    tiny_model: ModelConfig, tiny_data: SegmentationData
) -> None:
    """The training itself goes as without averaging."""
    seen: list[dict[str, Tensor]] = []

    def run(ema_decay: float | None) -> Recorder:
        torch.manual_seed(3)
        network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 2), tiny_model.depths))

        def validate() -> dict[str, float]:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
            return {"dice": 0.5}

        return train(network, tiny_data, QUICK.model_copy(update={"ema_decay": ema_decay}), validate=validate)

    plain, averaged = run(None), run(0.9)
    for state, validated in zip([*plain.states, *averaged.states], seen, strict=True):
        assert differences(trained_weights(state), validated) == []
    assert differences(plain.states[-1]["network"], averaged.states[-1]["network"]) == []
    assert differences(plain.states[-1]["network"], trained_weights(averaged.states[-1])) != []


@pytest.mark.parametrize(
    ("scores", "every", "patience", "last"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 1, 6),
        ([0.5, 0.4, 0.6, 0.6, 0.5, 0.7], 1, 2, 5),
        ([0.5, 0.4, 0.3, 0.6, 0.7, 0.8], 1, 3, 6),
        ([0.5, 0.4, 0.4], 2, 2, 4),
        ([0.5, 0.4, 0.4], 2, 3, 6),
        ([float("nan"), 0.1, 0.1, 0.1, 0.1, 0.1], 1, 2, 4),
        ([0.0] * 6, 1, None, 6),
    ],
)
def test_training_stops_once_the_best_validation_is_so_many_epochs_old(
    scores: list[float], every: int, patience: int | None, last: int
) -> None:
    left = iter(scores)
    config = TrainConfig(epochs=6, batch_size=4, augment=False, validate_every=every, early_stop_epochs=patience)
    recorder = train(Watcher(), blobs(4), config, validate=lambda: {"dice": next(left)})
    assert [report.epoch for report in recorder.reports] == list(range(1, last + 1))
    stopped = patience is not None and last < 6
    assert [report.stopped_early for report in recorder.reports[:-1]] == [False] * (last - 1)
    assert recorder.reports[-1].stopped_early == stopped, "the last of all epochs is no early stop"
    if stopped:
        resumed = train(Watcher(), blobs(4), config, state=recorder.states[-1])
        assert resumed.reports == [], "a training that has stopped does not go on"


def test_reduced_precision_reaches_the_network_and_not_the_loss() -> None:
    dtypes: list[torch.dtype] = []

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.layer(image)
            dtypes.append(logits.dtype)
            return logits

    network = Linear()
    train(network, blobs(4), TrainConfig(epochs=1, batch_size=4, precision="bf16"))
    train(network, blobs(4), TrainConfig(epochs=1, batch_size=4))
    assert dtypes == [torch.bfloat16, torch.float32]
    assert network.layer.weight.dtype == torch.float32


def test_fp16_on_the_cpu_is_refused_with_the_mend() -> None:
    with pytest.raises(InputError, match="needs a CUDA GPU; use bf16 or float32"):
        train(Watcher(), blobs(4), TrainConfig(epochs=1, precision="fp16"))


def test_same_seed_gives_the_same_training_and_another_seed_another(
    tiny_model: ModelConfig, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    def final(seed: int, noise: int) -> dict[str, object]:
        network = fresh_supernet(tiny_model, tiny_space)
        torch.manual_seed(noise)  # what the process drew before must not matter
        config = QUICK.model_copy(update={"seed": seed, "epochs": 1})
        return train(network, tiny_data, config, draw=PathSampler(tiny_space, "uniform", 0)).states[-1]

    assert differences(final(1, noise=5), final(1, noise=6)) == []
    assert differences(final(1, noise=5), final(2, noise=5)) != []


def test_finished_training_has_nothing_left_to_do(tiny_model: ModelConfig, tiny_data: SegmentationData) -> None:
    network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 2), tiny_model.depths))
    state = train(network, tiny_data, QUICK).states[-1]
    assert train(network, tiny_data, QUICK, state=state).reports == []


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [(7, 3, [3, 3, 3]), (6, 3, [3, 3]), (5, 8, [5]), (1, 4, [1]), (4, 1, [1] * 4)],
)
def test_every_image_is_seen_each_epoch_in_batches_of_one_size(
    num_images: int, batch_size: int, sizes: list[int]
) -> None:
    watcher, data = Watcher(), blobs(num_images)
    train(watcher, data, TrainConfig(epochs=2, batch_size=batch_size, augment=False))
    seen = watcher.seen(data)
    assert [len(batch) for batch in seen] == sizes * 2
    for epoch in (seen[: len(sizes)], seen[len(sizes) :]):
        assert {index for batch in epoch for index in batch} == set(range(num_images))


def test_order_differs_between_epochs() -> None:
    watcher, data = Watcher(), blobs(12)
    train(watcher, data, TrainConfig(epochs=2, batch_size=12, augment=False))
    first, second = watcher.seen(data)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(12))


def test_augmentation_changes_images_and_can_be_switched_off() -> None:
    data = blobs(6)
    plain, changed = Watcher(), Watcher()
    config = TrainConfig(epochs=1, batch_size=6, flip_probability=1.0, rotate_probability=1.0)
    train(plain, data, config.model_copy(update={"augment": False}))
    train(changed, data, config)
    assert plain.batches[0].shape == changed.batches[0].shape
    assert not torch.equal(plain.batches[0], changed.batches[0])


def test_every_path_of_a_supernet_is_drawn_from_the_steps_own_generator(
    tiny_model: ModelConfig, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    drawn: list[Architecture] = []
    sampler = PathSampler(tiny_space, "uniform", QUICK.seed)

    def draw(step: int) -> tuple[Architecture, ...]:
        drawn.extend(sampler(step))
        return sampler(step)

    train(fresh_supernet(tiny_model, tiny_space), tiny_data, QUICK, draw=draw)
    assert drawn == [tiny_space.sample(generator_for(QUICK.seed, "path", step)) for step in range(9)]
    assert len(set(drawn)) == 9


def test_blocks_off_the_path_keep_their_weights(
    tiny_model: ModelConfig, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    supernet = fresh_supernet(tiny_model, tiny_space)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    architecture = tiny_space.decode([0, 1, 2, 3, 0, 1])
    train(supernet, tiny_data, QUICK.model_copy(update={"epochs": 1}), draw=lambda _: (architecture,))
    changed = {name for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    prefixes = ("layers.0.blocks.0.0", "layers.1.blocks.0.1", "layers.1.blocks.1.2")
    prefixes += ("layers_up.0.blocks.0.3", "layers_up.0.blocks.1.0", "layers_up.1.blocks.0.1")
    assert changed == {name for name in before if ".blocks." not in name or name.startswith(prefixes)}


def test_learning_rate_follows_a_cosine() -> None:
    config = TrainConfig(epochs=5, batch_size=4, learning_rate=1e-2, min_learning_rate=1e-4, t_max=4, augment=False)
    rates = [report.learning_rate for report in train(Watcher(), blobs(4), config).reports]
    expected = [1e-4 + (1e-2 - 1e-4) * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(5)]
    assert rates == pytest.approx(expected)


def test_learning_rate_falls_until_the_end_without_a_length_of_its_own() -> None:
    config = TrainConfig(epochs=6, learning_rate=1e-2, min_learning_rate=0.0, t_max=None, warmup_epochs=2)
    rates = [learning_rate(config, epoch) for epoch in range(1, 7)]
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[2:] == pytest.approx([1e-2 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)])
    assert learning_rate(TrainConfig(epochs=2, t_max=None, warmup_epochs=2), 2) == 1e-3


@pytest.mark.parametrize("sharing", ["shared", "separate"])
def test_convolutional_supernet_resumes_to_the_last_bit(sharing: WeightSharing, tiny_data: SegmentationData) -> None:
    model = ModelConfig(skeleton="conv", embed_dim=4, levels=3, block_levels=(1, 2), d_state=2, deep_supervision=True)
    choices = tuple(map(parse_block, ("2x2", "c3", "-", "full", "half")))
    space = SearchSpace(choices, model.depths, model.has_widths)
    config = QUICK.model_copy(update={"ema_decay": 0.9, "clip_grad_norm": 1.0, "t_max": None})

    def run(state: State | None = None) -> Recorder:
        torch.manual_seed(0 if state is None else 99)
        supernet = Supernet(model, 1, space.choices, sharing)
        return train(supernet, tiny_data, config, draw=PathSampler(space, "uniform", 0), state=state)

    whole = run()
    file = io.BytesIO()
    torch.save(whole.states[0], file)
    file.seek(0)
    resumed = run(torch.load(file, weights_only=True))
    assert differences(whole.states[-1], resumed.states[-1]) == []


def test_gradients_are_clipped_before_the_step() -> None:
    """AdamW's first moment after one step is 0.1 times the gradient that it was given."""
    config = TrainConfig(epochs=1, batch_size=4, augment=False, clip_grad_norm=1e-3)
    moments = train(Watcher(), blobs(4), config).states[0]["optimizer"]["adamw"]["state"][0]["exp_avg"]
    assert moments.norm().item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (10, [5])])
def test_validation_is_due_every_so_often_and_at_the_end(every: int, epochs: list[int]) -> None:
    watcher = Watcher()
    modes: list[bool] = []

    def validate() -> dict[str, float]:
        modes.append(watcher.training)
        return {"dice": 0.5}

    config = TrainConfig(epochs=5, batch_size=4, augment=False, validate_every=every)
    reports = train(watcher, blobs(4), config, validate=validate).reports
    assert [report.epoch for report in reports if report.validation] == epochs
    assert modes == [False] * len(epochs), "validated in eval mode"
    assert watcher.modes == [True] * 5, "trained in train mode"


def test_report_is_flat_for_logs() -> None:
    report = EpochReport(1, 2, 3, 0.5, 1e-3, 1.5, False, {"dice": 0.25})
    assert report.flat() == {
        "epoch": 1, "epochs": 2, "step": 3, "loss": 0.5, "learning_rate": 1e-3, "seconds": 1.5, "stopped_early": False,
        "val_dice": 0.25,
    }  # fmt: skip


def test_steps_are_told_with_their_loss() -> None:
    told: list[tuple[int, int]] = []
    losses: list[float] = []

    def on_step(step: int, steps: int, loss: float) -> None:
        told.append((step, steps))
        losses.append(loss)

    recorder = train(Watcher(), blobs(5), QUICK.model_copy(update={"epochs": 1}), on_step=on_step)
    assert told == [(1, 2), (2, 2)]
    assert recorder.reports[0].loss == pytest.approx(np.mean(losses))
    assert recorder.reports[0].step == 2


class Diverging(Watcher):
    """Gives NaN from its third batch on."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * (float("nan") if len(self.batches) > 2 else 1.0)


def test_divergence_names_the_step_and_its_images() -> None:
    network, data = Diverging(), blobs(4)
    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 2") as caught:
        train(network, data, TrainConfig(epochs=2, batch_size=2, augment=False))
    for index in network.seen(data)[-1]:
        assert f"blob_{index}" in str(caught.value)
    assert "learning rate" in str(caught.value)
    assert network.bias.isfinite().all(), "the step that diverged is not taken"


def test_divergence_of_a_supernet_names_the_path(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices)
    torch.nn.init.constant_(supernet.final_conv.bias, float("inf"))  # type: ignore[arg-type]
    architecture = tiny_space.fixed()[2]
    with pytest.raises(TrainingDivergedError, match="at step 0") as caught:
        train(supernet, blobs(2), QUICK, draw=lambda _: (architecture,))
    assert str(architecture) in str(caught.value)


class Exploding(Watcher):
    """Its loss is finite, its gradient is not."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) + (self.bias * 0).sqrt()


def test_gradient_that_is_not_finite_stops_before_the_step() -> None:
    network = Exploding()
    with pytest.raises(TrainingDivergedError, match=r"the gradient is not finite at step 0 \(images blob_"):
        train(network, blobs(2), TrainConfig(epochs=1, batch_size=2, augment=False))
    assert network.bias.item() == 0


def elastic_space(model: ModelConfig) -> SearchSpace:
    return SearchSpace((Block(2, 2), Block(4, 4, 0, 1), SKIP), model.depths)


def test_resumed_sandwich_equals_the_uninterrupted_one_to_the_last_bit(
    tiny_model: ModelConfig, tiny_data: SegmentationData
) -> None:
    space = elastic_space(tiny_model)
    draw = PathSampler(space, "sandwich", 0, model=tiny_model)

    def run(state: State | None = None) -> Recorder:
        torch.manual_seed(0 if state is None else 99)
        supernet = Supernet(tiny_model, 1, space.choices, "shared")
        return train(supernet, tiny_data, QUICK, draw=draw, state=state)

    whole = run()
    resumed = run(whole.states[0])
    assert differences(whole.states[-1], resumed.states[-1]) == []


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_sandwich_takes_the_mean_gradient_of_its_paths(tiny_model: ModelConfig, weight: float) -> None:
    """The largest learns from the masks, the others from what it marks and, by weight, from the masks; it does not
    learn from them. AdamW's first moment after one step is 0.1 times the gradient that it was given."""
    model = tiny_model.model_copy(update={"drop_path_rate": 0.0})
    space = elastic_space(model)
    torch.manual_seed(0)
    supernet = Supernet(model, 1, space.choices, "shared")
    twin = copy.deepcopy(supernet).train()
    data = blobs(4)
    config = TrainConfig(epochs=1, batch_size=4, augment=False)
    draw = PathSampler(space, "sandwich", 0, model=model, num_random=1)
    recorder = Recorder()
    fit(supernet, data, config, validate=dict, on_epoch=recorder, draw=draw, distillation_weight=weight)

    order = generator_for(config.seed, "order", 0).permutation(4)
    images, masks = to_input(data.images[order], data.intensity), torch.from_numpy(np.array(data.masks[order]))
    largest, *others = draw(0)
    teacher = twin(images, largest)
    losses = [segmentation_loss(teacher, masks)]
    for path in others:
        output = twin(images, path)
        soft, hard = distillation_loss(output, teacher, masks), segmentation_loss(output, masks)
        losses.append(weight * soft + (1 - weight) * hard)
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
    assert recorder.reports[0].loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    moments = recorder.states[0]["optimizer"]["adamw"]["state"]
    for place, parameter in enumerate(twin.parameters()):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found = moments[place]["exp_avg"] if place in moments else torch.zeros_like(parameter)
        torch.testing.assert_close(found, 0.1 * expected, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize(("num_samples", "batch_size", "num_processes"), [(5, 3, 2), (7, 4, 1), (3, 8, 2), (1, 4, 3)])
def test_steps_that_are_told_before_are_those_that_are_done(
    num_samples: int, batch_size: int, num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "place", lambda: (0, num_processes))
    config = TrainConfig(batch_size=batch_size)
    batches = list(trainer._batches(Segmentation(blobs(num_samples), config), 0, config))
    assert len(batches) == trainer.steps_per_epoch(num_samples, batch_size, num_processes)
    assert {len(batch) for batch in batches} == {trainer.step_size(num_samples, batch_size, num_processes)}
    assert {int(index) for batch in batches for index in batch} == set(range(num_samples))
