"""docker/ray-cluster.yaml, by the checks that ``ray up`` makes before it touches a machine."""

from __future__ import annotations

import shlex

from deployment import DOCKER, check_command, project_version, read_yaml
from ray.autoscaler._private.util import prepare_config, validate_config


def test_ray_takes_it() -> None:
    config = prepare_config(read_yaml(DOCKER / "ray-cluster.yaml"))
    validate_config(config)
    (kind,) = config["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])


def test_its_commands_are_rays_and_its_image_is_this_version() -> None:
    config = read_yaml(DOCKER / "ray-cluster.yaml")
    for line in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        words = [word for word in shlex.split(line) if not word.startswith("RAY_AUTH_MODE=")]
        check_command(words)
    assert config["docker"]["image"].endswith(f":{project_version()}-gpu")
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
