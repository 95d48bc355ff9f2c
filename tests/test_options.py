"""Options: defaults, what is refused and how it is said, YAML files and overrides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slicemamba.config import (
    Config,
    DataConfig,
    ModelConfig,
    SyntheticConfig,
    TrainConfig,
    validate,
)
from slicemamba.documents import override, read_yaml
from slicemamba.errors import InputError


@pytest.mark.parametrize("schema", [SyntheticConfig, DataConfig, ModelConfig, TrainConfig])
def test_defaults_survive_json(schema: type[Config]) -> None:
    assert schema.model_validate_json(schema().model_dump_json()) == schema()


def test_defaults_are_the_published_ones() -> None:
    model, train = ModelConfig(), TrainConfig()
    assert (model.embed_dim, model.depths) == (96, (2, 2, 9, 2, 2, 2, 2, 1))
    assert (train.epochs, train.batch_size, train.learning_rate, train.weight_decay) == (300, 32, 1e-3, 1e-2)
    assert (train.t_max, train.min_learning_rate) == (50, 1e-5)
    assert DataConfig().image_size == (256, 256)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("schema", "values", "pointer", "said"),
    [
        (TrainConfig, {"epochs": 0}, "/epochs", "greater than 0; got 0"),
        (TrainConfig, {"epochs": True}, "/epochs", "must not be true or false"),
        (TrainConfig, {"early_stop_epochs": True}, "/early_stop_epochs", "must not be true or false"),
        (TrainConfig, {"epoch": 5}, "/epoch", "unknown field; did you mean 'epochs'?"),
        (TrainConfig, {"colour": 5}, "/colour", "unknown field; remove it or correct its spelling"),
        (DataConfig, {"synthetic": {"num_trian": 1}}, "/synthetic/num_trian", "did you mean 'num_train'?"),
        (TrainConfig, {"learning_rate": "fast"}, "/learning_rate", "got 'fast'"),
        (TrainConfig, {"learning_rate": float("inf")}, "/learning_rate", "finite"),
        (TrainConfig, {"learning_rate": float("nan")}, "/learning_rate", "got nan"),
        (TrainConfig, {"flip_probability": 1.5}, "/flip_probability", "got 1.5"),
        (TrainConfig, {"seed": -1}, "/seed", "greater than or equal to 0; got -1"),  # no generator takes it
        (
            ModelConfig,
            {"embed_dim": 10},
            "",
            "embed_dim must be a multiple of 4, as the network divides it by up to 4; got 10",
        ),
        (ModelConfig, {"d_conv": 4}, "", "d_conv must be odd"),
        (ModelConfig, {"encoder_depths": [2, 2]}, "", "same number of stages, at least one; got 2 and 4"),
        (ModelConfig, {"encoder_depths": [], "decoder_depths": []}, "", "at least one"),
        (ModelConfig, {"encoder_depths": [2, 0, 1, 1]}, "/encoder_depths/1", "got 0"),
        (ModelConfig, {"drop_path_rate": 1.0}, "/drop_path_rate", "less than 1; got 1.0"),
        (DataConfig, {"num_classes": 2}, "", "num_classes 2 is ambiguous: use 1 for binary masks"),
        (DataConfig, {"name": "../etc"}, "/name", "got '../etc'"),
        (DataConfig, {"image_size": [16, 64]}, "/image_size/0", "got 16"),
        (DataConfig, {"image_size": 64}, "/image_size", "must be a list in brackets, such as [64, 64]; got 64"),
        (DataConfig, {"synthetic": {"num_train": -1}}, "/synthetic/num_train", "got -1"),
        (DataConfig, {"a/b~c": 1}, "/a~1b~0c", "unknown field"),
    ],
)
def test_wrong_option_is_pointed_at(schema: type[Config], values: dict[str, Any], pointer: str, said: str) -> None:
    with pytest.raises(InputError, match=r"test\.yaml is not a valid configuration") as caught:
        validate(schema, values, source="test.yaml")
    assert caught.value.pointer == pointer
    assert said in caught.value.details[0]


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        validate(TrainConfig, {"epochs": 0, "batch_size": 0, "nonsense": 1}, source="test.yaml")
    assert [detail.split(":")[0] for detail in caught.value.details] == ["/epochs", "/batch_size", "/nonsense"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"epochs: [1", "is not valid YAML"),
        (b"- 1\n- 2\n", "must hold a mapping of options; got list"),
        (b"", "got NoneType"),
        (b"\xff\xfe\x00\x01", "test.yaml"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "test.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    assert said in str(caught.value)


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give the path of a YAML file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match=r"is a folder; .*--auto` plans a search on it"):
        read_yaml(tmp_path)


def test_override_reaches_nested_options_and_leaves_the_rest() -> None:
    values = {"name": "a", "train": {"epochs": 1, "seed": 2}}
    changed = override(values, ["train.epochs=10", "model.embed_dim=16", "search.objectives=[dice, hd95]", "name=null"])
    assert changed == {
        "name": None,
        "train": {"epochs": 10, "seed": 2},
        "model": {"embed_dim": 16},
        "search": {"objectives": ["dice", "hd95"]},
    }
    assert values == {"name": "a", "train": {"epochs": 1, "seed": 2}}, "the given options stay as they were"


@pytest.mark.parametrize(
    "assignment", ["train.epochs", "=3", "", "name.epochs=3", "train.epochs=[1", "train.epochs=a: b: c"]
)
def test_override_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(InputError, match="override"):
        override({"name": "a", "train": {}}, [assignment])


def test_values_that_json_does_not_know_pass_an_override(tmp_path: Path) -> None:
    file = tmp_path / "test.yaml"
    file.write_text("name: !!set {a}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        validate(DataConfig, override(read_yaml(file), ["num_classes=1"]), source="test.yaml")
    assert caught.value.pointer == "/name"


@pytest.mark.parametrize(
    "module", ["slicemamba.config", "nas.config", "nas.study", "cluster.config", "cluster.run_folder"]
)
def test_configurations_import_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
