"""The report as a page: complete, safe with what users wrote, self-contained, and there for runs with missing parts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from search_cases import SPACE, score

from nas.report import plot_effects, plot_hypervolume, plot_ranking
from nas.report_choices import effects, effects_range, parallel_figure
from nas.report_drawn import live_figures
from nas.report_figures import fixed_label, fixed_labels, steps_of, time_figure, workers_figure
from nas.report_html import Picture, ReportInput, hypervolume_of, render_report
from nas.study import Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ATTACK = '<script>alert("x")</script>'


def trial(number: int, origin: str = "evolution", state: TrialState = TrialState.COMPLETED) -> Trial:
    architecture = SPACE.decode([number >> bit & 1 for bit in range(6)])
    done = state is TrialState.COMPLETED
    return Trial(
        number=number,
        state=state,
        architecture=str(architecture),
        origin=origin,
        metrics=score(architecture) if done else {},
        error=None if done else f"out of memory {ATTACK}",
        asked_after=number,
        ended_as=number,
        seconds=0.5,
        started_at=START + timedelta(seconds=number),
        ended_at=START + timedelta(seconds=number + 1),
    )


TRIALS = [trial(0, "fixed"), *(trial(n) for n in range(1, 30)), trial(63, "fixed")]
RANDOM = [trial(n, "random") for n in range(30, 50)]
ENDS = {"value": 0.8, "low": 0.7, "high": 0.9}
RANKING = {"num_architectures": 3, "k": 1, "kendall": ENDS, "spearman": ENDS, "top_k_recall": ENDS}


def job(**changes: Any) -> dict[str, Any]:
    search = {"objectives": ["miou", "hd95"], "searcher": "evolution", "population_size": 8}
    base = {
        "name": "lesions",
        "data": {"name": "synthetic", "image_size": [64, 64]},
        "space": {"choices": ["2x2", "4x4"]},
    }
    return base | {"search": search} | changes


def audit() -> dict[str, Any]:
    rows = [
        {"roles": roles, "architecture": TRIALS[n].architecture, "seed": 0, "supernet": 0.5 + n / 100, "error": None,
         "folder": f"audit/retrained/{n:02d}", "search": ENDS, "test": ENDS}
        for n, roles in ((3, ["best"]), (0, ["fixed 2x2"]), (7, ["sampled"]))
    ]  # fmt: skip
    failed = {"roles": ["sampled"], "architecture": TRIALS[9].architecture, "seed": 0, "supernet": None,
              "error": f"diverged {ATTACK}", "folder": "audit/retrained/03"}  # fmt: skip
    member = {"number": best().number, "intervals": {"miou": ENDS}, "difference_to_best": ENDS, "tie": True}
    criterion = {"name": "ranking", "question": "Is it?", "outcome": "open", "evidence": "3 slicings"}
    return {
        "metric": "miou",
        "verdict": {"word": "weak", "sentence": "The evidence is weak.", "criteria": [criterion]},
        "retrained": [*rows, failed],
        "ranking": {"search": RANKING, "test": RANKING | {"kendall": {"value": None, "low": None, "high": None}}},
        "comparison": {"fixed": {"2x2": ENDS}, "difference": ENDS, "rival": "2x2", "retrain_seeds": 3},
        "front": {"num_images": 20, "members": [member]},
        "random": {
            "hypervolume": {
                "search": [n / 40 for n in range(31)],
                "random 0": [0.1, 0.2],
                "random 1": [0.2, 0.3],
                "fixed": [0.1],
            }
        },
        "splits": {"train": {"num_images": 9, "digest": "ab12"}},
        "leaks": [["train/a", "test/b"]],
        "checklist": [{"part": "Code", "question": "Kept?", "answer": "yes", "evidence": "config.json"}],
        "device_hours": {"supernet": 0.5, "audit: retrain": 1.0},
    }


def best() -> Trial:
    return max((t for t in TRIALS), key=lambda t: t.metrics["miou"])


RETRAINED = {"scores": {"test": {"dice": 0.9, "miou": 0.8}}, "intervals": {"test": {"dice": [0.85, 0.94]}}}
FULL = ReportInput(
    job=job(),
    result={
        "retrained": RETRAINED,
        "trivial": {"test": {"all background": {"dice": 0.0, "miou": 0.0}}},
        "environment": {"python": "3.11", "packages": {"torch": "2.13"}},
    },
    space=SPACE,
    trials=TRIALS,
    random=RANDOM,
    audit=audit(),
    costs={
        "wall_seconds": {"search": 10.0}, "device_hours": {"candidates": 0.1}, "evaluating_seconds": 15.0,
        "waiting_seconds": 3.0, "blocks_reused": 0.25, "trials": {"COMPLETED": 31},
    },
    pictures=[Picture(b"\x89PNG", "lesion_1, Dice 0.100")],
    written_at="1 January 2026",
)  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self.scripts += [""] * (tag == "script")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._inside[-1] == "script":
            self.scripts[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def figures(self) -> dict[str, Mapping[str, Any]]:
        """The specifications by name."""
        scripts = zip(self.named("script"), self.scripts, strict=True)
        return {str(a["id"]).removeprefix("data-"): json.loads(text) for a, text in scripts if "id" in a}


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(FULL)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_has_every_part(page: Page) -> None:
    headings = re.findall(r"Frontier|Course of the search|What was chosen|Trust|Test images|Cost|Setup", page.text)
    assert len(set(headings)) == 7
    expected = {"front-hd95", "hypervolume", "time", "workers", "slicing", "effects", "parallel"}
    expected |= {"ranking", "difference", "cost"}
    assert set(page.figures()) == expected
    assert "The evidence is weak." in page.text
    assert "0.9000 (0.850 to 0.940)" in " ".join(page.text.split())
    assert "train/a = test/b" in page.text
    assert "25.0 %" in page.text


def test_specifications_are_plotlys(page: Page) -> None:
    for figure in page.figures().values():
        go.Figure(data=figure["data"], layout=figure["layout"])  # raises at an unknown property or a wrong value
        for step in figure.get("steps", []):
            for trace in (trace for trace in figure["data"] if trace.get("meta") == "stepped"):
                go.Figure(data=[{**trace, **step["fields"]}])


def test_counts_are_told_in_millions_and_labels_on_one_spot_are_one() -> None:
    trials = [t.model_copy(update={"metrics": {**t.metrics, "flops": 2.48e8}}) for t in TRIALS]
    objectives = {"search": {**FULL.job["search"], "objectives": ["miou", "flops"]}}
    shown = Page(render_report(replace(FULL, job=FULL.job | objectives, trials=trials, random=[], audit=None)))
    assert "248 M" in shown.text
    assert "e+08" not in shown.text
    fixed = [t for t in TRIALS if t.origin == "fixed"]
    assert len(fixed) > 1
    names = [fixed_label(t) for t in fixed]
    apart = list(range(len(fixed)))
    assert fixed_labels(fixed, apart, apart) == names
    assert fixed_labels(fixed, [1.0] * len(fixed), [0.5] * len(fixed)) == [", ".join(names), *[""] * (len(fixed) - 1)]


def test_slider_ends_where_the_search_did(page: Page) -> None:
    steps = page.figures()["front-hd95"]["steps"]
    assert [step["count"] for step in steps] == [8, 16, 24, 31]
    bests = [max(step["fields"]["y"]) for step in steps]
    assert bests == sorted(bests)
    assert bests[-1] == best().metrics["miou"]
    share = np.array(page.figures()["slicing"]["steps"][0]["fields"]["z"])
    assert share.sum(axis=0) == pytest.approx(np.ones(SPACE.num_blocks), abs=1e-3)


def test_page_loads_nothing(html: str, page: Page) -> None:
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe-eval" not in policy
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
    largest = max(page.scripts, key=len)
    assert largest.startswith("/**\n* plotly.js")
    rest = html.replace(largest, "")
    assert "http://" not in rest
    assert "https://" not in rest
    assert "@import" not in rest
    assert "url(" not in rest


def test_what_users_wrote_is_text() -> None:
    trials = [*TRIALS, trial(5, state=TrialState.FAILED)]
    hostile = job(name=ATTACK, labels={ATTACK: ATTACK}, data={"name": ATTACK, "image_size": [64, 64]})
    picture = Picture(b"", f'{ATTACK}" onerror="alert(1)')
    page = Page(render_report(ReportInput(hostile, FULL.result, SPACE, trials, audit=audit(), pictures=[picture])))
    assert ATTACK in page.text
    assert f"out of memory {ATTACK}" in page.text
    assert f"diverged {ATTACK}" in page.text
    assert not any("alert" in script for script in page.scripts if not script.startswith("/**"))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    nonces = {a.get("nonce") for a in page.named("script") if a.get("type") != "application/json"}
    assert len(nonces) == 1
    assert None not in nonces


def test_every_run_of_the_page_has_its_own_nonce() -> None:
    policies = {next(a["content"] for a in Page(render_report(FULL)).named("meta") if "http-equiv" in a) for _ in "ab"}
    assert len(policies) == 2


def test_figures_are_told_in_words(page: Page) -> None:
    plots = [a for a in page.named("div") if "data-figure" in a]
    assert len(plots) == len(page.figures())
    assert all(len(a["aria-label"] or "") > 20 and a["role"] == "img" for a in plots)
    assert all(a.get("alt") for a in page.named("img"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - before <= 1 for before, later in pairwise(levels))
    labelled = {a["for"] for a in page.named("label")}
    assert labelled == {a["id"] for a in page.named("input")}


NAN = trial(40, state=TrialState.INFEASIBLE)


@pytest.mark.parametrize(
    "source",
    [
        ReportInput(job(), {}, SPACE, []),
        ReportInput(job(), {}, SPACE, [TRIALS[3]]),
        ReportInput(job(), {"scan_use": None, "survey": None}, SPACE, TRIALS),
        ReportInput(job(), {}, SPACE, [trial(1, state=TrialState.FAILED), NAN]),
        ReportInput(job(), FULL.result, SPACE, [*TRIALS, NAN], random=[NAN]),
        ReportInput(job(), FULL.result, SPACE, [*TRIALS, trial(41, state=TrialState.PRUNED)]),
        ReportInput(job(search={**job()["search"], "objectives": ["miou"], "searcher": "tpe"}), {}, SPACE, TRIALS),
        ReportInput(job(), {}, SPACE, [t.model_copy(update={"started_at": None, "ended_at": None}) for t in TRIALS]),
        ReportInput(job(), {"retrained": {"scores": {"test": {"dice": float("nan")}}}}, SPACE, TRIALS, audit=audit()),
    ],
    ids=[
        "no trial",
        "one trial",
        "no scans",
        "all failed",
        "random failed",
        "pruned",
        "one objective",
        "no times",
        "NaN on test",
    ],
)
def test_missing_parts_are_left_out(source: ReportInput) -> None:
    html = render_report(source)
    page = Page(html)
    assert "NaN" not in "".join(script for script in page.scripts if not script.startswith("/**"))
    for figure in page.figures().values():
        go.Figure(data=figure["data"], layout=figure["layout"])
    assert bool(page.figures()) == any(t.state is TrialState.COMPLETED for t in source.trials)


def test_what_violates_a_constraint_is_never_on_the_frontier() -> None:
    """The best by the first objective is told with its violation; it has no star, no ring, and wins no hypervolume."""
    outside = best()
    trials = [t.model_copy(update={"violation": 0.5}) if t.number == outside.number else t for t in TRIALS]
    objectives = ("miou", "hd95")
    front = pareto_front(trials, objectives)
    page = Page(render_report(ReportInput(job(), {}, SPACE, trials)))
    ringed = page.figures()["front-hd95"]["data"][-1]
    assert ringed["name"] == "Pareto-optimal"
    assert ringed["y"] == [member.metrics["miou"] for member in front]
    assert max(ringed["y"]) < outside.metrics["miou"]
    lines = parallel_figure(trials, SPACE, objectives)["data"]
    assert f"trial {front[0].number}<" in lines[-1]["text"][0]
    within = [t for t in trials if t.number != outside.number]
    curves = hypervolume_of(ReportInput(job(), {}, SPACE, trials), objectives)
    assert curves["search"][-1] == hypervolume_of(ReportInput(job(), {}, SPACE, within), objectives)["search"][-1]


def test_page_of_a_search_has_no_figures_before_a_candidate_is_within_the_constraints() -> None:
    outside = [one.model_copy(update={"violation": 0.5}) for one in TRIALS]
    assert live_figures(outside, outside, SPACE, ("miou", "hd95")) == []
    assert live_figures([], RANDOM, SPACE, ("miou", "hd95")) == []
    keys = {figure.key for figure in live_figures([*outside[:-1], TRIALS[-1]], RANDOM, SPACE, ("miou", "hd95"))}
    assert keys == {"hypervolume", "time", "workers", "effects", "parallel"}


def test_effects_are_means_with_students_interval() -> None:
    table = effects(TRIALS, SPACE, "miou")
    block, choice = 2, 1
    genes = [SPACE.encode(Architecture.parse(t.architecture))[block] for t in TRIALS]
    scores = np.array([t.metrics["miou"] for t, gene in zip(TRIALS, genes, strict=True) if gene == choice])
    found = table[choice][block]
    assert found is not None
    from scipy import stats

    low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
    assert found == pytest.approx((scores.mean(), (high - low) / 2, len(scores)))
    alone = effects([TRIALS[0]], SPACE, "miou")
    assert alone[1] == [None] * SPACE.num_blocks
    assert alone[0][0] == (TRIALS[0].metrics["miou"], 0.0, 1)


def test_scale_of_effects_is_not_that_of_the_widest_interval() -> None:
    table = [[(0.80, 0.01, 20), (0.81, 0.02, 30)], [(0.79, 0.9, 2), None]]
    low, high = effects_range(table)
    assert 0.76 < low < 0.79, "the mean of two candidates is shown, their interval runs out of the picture"
    assert 0.83 < high < 0.86
    assert effects_range([[None], [None]]) == (0.0, 1.0)


def test_time_is_in_fitting_units() -> None:
    curve = [0.1 * i for i in range(31)]
    assert time_figure(TRIALS, curve)["layout"]["xaxis"]["title"]["text"].startswith("seconds")  # type: ignore[index]
    slow = [t.model_copy(update={"ended_at": START + timedelta(hours=5)}) for t in TRIALS]
    assert time_figure(slow, curve)["layout"]["xaxis"]["title"]["text"].startswith("hours")  # type: ignore[index]
    assert time_figure(TRIALS, curve[:-1]) is None


def test_workers_rows_hold_no_two_evaluations_at_once() -> None:
    rng = np.random.default_rng(0)
    places = [0.0] * 3
    ran = []
    for number in range(60):
        worker = int(np.argmin(places))
        seconds = float(rng.uniform(0.5, 2))
        places[worker] += seconds
        end = START + timedelta(seconds=places[worker] + 0.01)  # the driver hears of it a little later
        state = TrialState.PRUNED if number % 7 == 3 else TrialState.COMPLETED
        ran.append(
            trial(number % 64, state=state).model_copy(update={"number": number, "seconds": seconds, "ended_at": end})
        )
    spec = workers_figure(ran)
    assert spec is not None
    assert {one["name"]: len(one["x"]) for one in spec["data"]} == {"completed": 51, "pruned": 9}
    bars = sorted(one for part in spec["data"] for one in zip(part["y"], part["base"], part["x"], strict=True))
    assert {row for row, _, _ in bars} == {0, 1, 2}, "as many rows as workers"
    for (row, start, length), (next_row, next_start, _) in pairwise(bars):
        assert row != next_row or start + length <= next_start + 0.1 * 2
    assert sum(length for _, _, length in bars) == pytest.approx(sum(one.seconds or 0 for one in ran))
    assert workers_figure([one.model_copy(update={"ended_at": None}) for one in ran]) is None


@pytest.mark.parametrize(("count", "generation"), [(0, 8), (1, None), (7, 8), (1000, 50), (1000, 3), (10**5, None)])
def test_slider_has_few_stops_and_the_last_is_the_end(count: int, generation: int | None) -> None:
    stops = steps_of(count, generation)
    assert stops == sorted(set(stops))
    assert len(stops) <= 41
    assert stops[-1:] == ([count] if count else [])


def test_parallel_lines_are_bounded() -> None:
    many = [trial(n % 64).model_copy(update={"number": n}) for n in range(1000)]
    data = parallel_figure(many, SPACE, ("miou", "hd95"))["data"]
    chosen = parallel_figure(many, SPACE, ("miou", "hd95"), chosen=17)["data"][-1]
    assert chosen["name"] == "best"
    assert "<b>trial 17</b>" in chosen["text"][0]
    assert sum(trace["x"].count(None) for trace in data) <= 300
    heights = [y for trace in data for y in trace["y"] if y is not None]
    assert 0 <= min(heights) <= max(heights) <= 1


def test_pictures_are_written(tmp_path: Path) -> None:
    plot_hypervolume(tmp_path / "h.png", hypervolume_of(FULL, ("miou", "hd95")))
    plot_effects(tmp_path / "e.png", effects(TRIALS, SPACE, "miou"), SPACE, "miou")
    plot_ranking(tmp_path / "r.png", audit()["retrained"], "miou")
    for name in "her":
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.convert("L").getextrema() != (255, 255)
