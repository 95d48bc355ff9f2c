"""Networks beside each other: the table's figures are the metrics', the first is the reference, nothing is mixed."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig, SyntheticConfig
from slicemamba.data.base import load_split
from slicemamba.errors import InputError
from slicemamba.evaluation.compare import (
    METRICS,
    Entrant,
    comparison_tables,
    differences,
    enter,
    enter_trainings,
    to_csv,
    write_tables,
)
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.published import published_scores
from slicemamba.evaluation.scores import ImageScores
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.checkpoints import find_network, load_network, save_network
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.ensemble import Ensemble, SegmentationNetwork
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet

CPU = torch.device("cpu")
DATA = DataConfig(image_size=(32, 32), synthetic=SyntheticConfig(num_train=2, num_val=2, num_search=2, num_test=6))
MODEL = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=2)


def networks() -> dict[str, SegmentationNetwork]:
    fixed = SliceMambaUNet(MODEL, 1, Architecture.uniform((2, 4), MODEL.depths))
    vm = SliceMambaUNet(MODEL, 1, Architecture.uniform((1, 1), MODEL.depths))
    return {
        "fixed": fixed,
        "vm": vm,
        "mixed": SliceMambaUNet(MODEL, 1, Architecture.parse("s1:1x1|s2:2x2|s3:2x2|s4:2x2")),
        "unet": ConvUNet("unet", MODEL, 1),
        "attention": ConvUNet("attention_unet", MODEL, 1),
        "folds": Ensemble([fixed, vm]),
    }


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Run folders, each with a network of random weights in it."""
    paths = {name: tmp_path / "runs" / name for name in networks()}
    for name, network in networks().items():
        save_network(paths[name] / ("ensemble" if name == "folds" else "retrained"), network.eval(), DATA)
    return paths


def entrants(runs: dict[str, Path], tmp_path: Path, *names: str) -> list[Entrant]:
    return [enter(runs[name], "test", tmp_path / "cache", CPU) for name in names or runs]


def test_titles_costs_and_scores_of_every_kind(runs: dict[str, Path], tmp_path: Path) -> None:
    found = entrants(runs, tmp_path)
    assert [entrant.name for entrant in found] == list(runs)
    assert [entrant.title for entrant in found] == [
        "SliceMamba, fixed 2x4",
        "VM-UNet",
        "SliceMamba",
        "U-Net",
        "Attention U-Net",
        "Ensemble of 2 (SliceMamba, fixed 2x4, VM-UNet)",
    ]
    data = load_split(DATA, "test", tmp_path / "cache")
    for entrant in found:
        network = load_network(find_network(runs[entrant.name]))
        assert not isinstance(network, Supernet)
        scored = evaluate(network, data, batch_size=16, device=CPU)
        assert entrant.scores.metrics() == scored.metrics
        assert entrant.parameters == num_parameters(network)
        assert entrant.flops == count_flops(network, (32, 32))
    assert found[0].flops == found[1].flops, "slicing costs nothing"
    assert found[5].flops == 2 * found[0].flops
    assert found[5].parameters == 2 * found[0].parameters


def test_markdown_holds_each_score_with_its_interval(runs: dict[str, Path], tmp_path: Path) -> None:
    found = entrants(runs, tmp_path, "fixed", "unet")
    scores, paired = comparison_tables(found)
    assert scores.title == "synthetic / test, 6 images of 32×32"
    lines = scores.to_markdown().splitlines()
    metrics, intervals = found[1].scores.metrics(), found[1].scores.intervals()
    low, high = intervals["dice"]
    assert f"{100 * metrics['dice']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in lines[5]
    assert f"{metrics['hd95']:.2f} [" in lines[5]
    assert {line.count("|") for line in lines[2:6]} == {len(scores.header) + 1}
    assert "published" not in scores.to_markdown(), "none for the synthetic set"
    assert paired.rows[0][:2] == ("unet", "U-Net")
    [found_differences] = differences(found)
    expected = metrics["dice"] - found[0].scores.metrics()["dice"]
    assert found_differences["dice"].difference == pytest.approx(expected)
    assert f"{100 * expected:+.2f} [" in paired.rows[0][3]


