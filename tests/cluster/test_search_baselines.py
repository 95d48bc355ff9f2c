"""What everyone knows, trained beside the winner; and where the scan pays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cluster import baselines, driver, results, status
from cluster.config import SearchJob, parse_job
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from cluster.scan_use import baselines_of, scan_use, trained_sentence, without_scans
from cluster.summary import print_summary
from nas.study import Trial, TrialState
from slicemamba.architecture import Architecture, parse_block
from slicemamba.config import TrainConfig
from slicemamba.errors import InputError
from slicemamba.evaluation.scores import ImageScores

CONV: dict[str, Any] = {
    "data": {"image_size": [32, 32]},
    "model": {"skeleton": "conv", "embed_dim": 4, "levels": 3, "block_levels": [1, 2], "d_state": 4},
    "space": {"choices": ["2x2", "c3", "-"], "weight_sharing": "shared"},
    "search": {"objectives": ["dice", "flops"], "num_trials": 9},
    "retrain": {"epochs": 10, "batch_size": 2, "warmup_epochs": 2, "t_max": None},
}


def job(**change: Any) -> SearchJob:
    made = parse_job(CONV | change)
    assert isinstance(made, SearchJob)
    return made


def uniform(text: str) -> str:
    return str(job().model.uniform(parse_block(text)))


def counts(quality: float, seed: int) -> np.ndarray[Any, Any]:
    """(40, 1, 4) of images whose lesions are found in this share, a little more or less."""
    rng = np.random.default_rng(seed)
    size = np.random.default_rng(0).integers(50, 150, 40)
    hit = (size * np.clip(quality + rng.normal(0, 0.02, 40), 0, 1)).astype(int)
    return np.stack([hit, size - hit, size - hit, 1024 - 2 * size + hit], axis=-1)[:, None]


def scores(quality: float, seed: int = 1) -> ImageScores:
    names = tuple(f"image{i:02d}" for i in range(40))
    return ImageScores(names, counts(quality, seed), np.full(40, 3.0), names, "lesions", "test", (32, 32))


@pytest.mark.parametrize(
    ("names", "said"), [(["unte"], "'unet'"), (["unet", "unet"], "must not name one twice"), ("unet", "a list")]
)
def test_unknown_baseline_is_refused(names: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        job(baselines=names)
    assert said in str(caught.value)


def test_a_dearer_network_trains_for_fewer_epochs_with_the_same_course() -> None:
    settings = TrainConfig(epochs=30, t_max=30, warmup_epochs=3)
    short = baselines._as_long(settings, {"winner": 1.0, "unet": 3.0}, "unet")
    assert (short.epochs, short.t_max, short.warmup_epochs) == (10, 10, 3)
    long = baselines._as_long(settings, {"winner": 1.0, "unet": 0.5}, "unet")
    assert (long.epochs, long.t_max) == (60, 60)
    least = baselines._as_long(settings.model_copy(update={"t_max": None}), {"winner": 1.0, "unet": 99.0}, "unet")
    assert (least.epochs, least.t_max, least.warmup_epochs) == (1, None, 0)


def test_steps_of_all_networks_are_timed() -> None:
    others = {"unet": {"network": "unet"}, "unscanned": {"architecture": uniform("c3")}}
    found = baselines._measure_steps(job(), uniform("-"), others)
    assert set(found) == {"winner", "unet", "unscanned"}
    assert all(0 < seconds < 60 for seconds in found.values())


def test_baselines_are_trained_once_and_anew_for_another_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trained = RunFolder(tmp_path), []

    def retrain(job: Any, architecture: None, place: RunFolder, cache: Path) -> None:
        trained.append((job.network, job.retrain.epochs))
        place.write_json("retrained/config.json", {})
        place.emit("progress", phase="retrain", done=20, total=20, unit="steps", metrics={})
        time.sleep(0.1)  # in which the status is written some times more
        place.emit("epoch", phase="retrain", epoch=1, seconds=2.0, val_dice=0.5)

    def scores_of(folder: Path, job: Any, place: RunFolder, *_: Any) -> dict[str, Any]:
        scores(0.8).save(place.scores_path("test"))
        return {"scores": {"test": {"dice": 0.8}}, "trivial": {}}

    monkeypatch.setattr(status, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(baselines, "retrain", retrain)
    monkeypatch.setattr(baselines, "run_on_worker", lambda *_: {"winner": 1.0, "unet": 2.0})
    monkeypatch.setattr(results, "scores_of", scores_of)
    monkeypatch.setattr(results, "costs_of", lambda *_: {"flops": 5e6, "params": 7, "seconds": 2.0})
    made = job(data={"image_size": [32, 32], "synthetic": {"num_train": 8}})
    for winner, so_far in (("-", 1), ("-", 1), ("c3", 2)):
        baselines.train(made, run, Architecture.parse(uniform(winner)), tmp_path / "cache")
        assert trained == [("unet", 5)] * so_far
    ended = [event for _, event in run.events() if event["event"] == "phase"]
    assert [event["phase"] for event in ended] == ["baselines"] * 3
    told = [event["done"] for _, event in run.events() if event["event"] == "progress"]
    assert told == [20, 20], "once for each training"


def test_a_winner_that_scans_is_trained_without_its_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, trained = RunFolder(tmp_path), []
    monkeypatch.setattr(baselines, "_train_one", lambda one, *_: trained.append((one.network, one.architecture)))
    monkeypatch.setattr(baselines, "run_on_worker", lambda *given: dict.fromkeys(["winner", *given[-1]], 1.0))
    both = {"baselines": ["unet", "unscanned"], "data": {"image_size": [32, 32], "synthetic": {"num_train": 8}}}
    scanning = uniform("-").replace("-", "2x2", 1)
    for made, winner in ((job(**both), scanning), (job(**both), uniform("-"))):
        baselines.train(made, run, Architecture.parse(winner), tmp_path / "cache")
    assert trained == [("unet", None), ("slicemamba", uniform("-")), ("unet", None)]
    kinds = {"2x2", "4x4", "c3"}  # where no block can be left out
    without = job(**both, space={"choices": sorted(kinds), "weight_sharing": "shared"})
    assert str(without_scans(without, Architecture.parse(uniform("2x2")))) == uniform("c3")
    published = parse_job({"baselines": ["unet", "unscanned"]})
    assert isinstance(published, SearchJob)
    fixed = published.search_space.fixed()[0]
    assert baselines_of(published, fixed) == ["unet"], "every choice scans"


def test_what_scans_bring_is_told_of_trained_networks() -> None:
    unscanned = {
        "difference": {"dice": {"value": -0.004, "low": -0.02, "high": 0.01}},
        "scores": {"test": {"dice": 0.72}}, "flops": 219e6, "seconds": 100.0,
    }  # fmt: skip
    chosen = {"scores": {"test": {"dice": 0.716}}, "flops": 248e6, "seconds": 100.0}
    sentence = results._sentence("the same network without its scans", unscanned, chosen)
    assert sentence.startswith("No measurable difference between the chosen network and the same network without its")
    told = trained_sentence({"scans": 1, "blocks": 5}, {"sentence": sentence})
    assert told.startswith("The scan is kept in 1 of 5 blocks. No measurable difference")
    better = {**unscanned, "difference": {"dice": {"value": -0.02, "low": -0.03, "high": -0.01}}}
    sentence = results._sentence("the same network without its scans", better, chosen)
    assert sentence.startswith("The same network without its scans is better than the chosen network")
    worse = {"difference": {"dice": {"value": 0.1, "low": 0.05, "high": 0.2}}, "sentence": "U-Net is worse."}
    about = {"front": {"sentence": "One network."}, "survey": None, "scan_use": {"sentence": "Better without."}}
    found = results._findings({**about, "baselines": {"unet": worse, "unscanned": better}})
    assert found == ["Better without.", "U-Net is worse.", "One network."]
    found = results._findings({**about, "baselines": {"unet": worse, "unscanned": unscanned}})
    assert found == ["U-Net is worse.", "One network.", "Better without."]
    told = {"unscanned": {**better, "sentence": "It is better."}}
    assert results._findings({**about, "scan_use": None, "baselines": told}) == ["It is better.", "One network."]


def test_progress_of_baselines_counts_those_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)

    def train_one(_: Any, place: RunFolder, __: Path, tell: Any) -> None:
        if place.path.name == "attention_unet":  # the other was trained before the driver was stopped
            step = {"done": 2, "total": 10, "unit": "steps"}
            now = "2024-01-01T00:00:00Z"
            tell(RunStatus.model_validate({"state": "RUNNING", "updated_at": now, "progress": {"retrain": step}}))

    monkeypatch.setattr(baselines, "_train_one", train_one)
    monkeypatch.setattr(baselines, "_step_seconds", lambda *_: {"winner": 1.0, "unet": 2.0, "attention_unet": 1.0})
    made = job(data={"image_size": [32, 32], "synthetic": {"num_train": 8}}, baselines=["unet", "attention_unet"])
    baselines.train(made, run, Architecture.parse(uniform("-")), tmp_path / "cache")
    assert made.retrain is not None
    told = [(event["done"], event["total"]) for _, event in run.events() if event["event"] == "progress"]
    a_epoch = -(-8 // made.retrain.batch_size)
    of_unet = made.retrain.epochs // 2 * a_epoch
    assert told == [(of_unet + 2, of_unet + made.retrain.epochs * a_epoch)]


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        (0.6, 0.8, "U-Net is better than the chosen network"),
        (0.8, 0.6, "The chosen network is better than U-Net"),
        (0.7, 0.7, "No measurable difference between the chosen network and U-Net"),
    ],
)
def test_the_better_network_is_named_first(tmp_path: Path, own: float, other: float, verdict: str) -> None:
    run = RunFolder(tmp_path)
    place = results.place_of_baseline(run, "unet")
    mine, theirs = scores(own), scores(other, seed=2)
    mine.save(run.scores_path("test"))
    theirs.save(place.scores_path("test"))
    costs = {"flops": 317e6, "params": 4_000, "seconds": 60.0}
    place.write_json("scores.json", {"scores": {"test": theirs.metrics()}, **costs})
    chosen = {"scores": {"test": mine.metrics()}, **costs}
    found = results._against("unet", chosen, run)
    assert found["sentence"].startswith(f"{verdict}: Dice on test {100 * mine.metrics()['dice']:.1f} % at 317 MFLOPs")
    assert found["difference"]["dice"]["value"] == pytest.approx(mine.metrics()["dice"] - theirs.metrics()["dice"])
    assert found["difference"]["hd95"]["value"] == 0
    # As a person sees it: the sentence before all tables, and a row for each network.
    metrics = mine.metrics() | {"flops": 317e6}
    shown = {
        "objectives": ["dice", "flops"],
        "pareto": [{"number": 1, "metrics": metrics, "architecture": uniform("-")}],
        "best": {"metrics": metrics},
        "fixed": {},
        "random": None,
        "retrained": chosen,
        "trivial": {"test": {}},
        "baselines": {"unet": found},
        "findings": [found["sentence"]],
    }
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "shown.txt").open("w"))
    print_summary(console, shown)
    text = console.export_text()
    assert text.startswith(f"• {verdict}")
    assert any("U-Net" in line and "317 M" in line for line in text.splitlines())


def test_a_baseline_that_diverged_is_said_to_have(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    scores(0.7).save(run.scores_path("test"))
    found = results._against("unet", {"scores": {"test": scores(0.7).metrics()}, "flops": 1.0, "seconds": 1.0}, run)
    assert found["difference"] is None
    assert "diverged" in found["sentence"]


def test_a_class_that_is_never_found_is_named() -> None:
    found = {"images": 5, "dice": 0.4}
    classes = {"liver": found, "spleen": {"images": 3, "dice": 0.0}, "absent": {"images": 0, "dice": 1.0}}
    (said,) = results._missed_classes({"classes": {"test": classes}})
    assert "found nothing of spleen in any test image" in said
    assert results._missed_classes({"classes": {"test": {"liver": found}}}) == []
    assert results._missed_classes({}) == []


def trials_with(run: RunFolder, study: str = "search", **qualities: float) -> list[Trial]:
    """A trial of a study for each uniform network, with counts of the search split."""
    found = []
    for number, (name, quality) in enumerate(qualities.items()):
        text = uniform({"scan": "2x2", "conv": "c3", "none": "-"}[name])
        one = scores(quality, seed=number + 3)
        metrics = {"dice": one.metrics()["dice"]}
        found.append(
            Trial(
                number=number,
                state=TrialState.COMPLETED,
                architecture=text,
                origin="fixed",
                metrics=metrics,
                asked_after=0,
            )
        )
        path = run.counts_path(study, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, counts=one.counts, names=np.array(one.names))
    return found


def test_where_the_scan_pays_is_said_with_an_interval(tmp_path: Path) -> None:
    trials = trials_with(RunFolder(tmp_path), scan=0.8, conv=0.7, none=0.6)
    found = scan_use(job(), RunFolder(tmp_path), trials[0], trials)
    assert found is not None
    assert (found["scans"], found["blocks"], found["rival"]["number"]) == (3, 3, 1)
    assert found["difference"]["low"] > 0
    assert found["flops_ratio"] > 1
    assert found["sentence"].startswith("The scan is kept in 3 of 3 blocks. Beside the best network found without any")
    assert "no measurable difference" not in found["sentence"]


def test_finals_go_before_the_search_where_they_held_both_kinds(tmp_path: Path) -> None:
    """In the search the scanning network was behind; after the first round it is ahead, and the last held it alone."""
    run = RunFolder(tmp_path)
    trials = trials_with(run, none=0.8, conv=0.8, scan=0.6)
    first = trials_with(run, "finals-1", scan=0.9, conv=0.7)
    last = trials_with(run, "finals-2", scan=0.9)
    found = scan_use(job(), run, trials[2], trials, [first, last])
    assert found is not None
    assert found["rival"] == {"number": 1, "architecture": trials[1].architecture}
    assert found["difference"]["low"] > 0
    assert found["sentence"].endswith("FLOPs (search split, after the same training in the finals).")
    alone = scan_use(job(), run, trials[2], trials, [last])
    assert alone is not None
    assert alone["difference"]["high"] < 0
    assert alone["sentence"].endswith("(search split, supernet weights).")


def test_a_winner_that_scans_nowhere_is_set_beside_the_best_that_scans(tmp_path: Path) -> None:
    trials = trials_with(RunFolder(tmp_path), scan=0.7, conv=0.7, none=0.6)
    found = scan_use(job(), RunFolder(tmp_path), trials[1], trials)
    assert found is not None
    assert (found["scans"], found["rival"]["number"]) == (0, 0)
    assert "scans in none of its 3 blocks" in found["sentence"]
    assert "no measurable difference" in found["sentence"]
    assert "times fewer FLOPs" in found["sentence"]


def test_nothing_is_said_of_a_space_in_which_all_blocks_scan(tmp_path: Path) -> None:
    trials = trials_with(RunFolder(tmp_path), scan=0.8)
    assert scan_use(job(), RunFolder(tmp_path), trials[0], trials) is None


def test_few_steps_are_warned_of_with_the_number_of_epochs_that_is_enough(tmp_path: Path) -> None:
    data = {"name": "mine", "root": str(tmp_path), "image_size": [32, 32]}
    run, made = RunFolder(tmp_path), job(recipe="scratch", supernet={"epochs": 200}, data=data)
    driver._warn_of_few_steps(made, run, 64)  # 64 images are 8 steps of batch 8 or 32 of batch 2
    said = [event["message"] for _, event in run.events()]
    assert len(said) == 1
    assert "retrain: 10 epochs of 64 images are 320 steps" in said[0]
    assert "retrain.epochs=32" in said[0]
    driver._warn_of_few_steps(job(recipe="published", data=data), run, 64)
    driver._warn_of_few_steps(job(recipe="scratch"), run, 64)  # the built-in set is learned at once
    assert len(list(run.events())) == 1
