"""A search in a notebook: its trials as a table, its figures, its files.

search = Client().search("latest")
search.wait()
search.trials_dataframe().sort_values("dice")
search.plot_pareto(objectives=("dice", "latency_ms"))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api import schemas
from api.client.http import Client
from api.client.tables import expected_end
from api.states import SearchState
from slicemamba.errors import InputError, RunFailedError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Picture:
    """What a trial predicts on one image; a notebook shows it."""

    image: str
    dice: float
    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


class SearchHandle:
    """One search of a service. What it tells is asked anew each time, so it is as of now.

    Args:
        client: of the service; it is to stay open.
        search_id: of the search.
    """

    def __init__(self, client: Client, search_id: str) -> None:
        self.client = client
        self.id = search_id

    @property
    def state(self) -> str:
        return self.client.get(self.id).state.value

    def wait(self, *, poll_seconds: float = 1.0) -> SearchHandle:
        """Shows the progress of each phase until the search has ended."""
        from rich.console import Console

        from api.client.follow import watch

        watch(self.client, self.id, Console(), poll_seconds=poll_seconds)
        return self

    def trials(self, study: schemas.StudyName = "search") -> list[schemas.Trial]:
        """All trials by number."""
        return list(self.client.iter_trials(self.id, study=study))

    def trials_dataframe(self, study: schemas.StudyName = "search") -> pd.DataFrame:
        """All trials, a row each, its index their number, with a column for each metric.

        Raises:
            InputError: pandas is not installed.
        """
        pandas = _pandas()
        rows = [trial.model_dump(exclude={"metrics"}) | trial.metrics for trial in self.trials(study)]
        table = pandas.DataFrame(rows, columns=None if rows else [*_COLUMNS])
        table["state"] = [getattr(state, "value", state) for state in table["state"]]
        return table.set_index("number")

    def images_dataframe(self, number: int, study: schemas.StudyName = "search") -> pd.DataFrame:
        """Dice and IoU of one trial on each image of the search split, the worst first.

        Raises:
            InputError: pandas is not installed.
        """
        found = self.client.trial_images(self.id, number, study=study).images
        rows = [image.model_dump() for image in found]
        return _pandas().DataFrame(rows, columns=["name", "dice", "iou"]).set_index("name")

    def pareto(self, objectives: Sequence[str] | None = None) -> list[schemas.FrontTrial]:
        """The Pareto-optimal trials, best first in the first objective."""
        return self.client.pareto(self.id, objectives=objectives).trials

    def plot_pareto(self, objectives: Sequence[str] | None = None) -> Figure:
        """All trials and the frontier; the first objective upwards, the second across. Default: the search's own."""
        from plotly.graph_objects import Figure

        from api.client.figures import pareto_spec

        front = self.client.pareto(self.id, objectives=objectives)  # refuses what was not measured
        names = [objective.name for objective in front.objectives]
        return Figure(pareto_spec(self.trials(), self.trials("random"), names))

    def plot_hypervolume(self, objectives: Sequence[str] | None = None) -> Figure:
        """Hypervolume after each evaluation, beside that of the random baseline where the search has one."""
        from plotly.graph_objects import Figure

        from nas.report_figures import hypervolume_figure

        studies: tuple[schemas.StudyName, ...] = ("search", "random")
        found = {
            study: self.client.hypervolume(self.id, objectives=objectives, study=study).points for study in studies
        }
        curves = {study: [point.hypervolume for point in points] for study, points in found.items()}
        spec = hypervolume_figure({study: curve for study, curve in curves.items() if curve or study == "search"})
        spec["layout"]["yaxis"]["title"]["text"] = "hypervolume"  # in the objectives' own units here
        return Figure(spec)

    def figures(self, number: int, *, study: schemas.StudyName = "search", images: int = 8) -> list[Picture]:
        """Has what a trial predicts drawn, waits for it, and gives the pictures, the worst image first.

        Raises:
            RunFailedError: the job did not succeed.
        """
        job = self.client.wait_job(self.client.figures(self.id, number, study=study, images=images).id)
        if job.state is not SearchState.SUCCEEDED:
            raise RunFailedError(f"job {job.id} is {job.state.value}: {job.error or job.message or 'see its log'}")
        rows = json.loads(self.client.read_artifact(self.id, f"{job.folder}/figures.json"))
        return [Picture(row["image"], row["dice"], self.client.read_artifact(self.id, row["path"])) for row in rows]

    def download(self, directory: Path | str) -> Sequence[Path]:
        """Fetches all files of the run, and goes on where an earlier download stopped."""
        return self.client.download(self.id, Path(directory))

    def __repr__(self) -> str:
        return f"<search {self.id} at {self.client.url}>"

    def _repr_html_(self) -> str:
        """State and progress as a small table."""
        search = self.client.get(self.id)
        rows = [("state", search.state.value + (f": {search.error or search.message or ''}").rstrip(": "))]
        rows += [(phase, f"{item.done} / {item.total} {item.unit}") for phase, item in search.progress.items()]
        if search.expected_end_at is not None:
            rows.append(("expected end", expected_end(search.expected_end_at)))
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
        return f"<b>{escape(search.name)}</b> <code>{escape(search.id)}</code><table>{cells}</table>"


_COLUMNS = [name for name in schemas.Trial.model_fields if name != "metrics"]


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError("tables need pandas, which is not installed: pip install pandas") from None
    return pandas
