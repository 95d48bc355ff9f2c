"""The dashboard in a real browser, on an app whose cluster lives in memory: submit, watch, front, trial, cancel."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dashboard_helpers import fill_study, finished, open_page, shoot, under_way
from service_helpers import BODY, Bench, served, write_study

from api.server.specs import EXAMPLE
from cluster.jobs import JobState
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunStatus
from slicemamba.documents import read_yaml

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e
PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Bench]]:
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "data").mkdir()
    bench = Bench(folder / "runs")
    with pytest.MonkeyPatch.context() as patch, served(bench) as url:
        patch.setenv("SLICEMAMBA_DATA", str(folder / "data"))  # sets that lie here otherwise change what a form says
        yield url, bench


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as page:
        yield page


def test_from_submission_to_a_trial_and_the_end(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    page.goto(url)
    page.get_by_text("No search yet").wait_for()
    page.get_by_role("link", name="New search").first.click()
    page.get_by_label("Start from").select_option("isic2018")
    page.get_by_label("Data set").select_option("synthetic")
    page.get_by_label("Name", exact=True).fill("lesions <b>first</b>")
    assert page.evaluate(  # in rows, none over its neighbour
        "[...document.querySelectorAll('.field')].every((f) => [...f.children].every("
        "(c) => c.getBoundingClientRect().right <= f.getBoundingClientRect().right + 1))"
    )
    page.get_by_text("architectures to evaluate, including the fixed slicings").wait_for()
    page.get_by_text("a name for people").wait_for()
    page.get_by_label("Candidates").fill("0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("greater than 0; got 0").wait_for()
    shoot(page, "form")
    page.get_by_label("Candidates").fill("120")
    page.get_by_text("greater than 0; got 0").wait_for(state="detached")  # nothing that was mended stays red
    page.get_by_role("button", name="Check without starting").click()
    page.get_by_text("This can run: 120 evaluations").wait_for()
    page.locator(".cost").get_by_text("of worker time").wait_for()
    assert "120 evaluations" in page.locator(".cost").inner_text()
    shoot(page, "form-cost")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/#/s/**")
    search_id = page.url.rpartition("/")[2]
    assert bench.get(search_id)["name"] == "lesions <b>first</b>"  # as text: no tag has become one
    page.get_by_text("None yet: the supernet is trained first.").wait_for()
    assert page.get_by_text("No completed trial yet.").count() == 2
    assert page.locator(".plot .main-svg").count() == 0, "no axes around nothing"
    under_way(bench, search_id)
    fill_study(bench, search_id, "search", 90, seed=0)
    fill_study(bench, search_id, "random", 90, seed=1)

    page.locator(".chip.RUNNING").first.wait_for()
    tile = page.locator(".tile", has_text="left, until about")
    tile.wait_for()
    assert tile.inner_text().startswith("1 h "), "thirty trials of two minutes, the retraining and the test"
    page.get_by_text("Trials (90)").wait_for()
    page.locator(".plot .main-svg").first.wait_for()
    rows = page.locator("tr", has_text="best fixed slicing")
    assert "best of random search" in rows.locator("xpath=following-sibling::tr").first.inner_text()
    page.get_by_text("Log of the driver").click()
    page.get_by_text("epoch 12 of 30").wait_for()
    assert page.get_by_text("<script>alert(1)</script>").count() == 1
    best = bench.http.get(f"/v1/searches/{search_id}/pareto").json()["trials"][0]
    first = page.locator("table", has=page.get_by_role("button", name="number")).locator("tbody tr").first
    assert first.locator("td").first.inner_text() == f"{best['number']} ★"  # sorted by the first objective
    page.get_by_text("More figures").click()
    for shown in (
        "hypervolume over time",
        "Time line of evaluations",
        "Dot plot with intervals",
        "Parallel coordinates",
    ):
        page.get_by_role("figure", name=shown).locator(".main-svg").first.wait_for()
    shoot(page, "search")
    page.get_by_label("what is limited").select_option("latency_ms")
    page.get_by_role("textbox", name="limit").fill("26")
    page.get_by_role("button", name="Pick").click()
    picked = bench.http.get(f"/v1/searches/{search_id}/pick", params={"max": "latency_ms=26"}).json()
    said = page.get_by_role("status").filter(has_text=f"Trial {picked['trial']['number']}:")
    said.wait_for()
    assert f"beside the best, trial {picked['best']}" in said.inner_text() or "the best of all" in said.inner_text()
    page.get_by_role("textbox", name="limit").fill("1")
    page.get_by_role("button", name="Pick").click()
    page.get_by_text("no member of the frontier is within latency_ms ≤ 1").wait_for()
    shoot(page, "picked")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 91

    first.get_by_role("link").click()
    page.get_by_text("image_0").first.wait_for()
    assert page.locator(".bars i").count() == 18
    assert page.get_by_text(best["architecture"]).count() == 1
    shoot(page, "trial")

    page.get_by_role("link", name="← Search").click()
    page.get_by_role("button", name="Pause").click()
    page.locator(".chip.PAUSED").first.wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the search").click()
    page.locator(".chip.CANCELLING, .chip.CANCELLED").first.wait_for()


def test_searches_are_found_compared_and_deleted_together(page: Page, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs")
    with served(bench) as url:
        ids = [finished(bench, name, dice, team=name[-3:]) for name, dice in (("polyps one", 0.7), ("moles two", 0.8))]
        bench.submit({**BODY, "name": "to be kept"})
        page.goto(url)
        page.get_by_text("Dice 0.8").wait_for()
        find = page.get_by_role("searchbox", name="Find")
        find.fill("ONE")
        page.get_by_text("moles two").wait_for(state="detached")
        assert page.get_by_text("polyps one").is_visible()
        find.fill("nothing of this kind")
        page.get_by_text("No such search").wait_for()
        find.fill("")
        names = page.locator("tbody td:nth-child(2) a")
        for button, order in (("Name", ["moles two", "polyps one", "to be kept"]), ("Created ▼", None)):
            page.get_by_role("button", name=button.rstrip(" ▼")).click()
            page.get_by_role("columnheader", name=re.compile(button)).and_(page.locator("[aria-sort]")).wait_for()
            assert names.all_text_contents() == (order or ["to be kept", "moles two", "polyps one"])
        for name in ("polyps one", "moles two"):
            page.get_by_role("checkbox", name=f"Choose {name}").check()
        page.wait_for_timeout(3500)  # a refresh later both are still chosen, and the focus is where it was
        assert page.get_by_text("2 chosen").is_visible()
        assert page.evaluate("document.activeElement.dataset.key") == f"tick {ids[1]}"
        shoot(page, "list-chosen")
        page.get_by_role("link", name="Compare").click()
        page.locator(".plot .main-svg").first.wait_for()
        row = page.get_by_role("row", name="moles two").get_by_role("cell").all_text_contents()
        assert row[3:] == ["Dice ↑ 0.8", "0.82", "–", "2.5", "300 M", "80 k", "–"]
        shoot(page, "compared")
        page.get_by_role("link", name="Searches").click()
        for name in ("polyps one", "moles two"):
            page.get_by_role("checkbox", name=f"Choose {name}").check()
        page.get_by_role("button", name="Delete").click()
        page.locator("#ask-ok").click()
        page.get_by_text("moles two").wait_for(state="detached")
        assert page.get_by_text("to be kept").is_visible()
        assert [one["name"] for one in bench.http.get("/v1/searches").json()["searches"]] == ["to be kept"]


def test_a_warning_is_shown_in_the_list_and_on_the_page(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    search_id = bench.submit({**BODY, "name": "warned"})
    under_way(bench, search_id)
    warning = "the cluster is too small; waiting up to 600 s for it to grow: resources.train needs a worker with a GPU"
    bench.drive(search_id, warning=warning)
    page.goto(url)
    page.locator("td .wait").get_by_text(warning).wait_for()
    shoot(page, "list-warning")
    page.goto(f"{url}/#/s/{search_id}")
    page.locator(".finding.wait").get_by_text(warning).wait_for()
    shoot(page, "search-warning")
    bench.http.post(f"/v1/searches/{search_id}/cancel")


def test_page_follows_what_is_measured_and_shows_what_is_asked_for(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    body = {**BODY, "name": "for Dice alone", "search": {"objectives": ["dice"], "num_trials": 8}}
    search_id, later = bench.submit(body), bench.submit(body)
    phases, axis = page.locator(".phases"), page.get_by_role("combobox", name="x", exact=True)
    page.goto(f"{url}/#/s/{search_id}")
    page.get_by_text("None yet: the supernet is trained first.").wait_for()
    assert axis.input_value() == "latency_ms"
    under_way(bench, search_id)
    bench.drive(search_id, phase="survey", progress={"survey": Progress(done=3, total=32, unit="architectures")})
    phases.get_by_text("3 / 32 architectures").wait_for()
    assert phases.get_by_text("Survey").is_visible()
    rows: list[dict[str, float] | None] = [{"dice": 0.5, "hd95": 2.0, "flops": 2e6}, None]
    study = write_study(bench.folder(search_id), [*rows, {"dice": 0.6, "hd95": 1.0, "flops": 3e6}])
    study.start(study.space.decode([1, 1, 0, 0]), origin="evolution", asked_after=3)
    page.get_by_text("Trials (4)").wait_for()
    page.locator(".plot .main-svg").first.wait_for()
    assert axis.input_value() == "flops"
    assert axis.locator("option").all_text_contents() == ["Dice", "HD95", "FLOPs"]
    axis.select_option("dice")
    numbers = page.locator("table", has=page.get_by_role("button", name="number")).locator("tbody td:first-child a")
    for state, expected in (("RUNNING", ["3"]), ("COMPLETED", ["2", "0"]), ("FAILED", ["1"]), ("PENDING", [])):
        page.get_by_label("State").select_option(state)
        page.get_by_text(f"Trials ({len(expected)})").wait_for()
        assert numbers.all_text_contents() == expected
    assert axis.input_value() == "dice", "what was chosen stays while it is measured"
    assert page.locator("#lost").is_hidden()

    page.goto(f"{url}/#/compare/{search_id},{later}")
    axis.wait_for()
    assert axis.input_value() == "flops"
    write_study(bench.folder(later), [{"dice": 0.4, "hd95": 3.0}])
    axis.locator("option[value=flops]").wait_for(state="detached")
    assert axis.input_value() == "hd95"
    assert page.locator("#lost").is_hidden()
    for one in (search_id, later):
        bench.http.post(f"/v1/searches/{one}/cancel")


def test_searches_that_wait_show_their_place(page: Page, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", max_running=1)
    ids = [bench.submit({**BODY, "name": name}) for name in ("first", "second", "third")]
    bench.round()
    with served(bench, lifespan="off") as url:
        page.goto(url)
        page.locator("tr", has_text="third").get_by_text("place 2").wait_for()
        shoot(page, "list-queue")
        page.goto(f"{url}/#/s/{ids[1]}")
        page.get_by_text("waiting in the queue for a place on the cluster · place 1 in the queue").wait_for()


def open_form(page: Page, url: str, path: str = "new") -> None:
    page.goto(f"{url}/#/{path}")
    page.locator(".cost").get_by_text("of worker time").wait_for()


def unfold(page: Page, part: str) -> None:
    page.locator("summary").filter(has_text=re.compile(f"^{part}$")).and_(page.locator("summary:visible")).click()


def submitted(page: Page, bench: Bench) -> dict[str, Any]:
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/#/s/**")
    return dict(bench.get(page.url.rpartition("/")[2])["spec"])


def test_form_begins_with_a_search_that_a_laptop_can_do(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    open_form(page, url)
    shoot(page, "form-first")
    assert page.get_by_label("Epochs of the supernet").is_visible()
    assert not page.get_by_label("learning_rate").first.is_visible()
    spec = submitted(page, bench)
    laptop = read_yaml(Path("laptop"))
    assert (spec["recipe"], spec["search"]["num_trials"]) == ("scratch", laptop["search"]["num_trials"])
    assert spec["space"]["choices"] == laptop["space"]["choices"]
    assert spec["search"]["objectives"] == laptop["search"]["objectives"]
    assert spec["retrain"]["learning_rate"] == 2e-3, "the recipe's, which the form shows and does not send"


def test_preset_is_put_in_and_a_search_of_many_hours_is_asked_about(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    open_form(page, url)
    page.get_by_label("Start from").select_option("kvasir")
    page.get_by_text("The estimate appears once all options are valid").wait_for()  # the set is not here
    page.get_by_label("Data set").select_option("synthetic")
    page.locator(".cost").get_by_text("of worker time").wait_for()
    unfold(page, "Advanced")
    unfold(page, "resources")
    unfold(page, "train")
    train = page.get_by_role("group", name="resources.train")
    assert train.get_by_label("gpus").input_value() == "1"
    train.get_by_label("gpus").fill("0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("of worker time.", exact=False).and_(page.locator("#ask-text")).wait_for()
    page.get_by_role("button", name="Back").click()
    assert page.get_by_role("heading", name="New search").is_visible()
    page.get_by_role("button", name="Submit").click()
    page.locator("#ask-ok").click()
    page.wait_for_url("**/#/s/**")
    spec = bench.get(page.url.rpartition("/")[2])["spec"]
    assert (spec["supernet"]["epochs"], spec["search"]["num_trials"]) == (300, 1000)


def test_parts_that_can_be_left_out_are_switched(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    open_form(page, url)
    page.get_by_role("checkbox", name="miou").check()
    page.get_by_role("checkbox", name="flops").uncheck()
    unfold(page, "Advanced")
    for part in ("search", "racing", "retrain"):
        unfold(page, part)
    page.get_by_label("with racing").check()
    page.get_by_label("with retrain").uncheck()
    shoot(page, "form-advanced")
    spec = submitted(page, bench)
    assert spec["search"]["objectives"] == ["dice", "miou"]
    assert spec["search"]["racing"] is not None
    assert spec["retrain"] is None


def test_earlier_search_is_taken_over_and_changed(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    earlier = bench.submit({**EXAMPLE, "name": "to be copied", "retrain": None})
    page.goto(f"{url}/#/s/{earlier}")
    page.get_by_role("link", name="Copy to a new search").click()
    page.locator(".cost").get_by_text("of worker time").wait_for()
    assert page.get_by_label("Start from").locator("option:checked").inner_text() == "the search “to be copied”"
    page.get_by_label("Candidates").fill("7")
    spec, before = submitted(page, bench), bench.get(earlier)["spec"]
    assert spec["search"].pop("num_trials") == 7
    assert before["search"].pop("num_trials") == 24
    assert spec == before


def test_file_is_put_in_or_says_what_is_wrong(page: Page, place: tuple[str, Bench], tmp_path: Path) -> None:
    url, bench = place
    open_form(page, url)
    (tmp_path / "mine.yaml").write_text("kind: search\nname: from a file\nrecipe: scratch\nsearch: {num_trial: 3}\n")
    chosen = page.locator("input[type=file]")
    chosen.set_input_files(tmp_path / "mine.yaml")
    page.get_by_text("did you mean 'num_trials'").wait_for()
    (tmp_path / "mine.yaml").write_text("name: [\n")
    chosen.set_input_files(tmp_path / "mine.yaml")
    page.get_by_text("not valid YAML").wait_for()
    (tmp_path / "mine.yaml").write_text(
        "kind: search\nname: from a file\nsearch: {num_trials: 3}\nsupernet: {epochs: 2}\n"
    )
    chosen.set_input_files(tmp_path / "mine.yaml")
    page.get_by_text("mine.yaml is put in").wait_for()
    assert page.get_by_label("Name", exact=True).input_value() == "from a file"
    page.get_by_label("Epochs of the chosen network").fill("3")
    spec = submitted(page, bench)
    assert (spec["search"]["num_trials"], spec["supernet"]["epochs"], spec["retrain"]["epochs"]) == (3, 2, 3)


def test_what_the_images_ask_for_is_proposed_with_reasons(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    open_form(page, url)
    page.get_by_label("Image size").fill("41, 96")
    page.get_by_role("button", name="Propose from the data").click()
    page.get_by_role("heading", name="Proposed from the data").wait_for()
    page.get_by_text("steps an epoch of 64 samples").first.wait_for()
    shoot(page, "form-proposed")
    assert page.get_by_label("Image size").input_value() == "48, 96"
    spec = submitted(page, bench)
    assert spec["retrain"]["batch_size"] == 8


@pytest.mark.parametrize("path", ["s/s-00000000000000000000000000", "s/s-00000000000000000000000000/t/3"])
def test_what_does_not_exist_is_told_in_the_page(page: Page, place: tuple[str, Bench], path: str) -> None:
    url, _ = place
    page.goto(f"{url}/#/{path}")
    page.get_by_role("heading", name="Not found").wait_for()
    page.get_by_text("there is no search 's-00000000000000000000000000'").wait_for()
    page.get_by_role("link", name="All searches").click()
    page.get_by_role("heading", name="Searches").wait_for()


def test_a_service_that_went_away_is_told_for_as_long_as_it_is(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    search_id = bench.submit({**BODY, "name": "watched"})
    page.goto(f"{url}/#/s/{search_id}")
    page.get_by_role("heading", name="watched").wait_for()
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_text("the service does not answer; retrying. The page may be out of date.").wait_for()
    assert page.get_by_role("heading", name="watched").is_visible()
    page.unroute("**/v1/**")
    page.locator("#lost").wait_for(state="hidden")


def test_form_that_was_left_while_it_loads_does_not_replace_the_next_page(page: Page, place: tuple[str, Bench]) -> None:
    url, _ = place
    held: list[Any] = []
    page.route("**/v1/datasets", lambda route: held.append(route))
    page.goto(f"{url}/#/new")
    while not held:
        page.wait_for_timeout(10)
    page.get_by_role("link", name="Searches").click()
    page.get_by_role("heading", name="Searches").wait_for()
    with page.expect_response("**/v1/datasets"):
        held.pop().continue_()
    page.wait_for_timeout(200)  # for what should not happen
    page.unroute("**/v1/datasets")
    assert page.get_by_role("heading", name="Searches").is_visible()
    page.get_by_role("navigation").get_by_role("link", name="New search").click()
    page.get_by_role("heading", name="New search").wait_for()


def test_answer_to_a_page_that_was_left_does_not_speak_for_the_next_one(page: Page, place: tuple[str, Bench]) -> None:
    url, _ = place
    held: list[Any] = []
    page.route("**/v1/searches*", lambda route: held.append(route))
    page.goto(f"{url}/#/new")
    page.get_by_role("navigation").get_by_role("link", name="Searches").click()
    while not held:
        page.wait_for_timeout(10)
    page.route("**/v1/searches/**", lambda route: held.append(route))
    page.goto(f"{url}/#/s/s-00000000000000000000000000/t/3")
    while len(held) < 5:
        page.wait_for_timeout(10)
    with page.expect_response("**/v1/searches*"):
        held.pop(0).continue_()
    page.wait_for_timeout(200)  # the list's page has its answer, after it was left
    page.unroute("**/v1/searches/**")
    for route in held:
        route.continue_()
    page.unroute("**/v1/searches*")
    page.get_by_role("heading", name="Not found").wait_for()


def end_job(bench: Bench, job_id: str, search_id: str) -> None:
    """The cluster takes a job up and ends it well, with a picture and its list."""
    bench.jobs.states[job_id] = JobState.RUNNING
    folder = RunFolder(bench.folder(search_id).path / "jobs" / job_id)
    row = {"image": "image_003", "dice": 0.4321, "path": f"jobs/{job_id}/00_image_003.png"}
    folder.write_json("figures.json", [row])  # makes the folder, if the service has not launched the job yet
    (folder.path / "00_image_003.png").write_bytes(PIXEL)
    folder.write_json("result.json", {"kind": "figures"})
    moment = datetime.now(timezone.utc)
    done = {"figures": Progress(done=18, total=18, unit="images")}
    folder.write_status(RunStatus(state="SUCCEEDED", phase="figures", progress=done, updated_at=moment))
    bench.jobs.states[job_id] = JobState.SUCCEEDED


def test_what_follows_a_search_is_started_shown_and_cancelled(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    search_id = bench.submit({**BODY, "name": "finished"})
    under_way(bench, search_id)
    write_study(bench.folder(search_id), [{"dice": 0.5, "hd95": 1.0}, {"dice": 0.25, "hd95": 0.5}])
    (bench.folder(search_id).path / "supernet").mkdir()
    bench.folder(search_id).write_json("supernet/config.json", {})
    scores = {"test": {"dice": 0.701, "miou": 0.54, "hd95": 7.25}}
    chosen = {"scores": scores, "intervals": {"test": {"dice": [0.65, 0.75]}}, "flops": 317_400_000, "params": 79_270}
    unet = {"title": "U-Net", "scores": {"test": {"dice": 0.804}}, "flops": 1.556e9, "params": 1_950_000}
    said = "U-Net is better than the chosen network: Dice on test 70.1 % …"
    result = {
        "best": {"number": 0},
        "findings": [said],
        "retrained": chosen,
        "baselines": {"unet": unet},
        "trivial": {"test": {}},
    }
    bench.folder(search_id).write_json("result.json", result)
    (bench.folder(search_id).path / "training.png").write_bytes(PIXEL)
    members = [{"number": 0, "intervals": {"dice": {"value": 0.5, "low": 0.4, "high": 0.6}}}]
    verdict = {"word": "weak", "sentence": "Ties among the best."}
    bench.folder(search_id).write_json("audit.json", {"verdict": verdict, "front": {"members": members}})
    bench.drive(search_id, "SUCCEEDED")
    page.goto(f"{url}/#/s/{search_id}/t/0")
    page.get_by_role("button", name="Export").click()
    page.get_by_text("This slicing is not trained yet. Retrain it first").wait_for()

    page.get_by_role("button", name="Draw predictions").click()
    page.locator("tbody").get_by_text("figures").wait_for()
    job = bench.http.get(f"/v1/searches/{search_id}/jobs").json()["jobs"][0]
    assert (job["kind"], job["trial"]) == ("figures", 0)
    end_job(bench, job["id"], search_id)
    picture = page.get_by_role("img", name="prediction of image_003; Dice 0.432")
    picture.wait_for()
    assert page.get_by_text("white where both agree, blue where it marks too much, yellow where it misses").is_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    page.get_by_text("Show", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="00_image_003.png").click()
    assert download.value.path().read_bytes() == PIXEL

    page.get_by_role("button", name="Retrain").click()
    page.get_by_label("Retrain this slicing").last.fill("3")
    page.locator("#ask-ok").click()
    page.locator("tbody").get_by_text("retrain", exact=True).wait_for()
    job = bench.http.get(f"/v1/searches/{search_id}/jobs").json()["jobs"][0]
    assert bench.http.get(f"/v1/jobs/{job['id']}").json()["spec"]["retrain"]["epochs"] == 3
    shoot(page, "trial-jobs")
    page.get_by_role("button", name=f"Cancel retrain {job['id']}").click()
    page.locator(".chip.CANCELLING, .chip.CANCELLED").first.wait_for()

    page.get_by_role("link", name="← Search").click()
    page.get_by_text(said).wait_for()
    assert page.title() == "finished · SliceMamba NAS"
    row = page.get_by_role("row", name="U-Net, trained for as long")
    assert row.get_by_role("cell").all_text_contents()[1:] == ["0.804", "–", "–", "1.56 G", "1.95 M"]
    chosen_row = page.get_by_role("row", name="chosen network, retrained").get_by_role("cell").all_text_contents()
    assert chosen_row[1:] == ["0.701 (0.65 … 0.75)", "0.54", "7.25", "317 M", "79.3 k"]
    retrained = bench.folder(search_id).path / "retrained"
    retrained.mkdir()
    (retrained / "weights.safetensors").write_text("weights of the network")
    slicing = bench.http.get(f"/v1/searches/{search_id}/trials/0").json()["architecture"]
    bench.folder(search_id).write_json("retrained/config.json", {"architecture": slicing})
    with page.expect_download() as download:
        page.get_by_role("button", name="weights.safetensors").click()
    assert download.value.path().read_text() == "weights of the network"
    page.get_by_role("button", name="Export for other programs").click()
    page.locator("tbody").get_by_text("export", exact=True).wait_for()
    page.get_by_text("More figures").click()
    drawn = page.get_by_role("img", name="Loss and validation score of each training")
    drawn.wait_for()
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1
    page.get_by_role("button", name="Audit").click()
    page.locator("#ask-input").fill("9")
    page.get_by_role("button", name="Back").click()  # nothing is started
    page.get_by_role("button", name="Audit").click()
    page.locator("#ask-input").fill("4")
    page.locator("#ask-input").press("Enter")
    page.locator("tbody").get_by_text("audit", exact=True).wait_for()
    page.get_by_text("Audit: weak. Ties among the best.").wait_for()
    page.locator(".plot .errorbar path").first.wait_for(state="attached")
    assert page.get_by_role("button", name="Audit", exact=True).is_disabled()
    shoot(page, "search-jobs")


def test_job_that_goes_on_closes_and_unfocuses_nothing(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    search_id = finished(bench, "followed", 0.7)
    bench.folder(search_id).write_json("supernet/config.json", {})
    trial = f"/v1/searches/{search_id}/trials/0"
    done, runs = (bench.http.post(f"{trial}/{kind}").json()["id"] for kind in ("figures", "retrain"))
    end_job(bench, done, search_id)
    folder = RunFolder(bench.folder(search_id).path / "jobs" / runs)

    def go_on(epoch: int) -> None:
        bench.jobs.states[runs] = JobState.RUNNING
        progress = {"retrain": Progress(done=epoch, total=50, unit="epochs")}
        moment = datetime.now(timezone.utc)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_status(RunStatus(state="RUNNING", phase="retrain", progress=progress, updated_at=moment))
        page.get_by_text(f"{epoch} / 50 epochs").wait_for()

    page.goto(f"{url}/#/s/{search_id}")
    page.get_by_text("Show", exact=True).click()
    picture = page.get_by_role("button", name="00_image_003.png")
    for control in (page.get_by_role("button", name=f"Cancel retrain {runs}"), picture):
        go_on(7)
        control.focus()
        key = control.get_attribute("data-key")
        go_on(8)
        assert page.evaluate("document.activeElement.dataset.key") == key
        assert picture.is_visible()
    bench.http.post(f"/v1/jobs/{runs}/cancel")


def test_controls_say_what_they_are_and_nothing_offers_to_send_a_plot_away(
    page: Page, place: tuple[str, Bench]
) -> None:
    """What a screen reader says of each control, also of those in parts of the page that are closed yet."""
    url, bench = place
    search_id = bench.submit({**BODY, "name": "to be heard"})
    under_way(bench, search_id)
    fill_study(bench, search_id, "search", 30, seed=0)
    for path, shown in (("/", "to be heard"), ("/new", "Submit"), (f"/s/{search_id}", "Trials (30)"), (
        f"/s/{search_id}/t/0", "Trial 0 of")):  # fmt: skip
        page.goto(f"{url}/#{path}")
        page.get_by_text(shown).first.wait_for()
        assert page.locator("main h1").count() == 1
        assert page.evaluate(NAMELESS) == []
    page.goto(f"{url}/#/s/{search_id}")
    page.locator(".plot .main-svg").first.wait_for()
    titles = page.locator(".modebar-btn").evaluate_all("buttons => buttons.map((b) => b.dataset.title)")
    assert "Zoom" in titles
    assert not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]


NAMELESS = """() => [...document.querySelectorAll("main :is(a, button, input, select, summary, progress)")]
  .filter((e) => !e.closest(".plot"))
  .filter((e) => !(e.ariaLabel || e.textContent || [...(e.labels ?? [])].map((l) => l.textContent).join("")).trim()
    || (e.hasAttribute("aria-describedby") && !document.getElementById(e.getAttribute("aria-describedby")))
    || [...e.attributes].some((a) => /^aria[^-]/.test(a.name)))
  .map((e) => e.outerHTML.slice(0, 120))"""


def test_report_runs_its_scripts_where_they_reach_nothing(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    search_id = bench.submit({**BODY, "name": "reported"})
    under_way(bench, search_id)
    bench.folder(search_id).write_json("result.json", {"best": 0.9})
    bench.drive(search_id, "SUCCEEDED")
    script = f"""
        const tried = async () => {{
          const found = [origin, String(window.opener)];
          try {{ found.push(String(localStorage.theme)); }} catch {{ found.push("no storage"); }}
          try {{ found.push((await fetch("{url}/v1/searches")).status); }} catch {{ found.push("no service"); }}
          document.body.append(found.join(", "));
        }};
        tried();"""
    report = f"<!doctype html><h1>Report ä</h1><script>{script}</script>"
    (bench.folder(search_id).path / "report.html").write_text(report, encoding="utf-8")
    page.goto(f"{url}/#/s/{search_id}")
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Report").click()
    shown = popup.value
    shown.get_by_text("Report ä").wait_for()
    shown.get_by_text("null, null, no storage, no service").wait_for()
    shown.close()


def test_list_on_a_phone_in_the_dark(page: Page, place: tuple[str, Bench]) -> None:
    url, bench = place
    for i in range(30):
        bench.submit({**BODY, "name": f"search {i}", "labels": {"team": "a"}})
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{url}/#/")
    page.get_by_role("link", name="search 29").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # tables scroll, the page does not
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("link", name="search 2", exact=True).wait_for()
    shoot(page, "list-phone-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_page_asks_for_the_token_once(page: Page, tmp_path: Path) -> None:
    from api.server.tokens import Scope

    bench = Bench(tmp_path / "runs", require_tokens=True)
    token = bench.context.tokens.create("Ada", Scope.READ)[1]
    with served(bench) as url:
        page.goto(url)
        page.get_by_role("textbox", name="Access token").fill(token)
        page.keyboard.press("Enter")  # as everyone does: it must not mean Back
        page.get_by_text("No search yet").wait_for()
        page.reload()
        page.get_by_text("No search yet").wait_for()


def test_question_about_a_token_does_not_answer_another(page: Page, tmp_path: Path) -> None:
    from api.server.tokens import Scope

    bench = Bench(tmp_path / "runs", require_tokens=True)
    (first, old), (_, new) = (bench.context.tokens.create(name, Scope.ADMIN) for name in ("Ada", "Grace"))
    search_id = bench.submit(Authorization=f"Bearer {old}")
    with served(bench, lifespan="off") as url:
        page.goto(f"{url}/#/s/{search_id}")
        page.get_by_role("textbox", name="Access token").fill(old)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancel this search?").wait_for()
        bench.context.tokens.revoke(first.id)
        page.get_by_role("textbox", name="Access token").fill(new)  # asked for by the next refresh
        page.keyboard.press("Enter")
        page.get_by_text("Access token").wait_for(state="hidden")
        page.wait_for_timeout(500)  # for what should not happen
        row = bench.context.service.find(search_id)
        assert row is not None
        assert row.state == "QUEUED"
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Cancel the search").click()
        page.locator(".chip.CANCELLING").first.wait_for()


def test_pages_may_run_their_own_scripts_only(bench: Bench) -> None:
    answer = bench.http.get("/")
    policy: dict[str, Any] = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "http" not in answer.text.replace("http-equiv", "")
    for name in ("main.js", "style.css", "icon.svg", "plotly.min.js"):
        assert bench.http.get(f"/static/{name}").status_code == 200
    for name in ("../main.py", "%2e%2e/main.py", "none.js"):
        assert bench.http.get(f"/static/{name}").status_code == 404
