"""A browser on an app whose cluster lives in memory, and searches for it to show."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from service_helpers import BODY, Bench, write_study

from cluster.jobs import JobState
from cluster.run_view import Progress
from nas.space import SearchSpace
from nas.study import Study

if TYPE_CHECKING:
    from playwright.sync_api import Page

SHOTS = os.environ.get("SLICEMAMBA_SCREENSHOTS")  # a folder, to look at the pages


@contextmanager
def open_page() -> Iterator[Page]:
    """A page that fails the test when a script of ours does, or when anything is asked of another server."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        pytest.skip("no Chromium; install the package chromium")
    faults: list[str] = []
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if "127.0.0.1" not in request.url else None)
        yield page
        browser.close()
    assert [fault for fault in faults if not fault.startswith(("blob:", "data:"))] == []


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(600)
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def fill_study(bench: Bench, search_id: str, kind: str, count: int, seed: int) -> None:
    """A study of the published space whose scores get better, with images' counts for its trials."""
    space = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 9, 2, 2, 2, 2, 1))
    folder = bench.folder(search_id)
    study = Study(folder.study_location, folder.study_name(kind), space, ("dice", "hd95"), "nsga2")
    rng = np.random.default_rng(seed)
    asked = [*space.fixed(), *(space.sample(rng) for _ in range(count - 4))]
    for i, architecture in enumerate(asked):
        number = study.start(architecture, origin="fixed" if i < 4 else "nsga2", asked_after=i).number
        if i % 17 == 9:
            study.fail(number, "RuntimeError: out of memory", ended_as=i)
            continue
        gain = 0.1 * (1 - np.exp(-i / 30)) * (kind == "search")
        dice = float(np.clip(0.72 + gain + 0.03 * rng.standard_normal(), 0, 1))
        metrics = {
            "miou": dice / (2 - dice),
            "dice": dice,
            "hd95": float(30 - 20 * dice + 2 * rng.standard_normal()),
            "latency_ms": 20 + i % 7.0,
        }
        study.complete(number, metrics, ended_as=i, seconds=0.8 + 0.1 * rng.random())
        hits = rng.integers(1, 900, size=(18, 1))
        counts = np.concatenate([hits, 1000 - hits, 1000 - hits, hits + 8000], axis=1)[:, None]
        target = folder.counts_path(kind, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target, counts=counts.astype(np.uint32), names=[f"image_{n:03d}" for n in range(18)])


def under_way(bench: Bench, search_id: str) -> None:
    """The cluster has taken the search up, and its driver is in the middle of it."""
    deadline = time.monotonic() + 20
    while bench.state(search_id) != "STARTING":
        assert time.monotonic() < deadline, bench.get(search_id)
        time.sleep(0.1)
    bench.jobs.states[search_id] = JobState.RUNNING
    bench.jobs.logs[search_id] = "phase supernet\nepoch 12 of 30: loss 0.412\nphase search\n<script>alert(1)</script>\n"
    progress = {
        "supernet": Progress(done=240, total=240, unit="steps", metrics={"loss": 0.41, "val_dice": 0.78}),
        "search": Progress(done=90, total=120, unit="trials", metrics={"front": 7, "best_dice": 0.86}),
    }
    images: dict[str, float] = {"train": 4, "val": 2, "search": 2, "test": 2}
    progress["check"] = Progress(done=10, total=10, unit="images", metrics=images)
    now = datetime.now(timezone.utc)
    progress |= {
        name: progress[name].model_copy(update={"seconds_per_unit": pace, "moved_at": now})
        for name, pace in {"supernet": 1.0, "search": 120.0}.items()
    }
    bench.drive(search_id, phase="search", progress=progress)


def finished(bench: Bench, name: str, dice: float, **labels: str) -> str:
    """A search that has ended with a network of this score."""
    search_id = bench.submit({**BODY, "name": name, "labels": labels})
    under_way(bench, search_id)
    write_study(bench.folder(search_id), [{"dice": dice, "hd95": 3.0}, {"dice": dice - 0.1, "hd95": 1.0}])
    chosen = {"scores": {"test": {"dice": dice + 0.02, "hd95": 2.5}}, "flops": 3e8, "params": 80_000}
    bench.folder(search_id).write_json("result.json", {"findings": [], "retrained": chosen})
    found = {"search": Progress(done=2, total=2, unit="trials", metrics={"front": 2, "best_dice": dice})}
    bench.drive(search_id, "SUCCEEDED", progress=found)
    return search_id