def test_network_is_a_tie_with_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    _, paired = comparison_tables(entrants(runs, tmp_path, "vm", "vm"))
    assert paired.rows[0][2] == "+0.00 [+0.00, +0.00] tie"
    assert len(comparison_tables(entrants(runs, tmp_path, "vm"))) == 1


def test_csv_has_the_same_figures_in_full(runs: dict[str, Path], tmp_path: Path) -> None:
    found = entrants(runs, tmp_path, "fixed", "vm")
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["network"] for row in rows] == ["SliceMamba, fixed 2x4", "VM-UNet"]
    for row, entrant in zip(rows, found, strict=True):
        for metric in METRICS:
            assert float(row[metric]) == entrant.scores.metrics()[metric]
            assert float(row[f"{metric}_high"]) == entrant.scores.intervals()[metric].high
        assert int(row["parameters"]) == entrant.parameters
    [paired] = differences(found)
    assert rows[0]["difference_dice"] == ""
    assert float(rows[1]["difference_dice_share_better"]) == paired["dice"].share_better
    assert float(rows[1]["difference_hd95_low"]) == paired["hd95"].interval.low


@pytest.mark.parametrize("out", ["tables/all", "tables/all.md", "tables/all.csv"])
def test_both_files_are_written(runs: dict[str, Path], tmp_path: Path, out: str) -> None:
    found = entrants(runs, tmp_path, "fixed", "vm")
    files = write_tables(found, tmp_path / out)
    assert [file.name for file in files] == ["all.md", "all.csv"]
    assert files[0].read_text(encoding="utf-8").count("| --- | --- |") == 2
    assert files[1].read_text(encoding="utf-8") == to_csv(found)


