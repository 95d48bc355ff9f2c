"""The dashboard for those who use no mouse, a screen reader or a phone: axe's rules on every page, and keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dashboard_helpers import SHOTS, fill_study, finished, open_page, shoot, under_way
from service_helpers import BODY, Bench, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e
MOST_TABS = 120  # the plots have buttons of their own
LOOKS = [("light", 1280), ("dark", 390)]
"""Both themes and both widths are seen by the rules; pictures are taken of all four."""
if SHOTS:
    LOOKS += [("dark", 1280), ("light", 390)]


@dataclass(frozen=True)
class Place:
    """A service with searches in all the states that look different; ``paths`` of its pages, and a text of each."""

    url: str
    bench: Bench
    paths: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as page:
        yield page


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    bench = Bench(tmp_path_factory.mktemp("accessibility") / "runs")
    with served(bench) as url:
        ids = [finished(bench, name, dice) for name, dice in (("first", 0.7), ("second", 0.8))]
        failed = bench.submit({**BODY, "name": "failed"})
        published = {"data": {"name": "synthetic", "image_size": [64, 64]}, "model": {"embed_dim": 8}}
        running = bench.submit({**BODY, **published, "name": "running"})
        under_way(bench, failed)
        bench.drive(failed, "FAILED", error="out of memory")
        under_way(bench, running)
        fill_study(bench, running, "search", 40, 0)
        paths = {
            "list": ("", "second"),
            "form": ("new", "of worker time"),
            "finished": (f"s/{ids[0]}", "On test"),
            "failed": (f"s/{failed}", "out of memory"),
            "running": (f"s/{running}", "Trials ("),
            "trial": (f"s/{running}/t/1", "image_0"),
            "compared": (f"compare/{','.join(ids)}", "Chosen networks"),
        }
        yield Place(url, bench, paths)


@pytest.mark.parametrize(("theme", "width"), LOOKS)
@pytest.mark.parametrize("name", ["list", "form", "finished", "failed", "running", "trial", "compared"])
def test_page_breaks_no_rule_of_axe_and_is_no_wider_than_the_screen(
    page: Page, place: Place, name: str, theme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    path, text = place.paths[name]
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.goto("about:blank")
    page.goto(f"{place.url}/#/{path}")
    page.get_by_text(text).first.wait_for()
    if name == "form":
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    if name in ("running", "compared"):
        page.locator(".plot .main-svg").first.wait_for()
    if name == "running":
        page.get_by_text("More figures").click()
        page.get_by_role("figure", name="Parallel coordinates").locator(".main-svg").first.wait_for()
    shoot(page, f"{name}-{theme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls to the side"
    broken = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in broken] == []


def tab_to(page: Page, role: str, name: str) -> None:
    """Goes on by the tabulator until what has this role and name is focused."""
    wanted = page.get_by_role(role, name=re.compile(name))  # type: ignore[arg-type]
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        for one in wanted.all():
            if one.evaluate("node => node === document.activeElement"):
                return
    raise AssertionError(f"no {role} {name!r} within {MOST_TABS} tabs")


def test_from_submit_to_download_by_keys_alone(page: Page, place: Place, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("about:blank")
    page.goto(place.url)
    page.get_by_role("link", name="New search").first.wait_for()
    tab_to(page, "link", "New search")
    page.keyboard.press("Enter")
    page.locator(".cost").get_by_text("of worker time").wait_for()
    tab_to(page, "textbox", "Name")
    page.keyboard.press("Control+A")
    page.keyboard.type("by keys")
    tab_to(page, "checkbox", "hd95")
    page.keyboard.press("Space")
    tab_to(page, "textbox", "Epochs of the chosen network")
    page.keyboard.press("Enter")  # submits
    page.wait_for_url("**/#/s/**")
    search_id = page.url.rpartition("/")[2]
    spec = place.bench.get(search_id)["spec"]
    assert (spec["name"], spec["search"]["objectives"]) == ("by keys", ["dice", "flops", "hd95"])
    place.bench.http.post(f"/v1/searches/{search_id}/cancel")

    path, text = place.paths["running"]
    page.goto(f"{place.url}/#/{path}")
    page.get_by_text(text).wait_for()
    tab_to(page, "button", "HD95")  # sorts, and the list that is built anew keeps the focus
    page.keyboard.press("Enter")
    page.get_by_role("columnheader", name=re.compile("HD95.*[▲▼]")).wait_for()
    page.wait_for_timeout(3500)
    assert page.evaluate("document.activeElement.dataset.key") == "sort hd95"
    page.locator("body").evaluate("body => { document.activeElement.blur(); }")
    with page.expect_download() as download:
        tab_to(page, "button", "^CSV$")
        page.keyboard.press("Enter")
    assert len(download.value.path().read_text().splitlines()) > 30
