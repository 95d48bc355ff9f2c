"""The whole way through, for real: a Ray head, the service as a process, a search over REST, and the service killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.client import ApiError, Client
from api.schemas import Search
from api.states import SearchState
from cluster.jobs import job_state
from cluster.local import RayHead, free_ports, ray_head, started, tail
from nas.study import find_trials, open_storage
from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.synthetic import write_isic_folder

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

JOB: dict[str, Any] = {
    "name": "e2e",
    "data": {"name": "lesions", "image_size": [48, 48]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1, 2], "decoder_depths": [1, 1, 1]},
    "supernet": {"epochs": 2, "batch_size": 8, "t_max": 2, "num_val_architectures": 1},
    "search": {"searcher": "evolution", "objectives": ["dice", "specificity"], "num_trials": 10, "population_size": 4,
               "num_parents": 2, "num_mutations": 2, "num_crossovers": 1, "random_baseline": True},
    "retrain": {"epochs": 2, "batch_size": 8, "t_max": 2},
    "resources": {"search": {"num_workers": 1}},  # several: tests/cluster/test_driver.py
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set in it, on disk in the layout that users have."""
    folder = tmp_path_factory.mktemp("service")
    sizes = SyntheticConfig(num_train=16, num_val=4, num_search=4, num_test=6)
    write_isic_folder(DataConfig(image_size=(64, 60), synthetic=sizes), folder / "data" / "lesions")
    return folder


@pytest.fixture(scope="module")
def head(place: Path) -> Iterator[RayHead]:
    with ray_head(num_cpus=2, log=place / "ray.log") as running:
        yield running


class Service:
    """The service as a process, which can be killed and started again on the same port."""

    def __init__(self, place: Path, head: RayHead) -> None:
        self._port = free_ports(1)[0]
        self._place = place
        self._environment = head.environment | {"SLICEMAMBA_CACHE": str(place / "cache"), "SLICEMAMBA_MAX_RUNNING": "8"}
        self._command = [
            *(sys.executable, "-m", "api.cli", "serve", "--port", str(self._port), "--ray-address", head.dashboard),
            *("--runs-dir", str(place / "runs"), "--data", str(place / "data")),
        ]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        self.client = Client(f"http://127.0.0.1:{self._port}")

    def start(self) -> None:
        log = self._place / f"api-{len(self._processes)}.log"
        process = self._stack.enter_context(started(self._command, environment=self._environment, log=log))
        self._processes.append(process)
        deadline = time.monotonic() + 60
        while "serving on" not in log.read_text():
            assert process.poll() is None, tail(log)
            assert time.monotonic() < deadline, tail(log)
            time.sleep(0.1)

    def kill(self) -> None:
        self._processes[-1].send_signal(signal.SIGKILL)
        self._processes[-1].wait()

    def stop(self) -> None:
        self.client.close()
        self._stack.close()


@pytest.fixture(scope="module")
def service(place: Path, head: RayHead) -> Iterator[Service]:
    running = Service(place, head)
    running.start()
    yield running
    running.stop()


