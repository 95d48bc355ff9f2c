"""Prometheus and Grafana: every metric and label that they ask for is one that the code, or Ray, gives out."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from deployment import DOCKER, ROOT, mappings, read_yaml
from prometheus_client.parser import text_string_to_metric_families

from api.server.telemetry import Telemetry
from api.states import SearchState

FOLDER = DOCKER / "monitoring"
FUNCTIONS = {"histogram_quantile", "label_values", "max", "sum", "rate", "topk", "by", "and", "or", "on", "le"}
SCRAPED = {"job", "instance"}  # labels that Prometheus adds
RAYS_LABELS = {"GpuIndex", "node_type"}


def service_metrics() -> dict[str, set[str]]:
    """Names of the samples that the service gives out, with their labels."""
    telemetry = Telemetry(dict)
    telemetry.count_request("GET", "/v1/searches", 200, 0.1)
    telemetry.rounds.labels("done").inc()
    families = text_string_to_metric_families(telemetry.render().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def search_metrics() -> dict[str, set[str]]:
    """Those that runs give to Ray, read from the calls in cluster/metrics.py: Ray's own copies need a cluster."""
    tree = ast.parse((ROOT / "cluster" / "metrics.py").read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        kind = node.func.id
        if kind not in ("Gauge", "Counter", "Histogram"):
            continue
        name = "ray_" + ast.literal_eval(node.args[0])
        extra = [item.value for item in ast.walk(node.args[-1]) if isinstance(item, ast.Constant)]
        labels = {"run", "phase", *map(str, extra)}
        endings = {"Gauge": ("",), "Counter": ("_total",), "Histogram": ("_bucket", "_count", "_sum")}[kind]
        found |= {name + ending: labels | ({"le"} if kind == "Histogram" else set()) for ending in endings}
    return found


def rays_own_metrics() -> set[str]:
    reporter = Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    return {f"ray_{name}" for name in re.findall(r'"((?:node|cluster)_[a-z_]+)"', reporter.read_text(encoding="utf-8"))}


def expressions() -> Iterator[tuple[str, str]]:
    """Each question to Prometheus, with where it stands."""
    dashboard = json.loads((FOLDER / "slicemamba.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield f"variable {variable['name']}", variable["definition"]
    for group in read_yaml(FOLDER / "alerts.yaml")["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


QUESTIONS = dict(expressions())


def metrics_in(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|by \([^)]*\)|\[[^\]]*\]|\"[^\"]*\"|, run\)", " ", expression)
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", bare)) - FUNCTIONS


def labels_in(expression: str) -> set[str]:
    grouped = [name.strip() for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(",")]
    matched = [
        name for inside in re.findall(r"\{([^}]*)\}", expression) for name in re.findall(r"(\w+)\s*[=!]", inside)
    ]
    return {*grouped, *matched}


def test_the_code_gives_out_what_is_looked_for() -> None:
    assert {"slicemamba_searches", "slicemamba_http_request_seconds_bucket"} <= set(service_metrics())
    assert {"ray_slicemamba_hypervolume", "ray_slicemamba_candidate_seconds_bucket"} <= set(search_metrics())


@pytest.mark.parametrize("where", sorted(QUESTIONS))
def test_metrics_and_labels_exist(where: str) -> None:
    known = {**dict.fromkeys(rays_own_metrics(), RAYS_LABELS), **service_metrics(), **search_metrics(), "up": set()}
    asked = metrics_in(QUESTIONS[where])
    assert asked
    assert asked <= set(known)
    allowed = {label for metric in asked for label in known[metric]} | SCRAPED
    assert labels_in(QUESTIONS[where]) <= allowed


def test_every_metric_of_a_search_is_on_the_dashboard() -> None:
    shown = {name for question in QUESTIONS.values() for name in metrics_in(question)}
    ends = re.compile(r"_(bucket|count|sum)$")
    assert {ends.sub("", name) for name in search_metrics()} <= {ends.sub("", name) for name in shown}


def test_states_that_are_asked_for_exist() -> None:
    states = [name for text in QUESTIONS.values() for name in re.findall(r'state=~?"([^"]+)"', text)]
    assert states
    assert {name for group in states for name in group.split("|")} <= {state.value for state in SearchState}


def test_legends_name_labels_of_their_question() -> None:
    dashboard = json.loads((FOLDER / "slicemamba.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= labels_in(target["expr"]) | SCRAPED | RAYS_LABELS, panel["title"]


def test_panels_lie_side_by_side_and_know_their_source() -> None:
    dashboard = json.loads((FOLDER / "slicemamba.json").read_text(encoding="utf-8"))
    uid = read_yaml(FOLDER / "datasource.yaml")["datasources"][0]["uid"]
    assert {node["uid"] for node in mappings(dashboard) if node.get("type") == "prometheus"} == {uid}
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_what_is_scraped_and_mounted_is_what_compose_starts() -> None:
    compose: dict[str, Any] = read_yaml(DOCKER / "compose.yaml")["services"]
    jobs = {job["job_name"]: job for job in read_yaml(FOLDER / "prometheus.yaml")["scrape_configs"]}
    assert [entry["targets"] for entry in jobs["api"]["static_configs"]] == [["api:8000"]]
    (nodes,) = jobs["ray"]["dns_sd_configs"]
    assert set(nodes["names"]) == {name for name, one in compose.items() if "start" in one.get("command", [])}
    for name in nodes["names"]:
        assert f"--metrics-export-port={nodes['port']}" in compose[name]["command"]
    folder = read_yaml(FOLDER / "dashboards.yaml")["providers"][0]["options"]["path"]
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/slicemamba.json"
    assert f"./monitoring/slicemamba.json:{home}:ro" in compose["grafana"]["volumes"]
