from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from cluster import storage, store_lease
from cluster.run_folder import STUDY_VARIABLE


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
    monkeypatch.setattr(store_lease, "EXPIRE_SECONDS", 3.0)
    monkeypatch.setattr(store_lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(store_lease, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(storage, "ROUND_SECONDS", 0.2)
    place = boto3.resource("s3", endpoint_url=s3, region_name="us-east-1").Bucket("runs")
    if place.creation_date is None:
        place.create()
    place.objects.all().delete()
