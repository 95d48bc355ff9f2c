"""Jobs that follow a search, for real: a trial that is not the winner is retrained, exported, drawn; an audit."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from api.client import Client
from api.states import SearchState
from cluster.local import RayHead, free_ports, ray_head, started, tail
from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.models.checkpoints import load_network, read_card

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow]

JOB: dict[str, Any] = {
    "name": "followed",
    "data": {"name": "lesions", "image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "space": {"choices": ["2x2", "4x4"]},
    "supernet": {"epochs": 1, "batch_size": 8, "t_max": 1, "num_val_architectures": 1},
    "search": {"searcher": "random", "objectives": ["dice", "params"], "num_trials": 6},
    "retrain": {"epochs": 1, "batch_size": 8, "t_max": 1},
    "baselines": [],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("followed")
    sizes = SyntheticConfig(num_train=8, num_val=4, num_search=4, num_test=4)
    write_isic_folder(DataConfig(image_size=(32, 32), synthetic=sizes), folder / "data" / "lesions")
    return folder


@pytest.fixture(scope="module")
def head(place: Path) -> Iterator[RayHead]:
    with ray_head(num_cpus=2, log=place / "ray.log") as running:
        yield running


@pytest.fixture(scope="module")
def url(place: Path, head: RayHead) -> Iterator[str]:
    """Of a service with one search that has SUCCEEDED."""
    port, log = free_ports(1)[0], place / "api.log"
    command = [
        *(sys.executable, "-m", "api.cli", "serve", "--port", str(port), "--ray-address", head.dashboard),
        *("--runs-dir", str(place / "runs"), "--data", str(place / "data")),
    ]
    environment = head.environment | {"SLICEMAMBA_CACHE": str(place / "cache"), "SLICEMAMBA_MAX_RUNNING": "8"}
    with started(command, environment=environment, log=log) as process:
        deadline = time.monotonic() + 120
        while "serving on" not in log.read_text():
            assert process.poll() is None, tail(log)
            assert time.monotonic() < deadline, tail(log)
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"


def finish(http: httpx.Client, response: httpx.Response) -> dict[str, Any]:
    """Waits until the job that was accepted has SUCCEEDED."""
    assert response.status_code == 202, response.text
    location = response.headers["location"]
    deadline = time.monotonic() + 1500
    while True:
        job: dict[str, Any] = http.get(location).json()
        if SearchState(job["state"]).ended:
            assert job["state"] == "SUCCEEDED", (job, http.get(f"{location}/logs").text)
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.5)


@pytest.mark.timeout(3600)
def test_trial_is_retrained_exported_and_drawn_and_the_search_audited(url: str, place: Path) -> None:
    with Client(url) as client:
        ended = client.wait(client.submit(JOB).id)
        assert ended.state is SearchState.SUCCEEDED, client.logs(ended.id)
        winner = client.result(ended.id)["best"]["number"]
        number = next(trial.number for trial in client.trials(ended.id).trials if trial.number != winner)
    base = f"/v1/searches/{ended.id}"
    with httpx.Client(base_url=url, timeout=60) as http:
        trial = http.get(f"{base}/trials/{number}").json()
        assert http.post(f"{base}/trials/{number}/export").status_code == 409

        changed = {"retrain": {"epochs": 2, "t_max": 2}, "init": "supernet"}
        retrained = finish(http, http.post(f"{base}/trials/{number}/retrain", json=changed))
        scores = http.get(f"{base}/artifacts/{retrained['folder']}/result.json").json()["retrained"]
        assert (scores["architecture"], len(scores["epochs"])) == (trial["architecture"], 2)
        assert set(scores["scores"]) == {"search", "test"}

        exported = finish(http, http.post(f"{base}/trials/{number}/export", json={"format": "torch"}))
        bundle = place / "bundle"
        for item in http.get(f"{base}/artifacts").json()["artifacts"]:
            if item["path"].startswith(f"{exported['folder']}/bundle/"):
                bundle.mkdir(exist_ok=True)
                content = http.get(f"{base}/artifacts/{item['path']}").content
                (bundle / Path(item["path"]).name).write_bytes(content)
        image = torch.rand(3, 3, 32, 32)
        network = load_network(bundle)
        assert read_card(bundle).architecture == trial["architecture"]
        with torch.no_grad():
            for program in ("model.pt2", "model_portable.pt2"):
                logits = torch.export.load(bundle / program).module()(image)
                torch.testing.assert_close(logits, network(image), rtol=0, atol=1e-4)

        drawn = finish(http, http.post(f"{base}/trials/{number}/figures", json={"images": 3}))
        rows = http.get(f"{base}/artifacts/{drawn['folder']}/figures.json").json()
        known = {row["name"]: row["dice"] for row in http.get(f"{base}/trials/{number}/images").json()["images"]}
        assert len(rows) == 3
        for row in rows:
            assert row["dice"] == pytest.approx(known[row["image"]], abs=1e-9)
            with Image.open(io.BytesIO(http.get(f"{base}/artifacts/{row['path']}").content)) as picture:
                assert min(picture.size) >= 256

        settings = {"num_retrained": 2, "epochs": 1, "retrain_seeds": 1, "random_seeds": 1}
        audited = finish(http, http.post(f"{base}/audit", json=settings))
        assert audited["progress"]["audit_retrain"]["done"] == audited["progress"]["audit_retrain"]["total"]
        verdict = http.get(f"{base}/audit").json()
        assert verdict["settings"]["num_retrained"] == 2
        result = http.get(f"{base}/artifacts/{audited['folder']}/result.json").json()
        assert result["verdict"] == verdict["verdict"]
