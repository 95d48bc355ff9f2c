"""No patient is in two folds, splits or units of a bootstrap, however the patients of a download are told."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from cluster.audit_training import SPLITS as AUDITED
from cluster.audit_training import _patients
from cluster.config import RetrainJob
from cluster.cross_validate import fold_jobs
from cluster.front import groups_of
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.prepare import SplitPlan, read_groups
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.splits import SPLITS
from slicemamba.data.synthetic import draw_lesion
from slicemamba.evaluation.compare import enter
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet

COUNT, PATIENTS = 48, 12
FRACTIONS = (0.6, 0.2, 0.0, 0.2)  # search is held out of train
CPU = torch.device("cpu")
MODEL = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,), d_state=2)


def draw_pictures(root: Path, name: Callable[[int], str]) -> Path:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index in range(COUNT):
        image, mask = draw_lesion(3, "train", index, (32, 32))
        Image.fromarray(image).save(root / "images" / f"{name(index)}.png")
        Image.fromarray(mask * np.uint8(255)).save(root / "masks" / f"{name(index)}.png")
    return root


def by_table(folder: Path) -> DataConfig:
    """Numbered frames of videos, which a table alone tells apart."""
    with (folder / "groups.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("name", "group"), *((f"{index:02d}.png", f"p{index % PATIENTS}") for index in range(COUNT))])
    plan = SplitPlan(FRACTIONS, groups=read_groups(folder / "groups.csv"))
    prepare_pictures("folder", draw_pictures(folder / "raw", lambda i: f"{i:02d}"), folder / "set", plan)
    return DataConfig(name="set", root=folder / "set")


def by_pattern(folder: Path) -> DataConfig:
    plan = SplitPlan(FRACTIONS, patient_pattern=r"^(p\d+)_")
    raw = draw_pictures(folder / "raw", lambda i: f"p{i % PATIENTS}_{i:02d}")
    prepare_pictures("folder", raw, folder / "set", plan)
    return DataConfig(name="set", root=folder / "set")


def by_cases(folder: Path) -> DataConfig:
    """nnU-Net: volumes, of which each is a patient; four slices each."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / "raw" / part).mkdir(parents=True)
    for case in range(PATIENTS):
        label = np.zeros((32, 32, 4), np.uint8)
        label[8 : 14 + case, 5:20] = 1
        image = (rng.normal(0, 20, label.shape) + 80 * label).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"raw/imagesTr/p{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"raw/labelsTr/p{case}.nii.gz")
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (folder / "raw/dataset.json").write_text(json.dumps(told))
    prepare_pictures("folder", folder / "raw", folder / "set", SplitPlan(FRACTIONS))
    return DataConfig(name="set", root=folder / "set")


WAYS = {"table": by_table, "pattern": by_pattern, "cases": by_cases}


@pytest.fixture(scope="module", params=WAYS)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp(request.param)
    made = WAYS[request.param](folder)
    return resolve_root(made.model_copy(update={"image_size": (32, 32)}))


@pytest.fixture
def cache(config: DataConfig) -> Path:
    assert config.root is not None
    return config.root.parent / "cache"


def patient_of(name: str) -> str:
    """What is known of these names, without the product's help."""
    return f"p{int(name) % PATIENTS}" if name.isdecimal() else name.partition("_")[0]


def homes(config: DataConfig, cache: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for name in load_split(config, split, cache).names:
            found[patient_of(name)].add(split)
    return found


def test_a_patient_is_in_one_split_the_held_out_search_included(config: DataConfig, cache: Path) -> None:
    found = homes(config, cache)
    assert len(found) == PATIENTS
    assert all(len(splits) == 1 for splits in found.values())
    assert set().union(*found.values()) == set(SPLITS)


def test_a_patient_is_in_one_fold_of_a_cross_validation(config: DataConfig, cache: Path, tmp_path: Path) -> None:
    job = RetrainJob(data=config, model=MODEL, architecture=str(_uniform()))
    held: dict[str, set[int]] = defaultdict(set)
    for fold, (part, _) in enumerate(fold_jobs(job, 3, RunFolder(tmp_path)), 1):
        assert all(len(splits) == 1 for splits in homes(part.data, cache).values())
        for name in load_split(part.data, "val", cache).names:
            held[patient_of(name)].add(fold)
    assert all(len(folds) == 1 for folds in held.values())
    assert set().union(*held.values()) == {1, 2, 3}


def same_units(data: SegmentationData, units: object) -> bool:
    """Whether images are together exactly where they show one patient."""
    assert isinstance(units, (list, tuple))
    pairs = {(patient_of(name), unit) for name, unit in zip(data.names, units, strict=True)}
    return len({patient for patient, _ in pairs}) == len(pairs) == len({unit for _, unit in pairs})


@pytest.mark.parametrize("split", SPLITS)
def test_bootstraps_draw_patients_in_evaluation_search_audit_and_comparison(
    config: DataConfig, cache: Path, tmp_path: Path, split: str
) -> None:
    network = SliceMambaUNet(MODEL.model_copy(update={"in_channels": config.channels}), 1, _uniform())
    save_network(tmp_path / "net", network, config)
    data = load_split(config, split, cache)
    assert same_units(data, evaluate(network.eval(), data, batch_size=8, device=CPU).patients)
    assert same_units(data, groups_of(data.names, config))  # of a frontier, of finals and of where a scan pays
    assert same_units(data, enter(tmp_path / "net", split, cache, CPU).scores.patients)
    if split in AUDITED:
        assert same_units(data, _patients(config, split, cache))


def _uniform() -> Architecture:
    return Architecture.uniform("2x2", MODEL.depths)
