"""Images that are not resized: windows to train on, and scores, candidates and masks of whole images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from cluster.config import SearchJob
from nas.config import SearchConfig
from nas.evaluator import Evaluator
from nas.space import SearchSpace
from slicemamba.config import DataConfig, Intensity, ModelConfig, TrainConfig, validate
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.reading import IGNORED
from slicemamba.data.transforms import input_of
from slicemamba.data.windows import cut, join, places, random_place, slide
from slicemamba.errors import InputError
from slicemamba.evaluation.evaluate import evaluate, trivial_baselines
from slicemamba.evaluation.figures import panels
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.predict import Outputs, predict_files
from slicemamba.models.supernet import Supernet
from slicemamba.training.learning import LearningWatch
from slicemamba.training.task import segmentation
from slicemamba.training.trainer import EpochReport, fit
from slicemamba.training.validation import shared_scores

CPU = torch.device("cpu")
WINDOW = (32, 48)
SIZES = [(90, 41), (33, 200), (100, 130), (20, 300)]
SIDES = st.integers(1, 200)


class Bright(nn.Module):
    """Marks what is bright. Its logits are small towards the edges of what it sees, as those of real networks."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-127.5))

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True) + self.bias


def write_set(root: Path, sizes: list[tuple[int, int]] = SIZES) -> DataConfig:
    """A bright spot of 5×7 pixels in dark noise, elsewhere in each image."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "search", "test"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            mask = np.zeros((height, width), np.uint8)
            top, left = int(rng.integers(height - 5)), int(rng.integers(width - 7))
            mask[top : top + 5, left : left + 7] = 255
            image = np.where(mask > 0, 250, rng.integers(0, 20, mask.shape)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{split}{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}{number}.png")
    return resolve_root(DataConfig(name="set", root=root, image_size=WINDOW, fit="patch"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_set(tmp_path_factory.mktemp("patches") / "set")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def test_split(config: DataConfig, cache: Path) -> SegmentationData:
    return load_split(config, "test", cache)


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, window=st.tuples(st.integers(1, 60), st.integers(1, 60)), overlap=st.floats(0, 0.9))
def test_windows_cover_an_image_and_are_joined_to_it(
    height: int, width: int, window: tuple[int, int], overlap: float
) -> None:
    size = (max(height, window[0]), max(width, window[1]))
    found = places(size, window, overlap)
    assert len(found) == len(set(found))
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(join(cut(image, found, window), found, size), image)
    torch.testing.assert_close(slide(lambda part: 2 * part, image, window, 3, overlap), 2 * image)


def test_neighbouring_windows_fade_into_each_other() -> None:
    """Each window marks its own left half with 1: the mean leans on the window whose centre is nearer."""

    def halves(part: Tensor) -> Tensor:
        out = torch.zeros_like(part)
        out[..., :16] = 1
        return out

    whole = slide(halves, torch.zeros(1, 32, 48), (32, 32), 4, overlap=0.5)[0]
    assert places((32, 48), (32, 32), 0.5) == [(0, 0), (0, 16)]
    assert (whole[:, :16] == 1).all()
    assert (whole[:, 16:32].diff(dim=1) >= 0).all() or (whole[:, 16:32].diff(dim=1) <= 0).all()
    assert (whole[:, 32:] == 0).all()


def test_images_keep_their_size_and_nothing_around_them_is_seen(test_split: SegmentationData) -> None:
    own = [test_split.size(index) for index in range(len(test_split))]
    assert own == [(90, 48), (33, 200), (100, 130), (32, 300)]  # no smaller than a window
    assert test_split.masks.shape == (4, 100, 300)
    assert test_split.input_size == WINDOW
    for index, (height, width) in enumerate(SIZES):
        assert (test_split.masks[index] == IGNORED).sum() == 100 * 300 - height * width
        assert (test_split.masks[index] == 1).sum() == 35
        assert tuple(input_of(test_split, index).shape) == (3, *own[index])
        assert test_split.picture(index).shape == (*own[index], 3)


def test_cache_that_was_cut_short_is_built_anew(tmp_path: Path) -> None:
    config = write_set(tmp_path / "set", [(40, 60)])
    before = load_split(config, "test", tmp_path / "cache").images.copy()
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "sizes.npy").write_bytes(b"")
    np.testing.assert_array_equal(load_split(config, "test", tmp_path / "cache").images, before)


@pytest.mark.parametrize("intensity", ["minmax", "zscore", "unit"])
def test_windows_are_scaled_as_their_image(config: DataConfig, cache: Path, intensity: Intensity) -> None:
    data = load_split(config.model_copy(update={"intensity": intensity}), "train", cache)
    task = segmentation(data, TrainConfig(augment=False))
    for step in range(20):
        images, masks = task.load(np.array([0, len(task) // 2]), step, 0, CPU)
        assert images.shape == (2, 3, *WINDOW)
        assert masks.shape == (2, *WINDOW)
        for image, name in zip(images, (task.name(0), task.name(len(task) // 2)), strict=True):
            whole = input_of(data, data.names.index(name))
            windows = whole.unfold(1, WINDOW[0], 1).unfold(2, WINDOW[1], 1)  # (C, rows, columns, H, W)
            near = (windows[0, ..., 0, 0] - image[0, 0, 0]).abs() < 1e-4
            assert any(torch.allclose(windows[:, row, column], image, atol=1e-4) for row, column in near.nonzero())


def test_a_third_of_a_batch_shows_something_marked(config: DataConfig, cache: Path) -> None:
    data = load_split(config, "train", cache)
    task = segmentation(data, TrainConfig(augment=False))
    assert len(task) == 3 * 1 + 2 * 5 + 4 * 3 + 1 * 7  # windows that the images have room for
    shown = []
    for step in range(40):
        batch = np.random.default_rng(step).integers(0, len(task), 6)
        masks = task.load(batch, step, 0, CPU)[1]
        assert ((masks[-2:] == 1).sum(dim=(1, 2)) > 0).all()
        shown.append((masks[:-2] == 1).any(dim=(1, 2)).float().mean())
    assert np.mean(shown) < 0.7


def test_a_step_draws_the_same_windows_again_and_each_process_its_own(config: DataConfig, cache: Path) -> None:
    task = segmentation(load_split(config, "train", cache), TrainConfig())
    batch = np.arange(6)
    one, again = (task.load(batch, 3, 0, CPU) for _ in range(2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    for step, rank in ((4, 0), (3, 1)):
        assert not torch.equal(one[0], task.load(batch, step, rank, CPU)[0])


def test_every_class_is_drawn_however_small() -> None:
    mask = np.full((64, 64), IGNORED, np.uint8)
    mask[:60] = 0
    mask[:30, :30] = 1
    mask[50, 50] = 2
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        top, left = random_place(mask, (16, 16), rng, marked=True)
        window = mask[top : top + 16, left : left + 16]
        assert window.shape == (16, 16)
        assert set(np.unique(window)) & {1, 2}
        hits += bool((window == 2).any())
    assert 15 < hits < 45
    empty = np.zeros((20, 20), np.uint8)
    assert {random_place(empty, (16, 20), rng, marked=True) for _ in range(50)} == {(row, 0) for row in range(5)}


def test_scores_are_of_whole_images_at_their_own_size(test_split: SegmentationData) -> None:
    scored = evaluate(Bright(), test_split, batch_size=3, device=CPU)
    assert scored.metrics["dice"] == 1
    assert scored.metrics["hd95"] == 0
    assert scored.counts.sum(axis=2)[:, 0].tolist() == [height * width for height, width in SIZES]
    assert scored.counts[:, 0, 0].tolist() == [35] * 4
    with torch.inference_mode():
        pooled = shared_scores(Bright(), test_split, batch_size=5, device=CPU)
    assert pooled == {"dice": 1, "miou": 1}
    assert trivial_baselines(test_split)["all background"]["dice"] == 0
    for index in range(4):
        assert {panel.shape[2] for panel in panels(test_split, scored, index)} == {3}


def test_where_images_are_as_large_as_the_window_nothing_differs(tmp_path: Path) -> None:
    config = write_set(tmp_path / "set", [WINDOW, WINDOW])
    whole = load_split(config.model_copy(update={"fit": "stretch"}), "test", tmp_path / "cache")
    windows = load_split(config, "test", tmp_path / "cache")
    np.testing.assert_array_equal(whole.images, windows.images)
    one, other = (evaluate(Bright(), data, batch_size=2, device=CPU) for data in (whole, windows))
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.metrics == other.metrics


@pytest.mark.parametrize(
    ("objectives", "racing"), [(["dice", "hd95", "flops", "latency_ms"], None), (["dice"], {"min_images": 5})]
)
def test_candidates_are_scored_on_whole_images_as_their_networks_are(
    config: DataConfig,
    cache: Path,
    tiny_model: ModelConfig,
    tiny_space: SearchSpace,
    objectives: list[str],
    racing: dict[str, int] | None,
) -> None:
    """Blocks that candidates share are computed once, for all windows of an image."""
    data = load_split(config, "search", cache)
    supernet = Supernet(tiny_model, 1, tiny_space.choices, "shared").eval()
    options = SearchConfig.model_validate({"objectives": objectives, "batch_size": 2, "racing": racing})
    measure = Evaluator(supernet, data, options)
    for genes in ([0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 1, 1]):
        architecture = tiny_space.decode(genes)
        with torch.inference_mode():
            expected = evaluate(lambda images, a=architecture: supernet(images, a), data, batch_size=4, device=CPU)
        scored = measure.score(architecture)
        np.testing.assert_array_equal(scored.counts, expected.counts)
        assert scored.metrics["dice"] == expected.metrics["dice"]
        assert scored.metrics.get("hd95", expected.metrics["hd95"]) == pytest.approx(expected.metrics["hd95"])
        assert scored.names == data.names
    assert scored.work["blocks_reused"] > 0
    assert scored.metrics["flops"] == Evaluator(supernet, data.take(slice(1)), options)(architecture)["flops"]


def test_training_learns_from_windows_and_tells_when_it_does_not(config: DataConfig, cache: Path) -> None:
    train, val = (load_split(config, split, cache) for split in ("train", "val"))
    network = nn.Sequential(nn.Conv2d(3, 1, 1))
    settings = TrainConfig(epochs=8, batch_size=8, learning_rate=0.05)
    reports: list[EpochReport] = []

    def validate_it() -> dict[str, float]:
        return shared_scores(network, val, batch_size=8, device=CPU)

    fit(network, train, settings, validate=validate_it, on_epoch=lambda report, _: reports.append(report))
    assert reports[-1].step == 8 * 4  # of 32 windows
    assert reports[-1].loss < reports[0].loss
    watch = LearningWatch(train, val, ModelConfig(), settings, pretrained=False)
    doubt = watch.look(EpochReport(8, 8, 32, 1.0, 1.0, 1.0, validation={"dice": 0.0}))
    assert doubt is not None
    assert "all background" in doubt


@pytest.mark.parametrize("mode", ["resize", "window"])
def test_masks_lie_on_the_grid_of_their_image_whatever_is_asked_for(
    config: DataConfig, tmp_path: Path, mode: str
) -> None:
    segmenter = Segmenter(Bright(), config, CPU, InferenceOptions(mode, batch_size=3))  # type: ignore[arg-type]
    assert config.root is not None
    files = sorted((config.root / "test/images").iterdir())
    with torch.inference_mode():
        done = predict_files(segmenter, files, Outputs(tmp_path / "out", probabilities=True))
    assert not done.failed
    for path in done.masks:
        truth = np.asarray(Image.open(config.root / "test/masks" / path.name))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), truth)


def test_volumes_lie_on_their_grid(tmp_path: Path) -> None:
    values = np.zeros((3, 70, 25), np.int16)  # (Z, Y, X)
    values[:, 20:24, 5:9] = 900
    nib.save(nib.Nifti1Image(values.T, np.diag([0.5, 0.5, 3, 1])), tmp_path / "v.nii.gz")
    data = DataConfig(name="x", image_size=WINDOW, fit="patch", channels=1)
    with torch.inference_mode():
        done = predict_files(Segmenter(Bright(), data, CPU), [tmp_path / "v.nii.gz"], Outputs(tmp_path / "out"))
    np.testing.assert_array_equal(np.asarray(nib.load(done.masks[0]).dataobj).T > 0, values > 0)


def test_check_takes_such_a_set_and_finds_copies_of_any_size(tmp_path: Path) -> None:
    config = write_set(tmp_path / "set")
    check_dataset(config, cache_dir=tmp_path / "cache")
    for part in ("images", "masks"):
        source = tmp_path / "set/train" / part / "train2.png"
        (tmp_path / "set/test" / part / "copy.png").write_bytes(source.read_bytes())
    with pytest.raises(InputError, match="image that is in two splits"):
        check_dataset(config, cache_dir=tmp_path / "cache")


def test_search_refuses_mirrored_images_with_windows() -> None:
    job = {"data": {"fit": "patch"}, "search": {"flips": ["horizontal"]}}
    with pytest.raises(InputError, match="flips"):
        validate(SearchJob, job, source="job")
