"""Job specifications: each kind parses, survives JSON, and says which field is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config import (
    PretrainJob,
    ResourcesConfig,
    RetrainJob,
    SearchJob,
    SupernetJob,
    check_document,
    config_hash,
    differing_fields,
    load_job,
    parse_job,
    refuse_mixing,
)
from cluster.initial import check_init, init_source, resolve_init
from cluster.run_folder import RunFolder
from nas.config import SearchConfig
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig, PretrainConfig, TrainConfig
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet

TINY = {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]}
ARCHITECTURE = "s1:2x2|s2:2x4|s3:4x2|s4:3x5"
JOBS: list[dict[str, Any]] = [
    {"kind": "supernet", "model": TINY, "space": {"choices": ["2x2", "3x5"], "weight_sharing": "shared"}},
    {"kind": "search", "search": {"objectives": ["dice", "hd95"]}, "retrain": None, "labels": {"team": "derma"}},
    {
        "kind": "retrain",
        "model": TINY,
        "architecture": ARCHITECTURE,
        "data": {"name": "kvasir", "root": "/data/kvasir"},
    },
    {"kind": "retrain", "model": TINY, "network": "unet", "data": {"folds": 5, "fold": 2}},
    {"kind": "pretrain", "model": TINY, "architecture": ARCHITECTURE, "data": {"root": "/data/pictures"}},
]


def test_kind_chooses_the_schema() -> None:
    assert [type(parse_job(job)) for job in JOBS] == [SupernetJob, SearchJob, RetrainJob, RetrainJob, PretrainJob]
    assert isinstance(parse_job({}), SearchJob)


def test_defaults_are_the_published_run() -> None:
    job = parse_job({})
    assert isinstance(job, SearchJob)
    assert job.model == ModelConfig()
    assert job.search == SearchConfig()
    assert job.retrain == TrainConfig()
    assert job.resources == ResourcesConfig()
    assert job.search_space.size == 4**22
    assert job.resources.search.num_workers is None


@pytest.mark.parametrize("values", JOBS, ids=lambda values: values["kind"])
def test_job_survives_json(values: dict[str, Any]) -> None:
    job = parse_job(values)
    assert type(job).model_validate_json(job.model_dump_json()) == job
    assert parse_job(job.model_dump(mode="json")) == job


@pytest.mark.parametrize("values", JOBS, ids=lambda values: values["kind"])
def test_file_gives_the_job_with_overrides(tmp_path: Path, values: dict[str, Any]) -> None:
    job = parse_job(values)
    file = tmp_path / "job.yaml"
    file.write_text(job.model_dump_json(), encoding="utf-8")  # JSON is YAML too
    assert load_job(file) == job
    changed = load_job(file, ["data.intensity=zscore"], name="another")
    assert changed.name == "another"
    assert changed.data == job.data.model_copy(update={"intensity": "zscore"})


@pytest.mark.parametrize(
    ("values", "pointer", "said"),
    [
        ({"kind": "train"}, "/kind", "kind must be one of supernet, search, retrain, pretrain; got 'train'"),
        ({"kind": "serach"}, "/kind", "got 'serach'; did you mean 'search'?"),
        ({"kind": None}, "/kind", "got None"),
        ({"epochs": 3}, "/epochs", "did you mean 'supernet.epochs' or 'retrain.epochs'"),
        ({"search": {"objectives": "dice"}}, "/search/objectives", "must be a list in brackets, such as [dice]"),
        ({"search": {"objectives": ["dise"]}}, "/search/objectives/0", "got 'dise'; did you mean 'dice'?"),
        ({"search": {"constraints": {"dise": {"min": 1}}}}, "/search/constraints/dise", "did you mean 'dice'?"),
        (
            {"search": {"constraints": {"dice": 3}}},
            "/search/constraints/dice",
            "must be a mapping of options, such as {name: value}; got 3",
        ),
        ({"init": 3}, "/init", "must be 'supernet'; got 3"),
        ({"model": "conv"}, "/model", "must be a mapping of options, such as {name: value}; got 'conv'"),
        ({"data": {"root": 3}}, "/data/root", "must be a path; got 3"),
        ({"data": {"label_map": {"a": 1}}}, "/data/label_map/a", "must be a valid integer"),
        ({"kind": ["search"]}, "/kind", "got ['search']"),
        ({"nmae": "x"}, "/nmae", "unknown field; did you mean 'name'?"),
        ({"supernet": {"epoch": 3}}, "/supernet/epoch", "unknown field; did you mean 'epochs'?"),
        ({"search": {"constraints": {"dice": {"minn": 0.5}}}}, "/search/constraints/dice/minn", "mean 'min'?"),
        ({"resources": {"train": {"num_worker": 2}}}, "/resources/train/num_worker", "mean 'num_workers'?"),
        ({"name": ""}, "/name", "at least 1 character"),
        ({"name": "a\x1b[2J"}, "/name", "must not contain line breaks, tabs or other control characters"),
        ({"labels": {"a": "b\n"}}, "/labels/a", "must not contain line breaks, tabs or other control characters"),
        ({"search": {"seed": "x"}}, "/search/seed", "got 'x'"),
        ({"space": {"choices": ["2x2", "2x0"]}}, "/space/choices/1", "slice size must look like '2x4'"),
        ({"search": {"objectives": ["dice", "speed"]}}, "/search/objectives/1", "got 'speed'"),
        ({"resources": {"search": {"cpus": 0}}}, "/resources/search/cpus", "got 0"),
        ({"resources": {"train": {"gpus": -0.5}}}, "/resources/train/gpus", "got -0.5"),
        ({"kind": "supernet", "search": {}}, "/search", "unknown field"),
        ({"kind": "retrain", "model": TINY}, "", "network slicemamba needs an architecture"),
        ({"kind": "retrain", "architecture": "s1:2x"}, "", "slice size must look like '2x4'"),
        (
            {"kind": "retrain", "architecture": ARCHITECTURE},
            "",
            "depths (1, 1, 1, 1), model has (2, 2, 9, 2, 2, 2, 2, 1)",
        ),
        ({"supernet": {"batch_size": 7}, "resources": {"train": {"num_workers": 2}}}, "", "supernet.batch_size (7)"),
        ({"retrain": {"batch_size": 9}, "resources": {"train": {"num_workers": 2}}}, "", "retrain.batch_size (9)"),
        (
            {"retrain": {"batch_size": 8, "accumulate_steps": 4}, "resources": {"train": {"num_workers": 4}}},
            "",
            "resources.train.num_workers × accumulate_steps (4 × 4)",
        ),
        ({"retrain": {"batch_size": 8, "accumulate_steps": 3}}, "/retrain", "must be a multiple of accumulate_steps"),
        ({"supernet": {"precision": "fp16"}}, "", "supernet.precision fp16 needs a GPU"),
        ({"kind": "pretrain", "architecture": "s1:2x2|s2:2x2"}, "", "depths (1, 1), model has (2, 2, 9"),
        ({"kind": "pretrain", "model": TINY}, "/architecture", "required"),
        ({**JOBS[-1], "space": {}}, "/space", "unknown field"),
        ({"retrain": {"ema_decay": 1.0}}, "/retrain/ema_decay", "less than 1"),
    ],
)
def test_wrong_field_is_pointed_at(values: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_job(values)
    assert caught.value.pointer == pointer
    assert said in str(caught.value)


def test_a_recipe_fills_what_is_left_out() -> None:
    job = parse_job({"recipe": "scratch", "supernet": {"epochs": 7, "learning_rate": 1e-4}, "model": {"expand": 1}})
    assert isinstance(job, SearchJob)
    assert job.retrain is not None
    assert (job.supernet.epochs, job.supernet.learning_rate, job.supernet.clip_grad_norm) == (7, 1e-4, 1.0)
    assert (job.retrain.epochs, job.retrain.batch_size, job.retrain.t_max) == (100, 8, None)
    assert (job.model.drop_path_rate, job.model.expand, job.model.linear_init) == (0.0, 1, "width")
    assert parse_job(job.model_dump(mode="json")) == job
    plain = parse_job({})
    assert isinstance(plain, SearchJob)
    assert (plain.recipe, plain.supernet.epochs, plain.model.drop_path_rate) == ("published", 300, 0.2)
    none = parse_job({"recipe": "scratch", "retrain": None})
    assert isinstance(none, SearchJob)
    assert none.retrain is None
    with pytest.raises(InputError, match="recipe"):
        parse_job({"recipe": "scrtach"})


@pytest.mark.parametrize(
    ("values", "pointer", "said"),
    [
        ({"kind": "serach"}, "/kind", "did you mean 'search'?"),
        ({"search": {"num_trial": 3}}, "/search/num_trial", "did you mean 'num_trials'?"),
        ({"retrain": {"epochs": "many"}}, "/retrain/epochs", "got 'many'"),
        ({"serach": {}}, "/serach", "did you mean 'search'?"),
        ({"kind": "search", "architecture": "s1:2x2"}, "/architecture", "unknown field"),
    ],
)
def test_parts_that_a_command_leaves_aside_are_checked_too(values: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_document(values, "job.yaml", used=("data",))
    assert caught.value.pointer == pointer
    assert said in str(caught.value)
    assert "job.yaml" in str(caught.value)


def test_parts_left_aside_are_named() -> None:
    values = {"kind": "search", "data": {"nonsense": 1}, "search": {}, "retrain": None, "init": "supernet"}
    assert check_document(values, "job.yaml", used=("data", "retrain")) == ["search", "init"]
    assert check_document({"architecture": "s1:2x2", "supernet": {}}, "job.yaml") == ["architecture", "supernet"]


def test_budget_may_not_exceed_the_space() -> None:
    values = {"model": TINY, "space": {"choices": ["2x2", "2x4"]}}
    assert parse_job({**values, "search": {"num_trials": 16}})
    with pytest.raises(InputError, match=r"search\.num_trials \(17\) exceeds the 16 architectures of the space"):
        parse_job({**values, "search": {"num_trials": 17}})


def test_pretraining_in_the_configs_folder_is_a_job_of_the_published_widths() -> None:
    job = load_job(Path(__file__).resolve().parents[2] / "configs" / "pretrain.yaml")
    assert isinstance(job, PretrainJob)
    assert job.pretrain.model_copy(update={"precision": "float32", "decode_threads": 4}) == PretrainConfig()
    assert job.slicing.depths == ModelConfig().depths


def test_winner_may_start_from_the_supernet_or_a_path(tmp_path: Path) -> None:
    search = parse_job({"init": "supernet"})
    assert isinstance(search, SearchJob)
    assert search.init == "supernet"
    assert not isinstance(search.init, Path)
    for values in ({}, {"kind": "retrain", "model": TINY, "architecture": ARCHITECTURE}):
        job = parse_job({**values, "init": str(tmp_path)})
        assert isinstance(job, (SearchJob, RetrainJob))
        assert job.init == tmp_path
        assert parse_job(job.model_dump(mode="json")) == job
        assert type(job).model_validate_json(job.model_dump_json()) == job
    with pytest.raises(InputError, match="init is what the retraining starts from, and retrain is null"):
        parse_job({"init": "supernet", "retrain": None})


def test_weights_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    model = ModelConfig.model_validate(TINY | {"embed_dim": 16})
    architecture = Architecture.parse(ARCHITECTURE)
    save_network(tmp_path, SliceMambaUNet(model, 1, architecture))
    retrain = {"kind": "retrain", "model": TINY, "architecture": ARCHITECTURE}
    for values in (retrain, {"model": TINY, "search": {"num_trials": 2}}):
        with pytest.raises(InputError, match="does not fit the network"):
            check_init(parse_job({**values, "init": str(tmp_path)}))
        with pytest.raises(InputError, match="does not exist"):
            check_init(parse_job({**values, "init": str(tmp_path / "none")}))
        check_init(parse_job({**values, "init": str(tmp_path), "model": {**TINY, "embed_dim": 16}}))
        check_init(parse_job(values))


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    job = resolve_init(parse_job({"init": "weights.pth"}))
    assert isinstance(job, SearchJob)
    assert init_source(job, RunFolder(tmp_path / "run")) == tmp_path / "weights.pth"
    supernet = resolve_init(parse_job({"init": "supernet"}))
    assert isinstance(supernet, SearchJob)
    assert init_source(supernet, RunFolder(tmp_path / "run")) == tmp_path / "run" / "supernet"


def test_batch_is_divided_among_workers() -> None:
    assert parse_job({"supernet": {"batch_size": 8}, "retrain": None, "resources": {"train": {"num_workers": 4}}})


def test_hash_follows_the_values_alone() -> None:
    one = parse_job({"search": {"seed": 1}, "name": "a"})
    assert config_hash(one) == config_hash(parse_job({"name": "a", "search": {"seed": 1}}))
    assert config_hash(one) == config_hash(one.model_dump(mode="json"))
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash(one) != config_hash(parse_job({"search": {"seed": 2}, "name": "a"}))
    assert len(config_hash(one)) == 16


def test_differing_fields_are_named_with_both_values() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 3, "same": {"e": None}}
    new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "fresh": {"f": 1}, "same": {"e": None}}
    assert differing_fields(old, new) == [
        "b.c: [1, 2] before, [1, 3] now",
        "fresh: None before, {'f': 1} now",
        "gone: 3 before, None now",
    ]


def test_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    one, other = (parse_job({"search": {"seed": seed}}) for seed in (1, 2))
    found = one.model_dump(mode="json")
    refuse_mixing(None, one, tmp_path)
    refuse_mixing(found, one, tmp_path)
    with pytest.raises(InputError, match="holds a run with another configuration; use a new folder") as caught:
        refuse_mixing(found, other, tmp_path)
    assert caught.value.details == ["search.seed: 1 before, 2 now"]
    assert str(tmp_path) in caught.value.message


def test_run_is_taken_up_under_another_name_and_with_other_resources(tmp_path: Path) -> None:
    """But what is measured on a worker, as latency is, needs workers of one kind."""
    search = {"num_trials": 8, "objectives": ["dice"]}
    found = parse_job({"search": search}).model_dump(mode="json")
    resources = {"train": {"num_workers": 4}, "search": {"cpus": 2, "gpus": 1, "num_workers": 3}, "wait_seconds": 5}
    job = parse_job({"search": search, "name": "again", "labels": {"try": "2"}, "resources": resources})
    assert refuse_mixing(found, job, tmp_path) == [
        "resources.search.cpus: 1.0 before, 2.0 now",
        "resources.search.gpus: 0.0 before, 1.0 now",
        "resources.search.num_workers: None before, 3 now",
        "resources.train.num_workers: 1 before, 4 now",
        "resources.wait_seconds: 600.0 before, 5.0 now",
    ]
    timed = {"num_trials": 8, "objectives": ["dice", "latency_ms"]}
    found = parse_job({"search": timed}).model_dump(mode="json")
    with pytest.raises(InputError) as caught:
        refuse_mixing(found, parse_job({"search": timed, "resources": resources}), tmp_path)
    assert [field.partition(":")[0] for field in caught.value.details] == [
        "resources.search.cpus",
        "resources.search.gpus",
    ]


def test_networks_to_compare_with_have_a_slicing_of_their_own_or_none() -> None:
    slicings = {}
    for network in ("vm_unet", "unet", "attention_unet"):
        job = parse_job({"kind": "retrain", "model": TINY, "network": network})
        assert isinstance(job, RetrainJob)
        slicings[network] = job.slicing and str(job.slicing)
    assert slicings == {"vm_unet": "s1:1x1|s2:1x1|s3:1x1|s4:1x1", "unet": None, "attention_unet": None}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "network slicemamba needs an architecture"),
        ({"network": "unet", "architecture": ARCHITECTURE}, "network unet takes no architecture"),
        ({"network": "vm_unet", "architecture": ARCHITECTURE}, "network vm_unet takes no architecture"),
        ({"network": "resnet"}, "network"),
    ],
)
def test_network_and_architecture_must_fit(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_job({"kind": "retrain", "model": TINY, **values})


def test_peak_memory_needs_a_graphics_card() -> None:
    for search in ({"objectives": ["dice", "peak_memory_mb"]}, {"constraints": {"peak_memory_mb": {"max": 100}}}):
        with pytest.raises(InputError) as caught:
            parse_job({"search": search})
        assert "peak_memory_mb is measured on CUDA devices only; give resources.search.gpus" in caught.value.details[0]
        assert isinstance(parse_job({"search": search, "resources": {"search": {"gpus": 0.5}}}), SearchJob)


@pytest.mark.parametrize("workers", ["train", "search"])
def test_shares_of_cpus_and_gpus_are_taken_and_shares_of_several_gpus_refused(workers: str) -> None:
    job = parse_job({"resources": {workers: {"cpus": 0.5, "gpus": 0.25}}})
    taken = getattr(job.resources, workers)
    assert (taken.cpus, taken.gpus) == (0.5, 0.25)
    assert getattr(parse_job({"resources": {workers: {"gpus": 2}}}).resources, workers).gpus == 2
    with pytest.raises(InputError) as caught:
        parse_job({"resources": {workers: {"gpus": 1.5}}})
    assert "takes whole GPUs, or a share of one such as 0.5; got 1.5" in str(caught.value)
    with pytest.raises(InputError, match=f"/resources/{workers}/cpus"):
        parse_job({"resources": {workers: {"cpus": 0}}})


def test_placement_is_pack_or_spread() -> None:
    assert ResourcesConfig().train.placement == "PACK"
    assert parse_job({"resources": {"train": {"placement": "SPREAD"}}}).resources.train.placement == "SPREAD"
    with pytest.raises(InputError, match="/resources/train/placement: must be one of PACK, SPREAD"):
        parse_job({"resources": {"train": {"placement": "anywhere"}}})


@pytest.mark.parametrize("kind", ["supernet", "search"])
def test_sandwich_without_sizes_is_refused_with_the_reason(kind: str) -> None:
    values = {"kind": kind, "supernet": {"sampling": "sandwich"}}
    with pytest.raises(InputError) as caught:
        parse_job(values)
    assert "all of space.choices (2x2, 2x4, 4x2, 4x4) are of one size" in str(caught.value)
    assert "the largest is the smallest" in str(caught.value)
    parse_job(values | {"space": {"choices": ["2x2", "-"]}})
