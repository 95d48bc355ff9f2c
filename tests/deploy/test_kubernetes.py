"""docker/kubernetes: each resource against its schema, and each name in them against what it names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from deployment import DOCKER, mappings, pinned, program, project_version, read_yaml, run_tool, unknown_variables

FOLDER = DOCKER / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
VERSION = "1.32.0"
CUSTOM = {"RayCluster": "ray-cluster.json", "RayJob": "ray-job.json"}
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def kustomization() -> Resource:
    found: Resource = read_yaml(FOLDER / "kustomization.yaml")
    return found


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    """All there are, the job that is submitted by hand included."""
    files = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
    return [item for path in files for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = (item for item in resources if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def pods(resource: Resource) -> list[Resource]:
    """Pod templates in it."""
    return [node["template"] for node in mappings(resource.get("spec", {})) if "spec" in node.get("template", {})]


def containers(resources: list[Resource]) -> list[Resource]:
    return [one for item in resources for pod in pods(item) for one in pod["spec"]["containers"]]


def test_every_file_is_listed_or_said_to_be_submitted_by_hand(kustomization: Resource) -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files - set(kustomization["resources"]) == {"ray-job.yaml"}
    assert set(kustomization["resources"]) <= files


def test_resources_follow_their_schemas(resources: list[Resource]) -> None:
    for item in resources:
        if item["kind"] in CUSTOM:
            schema = json.loads((SCHEMAS / CUSTOM[item["kind"]]).read_text())
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.validate(item, schema)
            for pod in pods(item):
                holder = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "of"}, "template": pod}
                kubernetes_validate.validate(holder, VERSION, strict=True)
        else:
            kubernetes_validate.validate(item, VERSION, strict=True)


def test_the_schemas_of_custom_resources_refuse_what_is_misspelt(resources: list[Resource]) -> None:
    cluster = named(resources, "RayCluster", "slicemamba")
    schema = json.loads((SCHEMAS / CUSTOM["RayCluster"]).read_text())
    for wrong in (
        {"rayversion": "2"},
        {"workerGroupSpecs": [{"groupName": "gpu"}]},
        {"authOptions": {"mode": "tokens"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**cluster, "spec": {**cluster["spec"], **wrong}}, schema)


def test_pods_meet_the_restricted_standard_that_the_namespace_enforces(resources: list[Resource]) -> None:
    labels = named(resources, "Namespace", "slicemamba")["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "restricted"}
    for item in resources:
        for pod in pods(item):
            user = pod["spec"]["securityContext"]
            assert user["runAsNonRoot"] is True
            assert user["runAsUser"] > 0
            assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all(one["securityContext"] == hardened for one in containers(resources))
    assert named(resources, "RayCluster", "slicemamba")["spec"]["autoscalerOptions"]["securityContext"] == hardened


def test_every_container_says_what_it_needs(resources: list[Resource]) -> None:
    for one in containers(resources):
        assert {"cpu", "memory"} <= set(one["resources"]["requests"]), one["name"]
        assert "memory" in one["resources"]["limits"], one["name"]


def test_secrets_claims_services_and_volumes_exist(resources: list[Resource], kustomization: Resource) -> None:
    (secret,) = kustomization["secretGenerator"]
    keys = set(re.findall(r"^(\w+)=$", (FOLDER / "secrets.env.example").read_text(), re.MULTILINE))
    used = [node["secretKeyRef"] for item in resources for node in mappings(item) if "secretKeyRef" in node]
    assert {reference["name"] for reference in used} == {secret["name"]}
    cluster = named(resources, "RayCluster", "slicemamba")["spec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": secret["name"]}
    assert {reference["key"] for reference in used} | {"auth_token"} == keys  # the name that KubeRay reads
    claims = {item["metadata"]["name"] for item in resources if item["kind"] == "PersistentVolumeClaim"}
    assert {node["claimName"] for item in resources for node in mappings(item) if "claimName" in node} == claims
    for item in resources:
        templates = {claim["metadata"]["name"] for claim in item.get("spec", {}).get("volumeClaimTemplates", [])}
        for pod in pods(item):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | templates
            assert {mount["name"] for one in pod["spec"]["containers"] for mount in one["volumeMounts"]} == volumes
    services = {item["metadata"]["name"] for item in resources if item["kind"] == "Service"}
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"].partition(":")[0] in services
    for one in (item for item in resources if item["kind"] == "Service"):
        labels = [
            pod["metadata"]["labels"] for item in resources for pod in pods(item) if "labels" in pod.get("metadata", {})
        ]
        assert one["spec"]["selector"] in labels


def test_variables_are_known_and_databases_are_the_one_that_is_deployed(resources: list[Resource]) -> None:
    environments = [{item["name"]: item.get("value") for item in one.get("env", [])} for one in containers(resources)]
    assert unknown_variables([name for environment in environments for name in environment]) == set()
    urls = {
        url
        for environment in environments
        for name, url in environment.items()
        if name in ("SLICEMAMBA_DATABASE_URL", "SLICEMAMBA_STUDY_URL")
    }
    postgres = next(environment for environment in environments if "POSTGRES_DB" in environment)
    assert urls == {f"postgresql+psycopg://{postgres['POSTGRES_USER']}@db/{postgres['POSTGRES_DB']}"}
    ray = next(
        environment["SLICEMAMBA_RAY_ADDRESS"] for environment in environments if "SLICEMAMBA_RAY_ADDRESS" in environment
    )
    assert ray == f"http://{named(resources, 'RayCluster', 'slicemamba')['metadata']['name']}-head-svc:8265"


def test_probes_ask_what_the_service_answers(resources: list[Resource]) -> None:
    from api.server.routes import health

    (pod,) = pods(named(resources, "Deployment", "api"))
    (api,) = pod["spec"]["containers"]
    asked = {api[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"/healthz", "/readyz"}
    assert asked <= {route.path for route in health.router.routes}  # type: ignore[attr-defined]


def test_all_ray_nodes_run_the_pinned_ray_and_share_the_folders(resources: list[Resource]) -> None:
    cluster = named(resources, "RayCluster", "slicemamba")
    assert cluster["spec"]["rayVersion"] == pinned("ray")
    mounts = [one["volumeMounts"] for one in containers([cluster])]
    assert len(mounts) == 3
    assert mounts.count(mounts[0]) == 3
    (api,) = containers([named(resources, "Deployment", "api")])
    assert [mount for mount in mounts[0] if mount["name"] != "shm"] == api["volumeMounts"]
    gpu = next(group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["minReplicas"] < gpu["maxReplicas"]


def test_the_jobs_command_is_one_that_the_driver_takes(
    resources: list[Resource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import entrypoint

    spec = named(resources, "RayJob", "kvasir")["spec"]
    assert spec["clusterSelector"] == {
        "ray.io/cluster": named(resources, "RayCluster", "slicemamba")["metadata"]["name"]
    }
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", entrypoint.__name__]
    taken: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entrypoint, "run_job", lambda job, run, **_: taken.append(job))
    assert entrypoint.main([word.replace("/runs/", f"{tmp_path}/") for word in words[3:]]) == 0
    (job,) = taken
    search = job.resources.search
    assert (job.name, job.resources.train.gpus, search.gpus, search.num_workers) == ("kvasir", 1, 0.5, 8)


def test_kubectl_puts_it_together_with_our_images(
    kustomization: Resource, resources: list[Resource], tmp_path: Path
) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    example = (FOLDER / "secrets.env.example").read_text()
    (copy / "secrets.env").write_text(re.sub(r"=$", "=x", example, flags=re.MULTILINE))
    made = list(yaml.safe_load_all(run_tool(program("kubectl"), "kustomize", copy)))
    assert len(made) == len(resources) - 1 + 1  # without the job, with the secret
    assert {item["metadata"].get("namespace", "slicemamba") for item in made} == {"slicemamba"}
    ours = {f"{image['newName']}:{image['newTag']}" for image in kustomization["images"]}
    assert {image.rpartition(":")[2] for image in ours} == {f"{project_version()}-{kind}" for kind in ("cpu", "gpu")}
    found = {one["image"] for one in containers(made)}
    assert ours <= found
    assert all(re.search(r":.*\d", image) for image in found)
