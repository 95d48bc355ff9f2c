"""A search in a notebook: tables and figures of what the service answers."""

from __future__ import annotations

from typing import Any

import pytest
from service_helpers import BODY, Bench, write_study

from api.client import ApiError, Client
from api.client.notebook import SearchHandle

ROWS = [{"dice": 0.5, "hd95": 4.0}, None, {"dice": 0.75, "hd95": 6.0}, {"dice": 0.4, "hd95": 5.0}]


class _BenchClient(Client):
    """Asks the app without a socket."""

    def __init__(self, bench: Bench) -> None:
        super().__init__("http://127.0.0.1:1")
        self._connection._http = bench.http


@pytest.fixture
def handle(bench: Bench) -> SearchHandle:
    search_id = bench.submit({**BODY, "name": "<b>skin</b>"})
    write_study(bench.folder(search_id), ROWS)
    write_study(bench.folder(search_id), [{"dice": 0.3, "hd95": 7.0}], "random")
    return _BenchClient(bench).search()


def test_trials_are_a_table(handle: SearchHandle) -> None:
    pytest.importorskip("pandas")
    table = handle.trials_dataframe()
    assert table.index.name == "number"
    assert [*table["state"]] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    assert table.sort_values("dice", ascending=False).index[0] == 2
    assert table["hd95"].isna().tolist() == [False, True, False, False]


def test_table_of_no_trials_has_its_columns(bench: Bench) -> None:
    pytest.importorskip("pandas")
    bench.submit()
    table = _BenchClient(bench).search().trials_dataframe()
    assert len(table) == 0
    assert "architecture" in table.columns


def _trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_frontier_is_the_reports_figure(handle: SearchHandle) -> None:
    figure = handle.plot_pareto()
    front = _trace(figure, "Pareto-optimal")
    assert sorted(zip(front.x, front.y, strict=True)) == [(4.0, 0.5), (6.0, 0.75)]
    assert len(_trace(figure, "search").x) == 3
    assert list(_trace(figure, "random search").y) == [0.3]
    assert figure.layout.xaxis.title.text == "HD95 (pixels) ↓"
    assert list(_trace(handle.plot_pareto(["dice"]), "Pareto-optimal").y) == [0.75]
    with pytest.raises(ApiError, match="latency_ms"):
        handle.plot_pareto(["dice", "latency_ms"])


def test_hypervolume_stands_beside_the_baseline(handle: SearchHandle) -> None:
    figure = handle.plot_hypervolume()
    own = list(_trace(figure, "search").y)
    assert own == [point.hypervolume for point in handle.client.hypervolume(handle.id).points]
    assert len(own) == 2, "the first and the last, as none enlarged it"
    assert len(_trace(figure, "random search").y) == 1


def test_handle_shows_itself_as_text_without_tags(handle: SearchHandle) -> None:
    shown = handle._repr_html_()
    assert "&lt;b&gt;skin" in shown
    assert "QUEUED" in shown
    assert handle.id in repr(handle)
