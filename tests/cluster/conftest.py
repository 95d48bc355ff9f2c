from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from cluster import attempts, storage
from cluster.connect import ENVIRONMENT
from cluster.local import RayHead, ray_head
from cluster.run_folder import STUDY_VARIABLE

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


@pytest.fixture
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Ray cluster of one CPU, which nodes may be added to."""
    import ray
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    running = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=running.address, log_to_driver=False, logging_level="ERROR")
    yield running
    ray.shutdown()
    running.shutdown()


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A Ray head of three CPUs, for all tests that submit a job or drive from outside: starting one takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "2000")  # 10 s by default, more than a small search takes
        before = dict(os.environ)
        with ray_head(num_cpus=3, log=tmp_path_factory.mktemp("head") / "ray.log") as running:
            os.environ.clear()  # what it has set for its clients is not meant for the tests beside them
            os.environ.update(before)
            yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """URL of an S3 server of the tests' own."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty bucket ``runs``, the variables that lead to it, and drivers that do not wait long for each other."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(STUDY_VARIABLE, raising=False)
    monkeypatch.setattr(attempts, "EXPIRE_SECONDS", 6.0)
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(attempts, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(storage, "ROUND_SECONDS", 0.2)
    place = boto3.resource("s3", endpoint_url=s3, region_name="us-east-1").Bucket("runs")
    if place.creation_date is None:
        place.create()
    place.objects.all().delete()