def test_published_figures_stand_beside_marked_as_such(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = find_network(runs["fixed"])
    scores = enter(runs["fixed"], "test", tmp_path / "cache", CPU).scores
    ImageScores(scores.names, scores.counts, scores.hd95, scores.patients, "kvasir", "test", scores.image_size).save(
        folder.parent / "scores" / "test.npz"
    )
    found = entrants(runs, tmp_path, "fixed")
    [table] = comparison_tables(found)
    assert (
        table.rows[1]
        == ("published, full data set", "VM-UNet", "78.66", "88.05", "96.61", "98.96", "83.27") + ("–",) * 3
    )
    assert table.rows[2][1:4] == ("SliceMamba", "87.37", "93.26")
    assert "arXiv 2407.08481" in table.note
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert rows[2]["source"].startswith("published, full data set: Fan et al.")
    assert float(rows[2]["sensitivity"]) == 0.9180


@pytest.mark.parametrize(
    ("name", "count"), [("Kvasir-SEG", 2), ("ISIC_2017", 2), ("isic17", 2), ("isic", 0), ("mine", 0)]
)
def test_published_figures_are_found_by_the_set_s_name(name: str, count: int) -> None:
    assert len(published_scores(name)) == count


def test_saved_scores_are_used_until_the_weights_change(runs: dict[str, Path], tmp_path: Path) -> None:
    folder, saved = find_network(runs["fixed"]), runs["fixed"] / "scores" / "test.npz"
    enter(runs["vm"], "test", tmp_path / "cache", CPU).scores.save(saved)
    others = entrants(runs, tmp_path, "fixed", "vm")
    assert others[0].scores.metrics() == others[1].scores.metrics()
    later = saved.stat().st_mtime + 10
    os.utime(folder / "weights.safetensors", (later, later))
    fresh = entrants(runs, tmp_path, "fixed")[0]
    assert fresh.scores.metrics() != others[0].scores.metrics()


def test_what_cannot_be_compared_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no trained network"):
        enter(tmp_path, "test", tmp_path / "cache", CPU)
    larger = DATA.model_copy(update={"image_size": (64, 64)})
    save_network(runs["vm"] / "retrained", networks()["vm"], larger)
    with pytest.raises(InputError, match="fixed and vm were not scored on the same images"):
        comparison_tables(entrants(runs, tmp_path, "fixed", "vm"))
    save_network(runs["vm"] / "retrained", Supernet(MODEL, 1, [(2, 2)]), DATA)
    with pytest.raises(InputError, match="a supernet has no one score"):
        enter(runs["vm"], "test", tmp_path / "cache", CPU)


def test_scores_of_another_contract_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    scores = enter(runs["fixed"], "test", tmp_path / "cache", CPU).scores
    ImageScores(
        scores.names, scores.counts, scores.hd95, scores.patients, scores.data, "test", scores.image_size, 0
    ).save(runs["fixed"] / "scores" / "test.npz")
    with pytest.raises(InputError, match="scores of fixed are not of metrics contract 2"):
        comparison_tables(entrants(runs, tmp_path, "fixed"))


def test_each_class_has_a_score_under_its_name() -> None:
    """The second network never finds the liver."""
    tables = []
    for liver in (90, 0):
        counts = np.array([[[800, 10, 10, 180], [90, 10, 10, 890], [liver, 0, 100 - liver, 900]]])
        scores = ImageScores(("a",), counts, np.zeros(1), ("a",), "ct", "test", (32, 32))
        tables += comparison_tables([Entrant("run", "SliceMamba", scores, 1, 1, ("none", "aorta", "liver"))])
    classes = [table for table in tables if table.title.startswith("Dice % of each class")]
    assert [table.header for table in classes] == [("run", "network", "aorta", "liver")] * 2
    assert [table.rows[0][2:] for table in classes] == [("90.00", "94.74"), ("90.00", "0.00")]


def shaken(runs: dict[str, Path], tmp_path: Path, name: str, count: int) -> list[Path]:
    """Networks of one kind whose random weights are of other seeds."""
    paths = []
    for seed in range(count):
        torch.manual_seed(seed)
        paths.append(tmp_path / "runs" / f"{name}-{seed}")
        save_network(paths[-1] / "retrained", networks()[name].eval(), DATA)
    return paths


def test_several_trainings_are_one_entrant_with_their_mean(runs: dict[str, Path], tmp_path: Path) -> None:
    paths = shaken(runs, tmp_path, "fixed", 3)
    one = enter_trainings(paths, "test", tmp_path / "cache", CPU)
    alone = [enter(path, "test", tmp_path / "cache", CPU).scores for path in paths]
    assert one.name == "fixed-0 and 2 more"
    value, low, high = one.estimates()["dice"]
    assert value == pytest.approx(np.mean([scores.metrics()["dice"] for scores in alone]))
    assert low <= value <= high
    assert enter_trainings(paths[:1], "test", tmp_path / "cache", CPU).estimates()["dice"][1:] == pytest.approx(
        alone[0].intervals()["dice"]
    )


def test_what_the_interval_covers_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    groups = [shaken(runs, tmp_path, name, 2) for name in ("fixed", "unet")]
    several = [enter_trainings(paths, "test", tmp_path / "cache", CPU) for paths in groups]
    assert "another sample of images and other seeds, from 2 trainings or more" in comparison_tables(several)[-1].note
    alone = [enter_trainings(paths[:1], "test", tmp_path / "cache", CPU) for paths in groups]
    assert (
        "for these trained networks: another seed of training may differ by more" in comparison_tables(alone)[-1].note
    )
    [wide], [narrow] = differences(several), differences(alone)
    expected = [np.mean([scores.metrics()["hd95"] for scores in (one.scores, *one.more)]) for one in several]
    assert wide["hd95"].difference == pytest.approx(expected[1] - expected[0])
    assert wide["dice"].difference != narrow["dice"].difference


def test_trainings_of_one_network_must_be_of_one_network(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fixed and unet must be trainings of one network"):
        enter_trainings([runs["fixed"], runs["unet"]], "test", tmp_path / "cache", CPU)
    with pytest.raises(InputError, match="must not name a folder twice"):
        enter_trainings([runs["fixed"], runs["fixed"]], "test", tmp_path / "cache", CPU)