def wait_until(client: Client, search_id: str, condition: Callable[[Search], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition(client.get(search_id)):
        assert time.monotonic() < deadline, client.get(search_id)
        time.sleep(0.2)


@pytest.mark.timeout(900)
def test_search_survives_a_killed_service_and_ends_with_its_results(service: Service, place: Path) -> None:
    client = service.client
    search = client.submit(JOB)
    # The service dies while the supernet is trained; the driver goes on without it.
    wait_until(client, search.id, lambda seen: "supernet" in seen.progress)
    service.kill()
    service.start()

    assert [found.id for found in client.list().searches] == [search.id]
    ended = client.wait(search.id)
    assert ended.state is SearchState.SUCCEEDED, client.logs(search.id)

    target = place / "downloaded"
    client.download(search.id, target)
    result = json.loads((target / "result.json").read_text())
    trials = client.trials(search.id).trials
    assert result["trials"] == {"COMPLETED": JOB["search"]["num_trials"]}
    assert len({trial.architecture for trial in trials}) == len(trials) == JOB["search"]["num_trials"]
    front = client.pareto(search.id).trials
    assert [trial.number for trial in front] == [row["number"] for row in result["pareto"]]
    # The best that differs measurably: on so few images a slightly higher score may be a tie.
    assert result["best"]["metrics"]["dice"] == front[0].metrics["dice"]
    assert set(result["fixed"]) == {"2x2", "2x4", "4x2", "4x4"}
    assert result["random"]["best"]["metrics"]["dice"] > 0
    assert result["retrained"]["architecture"] == result["best"]["architecture"]
    assert set(result["retrained"]["scores"]) == {"search", "test"}
    assert set(result["baselines"]["unet"]["scores"]) == {"search", "test"}
    assert result["baselines"]["unet"]["sentence"] in result["findings"]
    for name in ("pareto.png", "slicing.png", "predictions/predictions.png"):
        with Image.open(target / name) as picture:
            assert min(picture.size) > 100
    # More trials: none is evaluated again, and what is trained is the winner of all of them.
    client.extend(search.id, 14)
    extended = client.wait(search.id)
    assert extended.state is SearchState.SUCCEEDED, client.logs(search.id)
    assert extended.job_id == f"{search.id}-2"
    more = client.trials(search.id).trials
    assert [trial.architecture for trial in more[: len(trials)]] == [trial.architecture for trial in trials]
    assert len({trial.architecture for trial in more}) == len(more) == 14
    longer = client.result(search.id)
    assert longer["retrained"]["architecture"] == longer["best"]["architecture"]
    assert len(longer["retrained"]["epochs"]) == JOB["retrain"]["epochs"]
    # The study that REST reads is Optuna's own, readable without this project.
    assert len(find_trials(open_storage(target / "search.journal"), "random")) == JOB["search"]["num_trials"]


@pytest.mark.timeout(600)
def test_cancelled_search_ends_and_leaves_no_job(service: Service, head: RayHead) -> None:
    client = service.client
    search = client.submit(JOB | {"name": "to cancel", "supernet": {**JOB["supernet"], "epochs": 500}})
    wait_until(client, search.id, lambda seen: seen.state is SearchState.RUNNING)
    client.cancel(search.id)
    assert client.wait(search.id).state is SearchState.CANCELLED
    state = job_state(head.dashboard, client.get(search.id).job_id or "")
    assert state is not None
    assert state.ended


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"name": "lesion"}}, "lesions"),
        ({"search": {**JOB["search"], "objectives": ["speed"]}}, "latency_ms"),
        ({"space": {"choices": ["0x2", "2x2"]}}, "both numbers 1 or more"),
        ({"data": {"name": "lesions", "root": "/etc"}}, "must not contain its folder"),
        ({"ray": {"address": "ray://10.0.0.1:10001"}}, "unknown field"),
    ],
)
def test_bad_request_is_told_before_anything_runs(service: Service, change: dict[str, Any], says: str) -> None:
    before = len(service.client.list().searches)
    with pytest.raises(ApiError, match=says) as refused:
        service.client.submit(JOB | change)
    assert refused.value.status == 422
    assert len(service.client.list().searches) == before


@pytest.mark.parametrize("fault", ["broken image", "missing mask"])
def test_faulty_data_is_told_with_the_file_before_anything_is_trained(
    service: Service, place: Path, fault: str
) -> None:
    """What the listing shows refuses the request; what is found by decoding ends the search in its check."""
    name = fault.replace(" ", "-")
    folder = place / "data" / name
    sizes = SyntheticConfig(num_train=3, num_val=2, num_search=2, num_test=2)
    write_isic_folder(DataConfig(image_size=(40, 40), synthetic=sizes), folder)
    image = sorted((folder / "train" / "images").iterdir())[0]
    mask = sorted((folder / "train" / "masks").iterdir())[0]
    job = JOB | {"data": {"name": name}}
    if fault == "missing mask":
        mask.unlink()
        with pytest.raises(ApiError) as refused:
            service.client.submit(job)
        assert refused.value.status == 422
        assert image.stem in str(refused.value)
        return
    image.write_bytes(image.read_bytes()[:200])
    ended = service.client.wait(service.client.submit(job).id)
    assert (ended.state, ended.phase) == (SearchState.FAILED, "check")
    assert image.name in (ended.error or "")
    assert str(place) not in (ended.error or "")
