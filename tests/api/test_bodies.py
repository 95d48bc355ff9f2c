"""Jobs are taken as JSON or as the YAML file that the command line reads."""

from __future__ import annotations

import pytest
from service_helpers import Bench

VALIDATE = "/v1/searches/validate"
JOB = "# of mine\nname: as a file\nsearch: {num_trials: 5}\n"


@pytest.mark.parametrize("kind", ["application/yaml", "text/yaml; charset=utf-8", "application/x-yaml"])
def test_yaml_is_taken_as_the_command_line_takes_it(bench: Bench, kind: str) -> None:
    answer = bench.http.post(VALIDATE, content=JOB, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["spec"]["name"], answer.json()["spec"]["search"]["num_trials"]) == ("as a file", 5)
    made = bench.http.post("/v1/searches", content=JOB, headers={"Content-Type": kind})
    assert made.status_code == 202
    assert made.json()["name"] == "as a file"


def doubled(times: int, width: int) -> str:
    """Lists that hold the one before so many times."""
    rows = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]\n" for i in range(1, times))
    return "a0: &a0 [x]\n" + "".join(rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [\n", "the body is not valid YAML"),
        ("name: a\nname: b\n", "'name' is given twice, in lines 1 and 2"),
        ("- a\n- b\n", "the body must be a mapping of options"),
        ("[" * 60, "more than 50 levels"),
        ("data: {root: /etc}\n", "must not contain its folder"),
        ("!!python/object/apply:os.system [id]\n", "the body is not valid YAML"),
        ("name: !!binary aGVsbG8=\n", "of what JSON can hold (no !!binary"),
        ("labels: {a: !!set {x, y}}\n", "of what JSON can hold (no !!binary"),
        ("labels: {!!binary aGVsbG8=: x}\n", "of what JSON can hold (no !!binary"),
        ("name: &a [*a]\n", "list that holds itself"),
        (doubled(2000, 1), "list that holds itself"),
        (doubled(40, 2), "it would have more than 1048576 bytes"),
    ],
)
def test_bad_yaml_is_refused_with_its_fault(bench: Bench, text: str, told: str) -> None:
    for path in ("/v1/searches", VALIDATE):
        answer = bench.http.post(path, content=text, headers={"Content-Type": "application/yaml"})
        assert answer.status_code == 422
        assert told in answer.text


def test_other_kinds_of_body_are_refused(bench: Bench) -> None:
    answer = bench.http.post(VALIDATE, content=JOB, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json or application/yaml" in answer.text


def test_presets_are_jobs_without_folders(bench: Bench) -> None:
    presets = bench.http.get("/v1/presets").json()["presets"]
    assert presets[0]["name"] == "laptop"
    assert {"kvasir", "isic2017"} < {preset["name"] for preset in presets}
    for preset in presets:
        assert preset["title"]
        assert "root" not in preset["job"]["data"]
    answer = bench.http.post(VALIDATE, json=presets[0]["job"])
    assert answer.status_code == 200, answer.text
    options = {one["option"]: one for one in answer.json()["proposed"]}
    assert options["retrain.batch_size"]["value"] == 8
    assert "64 samples" in options["retrain.batch_size"]["reason"]
