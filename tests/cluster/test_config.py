"""Job specifications: each kind parses, survives JSON, and says which field is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config import (
    ResourcesConfig,
    RetrainJob,
    SearchJob,
    SupernetJob,
    config_hash,
    differing_fields,
    load_job,
    parse_job,
    refuse_mixing,
)
from nas.config import SearchConfig
from slicemamba.config import ModelConfig, TrainConfig
from slicemamba.errors import InputError

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
]


def test_kind_chooses_the_schema() -> None:
    assert [type(parse_job(job)) for job in JOBS] == [SupernetJob, SearchJob, RetrainJob]
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
    changed = load_job(file, ["data.num_classes=9"], name="another")
    assert changed.name == "another"
    assert changed.data == job.data.model_copy(update={"num_classes": 9})


@pytest.mark.parametrize(
    ("values", "pointer", "said"),
    [
        ({"kind": "train"}, "/kind", "kind must be one of supernet, search, retrain; got 'train'"),
        ({"kind": None}, "/kind", "got None"),
        ({"kind": ["search"]}, "/kind", "got ['search']"),
        ({"nmae": "x"}, "/nmae", "unknown field"),
        ({"name": ""}, "/name", "at least 1 character"),
        ({"search": {"seed": "x"}}, "/search/seed", "got 'x'"),
        ({"space": {"choices": ["2x2", "2x0"]}}, "/space/choices/1", "slice size must look like '2x4'"),
        ({"search": {"objectives": ["dice", "speed"]}}, "/search/objectives/1", "got 'speed'"),
        ({"resources": {"search": {"cpus": 0}}}, "/resources/search/cpus", "got 0"),
        ({"resources": {"train": {"gpus": -0.5}}}, "/resources/train/gpus", "got -0.5"),
        ({"kind": "supernet", "search": {}}, "/search", "unknown field"),
        ({"kind": "retrain", "model": TINY}, "/architecture", "required"),
        ({"kind": "retrain", "architecture": "s1:2x"}, "", "slice size must look like '2x4'"),
        (
            {"kind": "retrain", "architecture": ARCHITECTURE},
            "",
            "depths (1, 1, 1, 1), model has (2, 2, 9, 2, 2, 2, 2, 1)",
        ),
        ({"supernet": {"batch_size": 7}, "resources": {"train": {"num_workers": 2}}}, "", "supernet.batch_size (7)"),
        ({"retrain": {"batch_size": 9}, "resources": {"train": {"num_workers": 2}}}, "", "retrain.batch_size (9)"),
    ],
)
def test_wrong_field_is_pointed_at(values: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_job(values)
    assert caught.value.pointer == pointer
    assert said in str(caught.value)


def test_budget_may_not_exceed_the_space() -> None:
    values = {"model": TINY, "space": {"choices": ["2x2", "2x4"]}}
    assert parse_job({**values, "search": {"num_trials": 16}})
    with pytest.raises(InputError, match=r"search\.num_trials \(17\) exceeds the 16 architectures of the space"):
        parse_job({**values, "search": {"num_trials": 17}})


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
    one, other = (parse_job({"search": {"seed": seed}}).model_dump(mode="json") for seed in (1, 2))
    refuse_mixing(one, one, tmp_path)
    with pytest.raises(InputError, match="holds a run with another configuration; take a new folder") as caught:
        refuse_mixing(one, other, tmp_path)
    assert caught.value.details == ["search.seed: 1 before, 2 now"]
    assert str(tmp_path) in caught.value.message


def test_peak_memory_needs_a_graphics_card() -> None:
    for search in ({"objectives": ["dice", "peak_memory_mb"]}, {"constraints": {"peak_memory_mb": {"max": 100}}}):
        with pytest.raises(InputError) as caught:
            parse_job({"search": search})
        assert "peak_memory_mb is measured on CUDA devices only; give resources.search.gpus" in caught.value.details[0]
        assert isinstance(parse_job({"search": search, "resources": {"search": {"gpus": 0.5}}}), SearchJob)
