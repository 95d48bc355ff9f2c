"""The reconciler against a fake cluster: starts, follows, ends and heals searches."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from threading import Event

import pytest
from service_helpers import BODY, Bench

from api.server import reconciler
from api.states import IllegalTransitionError, SearchState
from cluster import driver
from cluster.config import load_job
from cluster.jobs import JobState
from cluster.run_folder import RunFolder
from cluster.run_view import Progress, RunStatus
from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.errors import InputError


def states(bench: Bench, search_id: str) -> list[str]:
    return [change["new_state"] for change in bench.get(search_id)["history"]]


def test_search_from_submission_to_result(bench: Bench) -> None:
    search_id = bench.submit()
    bench.round()
    assert bench.state(search_id) == "STARTING"
    assert bench.jobs.submitted == [search_id]
    assert load_job(bench.folder(search_id).config_path).name == "small"
    bench.jobs.states[search_id] = JobState.RUNNING
    bench.drive(search_id)
    bench.round()
    found = bench.get(search_id)
    assert (found["state"], found["phase"], found["job_status"]) == ("RUNNING", "supernet", "RUNNING")
    told = {"done": 1, "total": 4, "unit": "epochs", "metrics": {"loss": 0.5}}
    assert found["progress"]["supernet"] == {**told, "seconds": 0.0, "seconds_per_unit": None}
    bench.folder(search_id).write_json("result.json", {"best": 0.9})
    bench.drive(search_id, "SUCCEEDED", phase="evaluate")
    bench.round()
    found = bench.get(search_id)
    assert (found["state"], found["phase"]) == ("SUCCEEDED", "evaluate")
    assert found["started_at"] <= found["ended_at"]
    assert states(bench, search_id) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    assert bench.http.get(f"/v1/searches/{search_id}/result").json() == {"best": 0.9}


def test_driver_that_ended_between_two_looks_goes_through_running(bench: Bench) -> None:
    search_id = bench.submit()
    bench.round()
    bench.folder(search_id).write_json("result.json", {})
    bench.drive(search_id, "SUCCEEDED")
    bench.jobs.states[search_id] = JobState.SUCCEEDED
    bench.round()
    assert states(bench, search_id) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]


def test_not_a_number_in_progress_is_no_figure(bench: Bench) -> None:
    search_id = bench.running()
    text = json.dumps({"done": 2, "total": 4, "unit": "epochs", "metrics": {"loss": float("nan")}})
    status = json.loads(bench.folder(search_id).path.joinpath("status.json").read_text())
    status["progress"]["supernet"] = json.loads(text)
    bench.folder(search_id).write_json("status.json", status)
    bench.round()
    assert bench.get(search_id)["progress"]["supernet"]["metrics"] == {}


def test_driver_error_becomes_the_searches_error(bench: Bench) -> None:
    search_id = bench.running()
    bench.drive(search_id, "FAILED", error="out of memory; lower search.batch_size")
    bench.round()
    found = bench.get(search_id)
    assert (found["state"], found["error"]) == ("FAILED", "out of memory; lower search.batch_size")


def test_fault_of_the_data_is_told_without_the_servers_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    sizes = SyntheticConfig(num_train=3, num_val=2, num_search=2, num_test=2)
    write_isic_folder(DataConfig(image_size=(32, 32), synthetic=sizes), root / "lesions")
    bench = Bench(tmp_path / "runs", data_root=root)
    image = next((root / "lesions" / "train" / "images").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    search_id = bench.submit({**BODY, "data": {"name": "lesions", "image_size": [32, 32]}})
    bench.round()
    job = load_job(bench.folder(search_id).config_path)
    with pytest.raises(InputError) as fault:  # what the driver meets first
        driver._check_input(job, bench.folder(search_id))
    assert str(root) in str(fault.value)
    bench.drive(search_id, "FAILED", error=str(fault.value))
    bench.round()
    found = bench.get(search_id)
    assert found["state"] == "FAILED"
    assert image.name in found["error"]
    assert found["error"].startswith("data set 'lesions' has 1 fault")
    assert str(tmp_path) not in found["error"]


def test_killed_driver_is_started_once_more_and_then_fails_with_the_end_of_its_log(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.states[search_id] = JobState.FAILED
    bench.round()
    bench.round()
    again = f"{search_id}-2"
    assert (bench.get(search_id)["state"], bench.get(search_id)["job_id"]) == ("STARTING", again)
    bench.drive(search_id, "RUNNING")
    bench.jobs.states[again] = JobState.FAILED
    bench.jobs.logs[again] = "\n".join(f"line {i}" for i in range(100))
    bench.round()
    found = bench.get(search_id)
    assert found["state"] == "FAILED"
    assert found["error"].endswith("line 99")
    assert "line 79\n" not in found["error"]


def asked(bench: Bench) -> list[str]:
    """Jobs that Ray is asked for from now on."""
    found: list[str] = []
    ask = bench.jobs.job_state

    def note(address: str, submission_id: str) -> JobState | None:
        found.append(submission_id)
        return ask(address, submission_id)

    bench.jobs.job_state = note  # type: ignore[method-assign]
    return found


def test_ray_is_not_asked_for_a_driver_that_gives_signs_of_life(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.running()
    bench.drive(search_id)
    bench.round()  # the first that this process hears of it
    jobs = asked(bench)
    bench.drive(search_id, phase="search", progress={"search": Progress(done=3, total=9, unit="trials")})
    bench.round()
    assert jobs == []
    assert (bench.get(search_id)["phase"], bench.get(search_id)["progress"]["search"]["done"]) == ("search", 3)
    bench.jobs.states[search_id] = JobState.FAILED
    bench.round()  # nothing was written since
    assert search_id in jobs
    assert bench.get(search_id)["job_id"] == f"{search_id}-2", "submitted once more"

    other = bench.running()
    bench.drive(other)
    bench.round()
    del jobs[:]
    monkeypatch.setattr(reconciler, "ASK_RAY_SECONDS", 0)
    bench.drive(other)
    bench.round()
    assert other in jobs


def test_ray_is_asked_for_a_paused_search_without_a_job_once_in_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = bench.submit()
    bench.http.post(f"/v1/searches/{search_id}/pause")
    jobs = asked(bench)
    for _ in range(3):
        bench.round()
    assert jobs == [search_id]
    bench.http.post(f"/v1/searches/{search_id}/resume")
    bench.http.post(f"/v1/searches/{search_id}/pause")
    bench.round()
    bench.round()
    second = jobs[1:]
    assert second
    assert len(second) == len(set(second)), "once for each attempt"
    monkeypatch.setattr(reconciler, "ASK_RAY_SECONDS", 0)
    bench.round()
    assert jobs == [search_id, *second, *second]
    bench.http.post(f"/v1/searches/{search_id}/resume")
    bench.round()
    assert bench.state(search_id) == "STARTING"


def test_clock_of_a_driver_that_is_wrong_leaves_ray_to_tell(bench: Bench) -> None:
    search_id = bench.running()
    for age in (3600, 3599):
        bench.drive(search_id, age_seconds=age)
        bench.round()
    jobs = asked(bench)
    bench.drive(search_id, age_seconds=3598)
    bench.round()
    assert jobs == [search_id]


def test_one_round_takes_over_the_progress_of_all_drivers_at_work(bench: Bench) -> None:
    searches = [bench.running() for _ in range(7)]
    for _ in range(2):  # from the second look on Ray is not asked
        for search_id in searches:
            bench.drive(search_id)
        bench.round()
    jobs = asked(bench)
    for place, search_id in enumerate(searches):
        progress = {"search": Progress(done=place, total=9, unit="trials")}
        bench.drive(search_id, phase="search", progress=progress)
    bench.round()
    assert [bench.get(search_id)["progress"]["search"]["done"] for search_id in searches] == list(range(7))
    assert jobs == []


def test_progress_of_a_search_that_was_cancelled_meanwhile_is_not_written(bench: Bench) -> None:
    search_id = bench.running()
    bench.drive(search_id)
    seen = bench.context.service.get(search_id)
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    bench.context.service.note_all([(seen, {"phase": "search", "message": None})])
    found = bench.get(search_id)
    assert (found["phase"], found["message"]) == ("supernet", "cancelled by request")


def test_cancel_stops_the_job(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.state_after_stop = JobState.RUNNING  # it takes its time
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    bench.round()
    assert bench.get(search_id)["message"] == "waiting for the driver to stop"
    bench.jobs.states[search_id] = JobState.STOPPED
    bench.round()
    assert bench.state(search_id) == "CANCELLED"
    assert bench.jobs.stopped == [search_id]


def test_search_waits_in_the_queue_while_ray_is_away(bench: Bench) -> None:
    bench.jobs.down = True
    search_id = bench.submit()
    bench.round()
    found = bench.get(search_id)
    assert found["state"] == "QUEUED"
    assert "cannot be reached" in found["message"]
    bench.jobs.down = False
    bench.round()
    assert bench.state(search_id) == "STARTING"


def test_running_search_is_left_alone_while_ray_is_away(bench: Bench) -> None:
    search_id = bench.running()
    bench.drive(search_id, age_seconds=3600)
    bench.jobs.down = True
    bench.round()
    assert bench.state(search_id) == "RUNNING"
    assert "cannot be reached" in bench.get(search_id)["message"]
    bench.jobs.down = False
    bench.round()
    assert bench.get(search_id)["message"] is None


def test_cancelling_goes_on_once_ray_is_back(bench: Bench) -> None:
    search_id = bench.running()
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    bench.jobs.down = True
    bench.round()
    assert bench.state(search_id) == "CANCELLING"
    bench.jobs.down = False
    bench.round()
    bench.round()
    assert bench.state(search_id) == "CANCELLED"


def test_refused_job_fails(bench: Bench) -> None:
    bench.jobs.refuse = "no such runtime environment"
    search_id = bench.submit()
    bench.round()
    assert "no such runtime environment" in bench.get(search_id)["error"]


def test_restarted_service_follows_what_it_finds(bench: Bench) -> None:
    queued_before = bench.submit()
    running = bench.running()
    other = bench.restart()
    other.drive(running, "FAILED", error="disk full")
    other.round()
    assert other.state(running) == "FAILED"
    assert other.state(queued_before) == "STARTING"
    assert sorted(bench.jobs.submitted) == sorted([queued_before, running])  # none of them twice


def test_killed_after_submission_but_before_it_was_written_down(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.submit()

    def die(*_: object, **__: object) -> bool:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(type(bench.context.service), "move", die)
        with pytest.raises(SystemExit):
            bench.round()
    assert bench.jobs.submitted == [search_id]
    other = bench.restart()
    assert other.state(search_id) == "QUEUED"
    other.round()
    assert other.state(search_id) == "STARTING"
    assert set(other.jobs.states) == {search_id}


def test_killed_between_record_and_submission(bench: Bench) -> None:
    search_id = bench.submit()  # its reconciler never came round
    other = bench.restart()
    other.round()
    assert other.jobs.submitted == [search_id]


def test_two_processes_act_once(bench: Bench) -> None:
    search_id = bench.running()
    other = bench.restart()
    seen_by_both = bench.context.service.get(search_id)
    assert other.context.service.move(seen_by_both, SearchState.CANCELLING)
    assert not bench.context.service.move(seen_by_both, SearchState.FAILED, error="too late")
    assert states(bench, search_id)[-1] == "CANCELLING"
    with pytest.raises(IllegalTransitionError):
        bench.context.service.move(seen_by_both, SearchState.STARTING)


def test_search_cancelled_elsewhere_while_it_was_submitted_is_stopped(bench: Bench) -> None:
    search_id = bench.submit()
    other = bench.restart()
    submit = bench.jobs.submit_run

    def cancel_meanwhile(*args: object) -> None:
        other.http.post(f"/v1/searches/{search_id}/cancel")
        other.round()
        submit(*args)  # type: ignore[arg-type]

    bench.jobs.submit_run = cancel_meanwhile  # type: ignore[method-assign, assignment]
    bench.round()
    assert bench.state(search_id) == "CANCELLED"
    assert bench.jobs.stopped == [search_id]


def test_vanished_job_is_started_once_more_and_then_fails(bench: Bench) -> None:
    search_id = bench.running()
    bench.drive(search_id, age_seconds=3600)
    bench.settings = bench.settings.model_copy(update={"stale_seconds": 1e-6})
    bench = bench.restart()
    bench.jobs.states.clear()
    bench.round()
    assert bench.state(search_id) == "STARTING"
    assert bench.jobs.submitted == [search_id, f"{search_id}-2"]
    bench.round()
    assert bench.state(search_id) == "STARTING"  # the status is of the attempt before
    bench.jobs.states[f"{search_id}-2"] = JobState.RUNNING
    bench.drive(search_id)
    bench.round()
    assert bench.state(search_id) == "RUNNING"
    bench.jobs.states.clear()
    bench.round()
    found = bench.get(search_id)
    assert found["state"] == "FAILED"
    assert "too often to be resubmitted again" in found["error"]
    assert states(bench, search_id) == ["QUEUED", "STARTING", "RUNNING", "QUEUED", "STARTING", "RUNNING", "FAILED"]


def test_fault_of_one_search_does_not_stop_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = bench.running(), bench.running()
    read = RunFolder.read_status

    def fail_to_read(folder: RunFolder) -> RunStatus | None:
        if folder.path.name == broken:
            raise OSError(errno.EIO, "Input/output error")
        return read(folder)

    monkeypatch.setattr(RunFolder, "read_status", fail_to_read)
    bench.drive(sound, "FAILED", error="x")
    with caplog.at_level(logging.ERROR):
        bench.round()
    assert broken in caplog.text
    assert (bench.state(broken), bench.state(sound)) == ("RUNNING", "FAILED")


@pytest.mark.parametrize("content", ["", "{", '{"state": 1}', '"\\ud800"'])
def test_search_whose_status_cannot_be_made_out_goes_by_what_ray_says(bench: Bench, content: str) -> None:
    search_id = bench.running()
    bench.folder(search_id).path.joinpath("status.json").write_text(content)
    bench.round()
    assert bench.state(search_id) == "RUNNING"
    bench.http.post(f"/v1/searches/{search_id}/cancel")
    bench.round()
    bench.round()
    assert bench.state(search_id) == "CANCELLED"


def test_app_runs_the_reconciler_in_a_thread_and_wakes_it_at_once(bench: Bench) -> None:
    bench = Bench(bench.settings.runs_dir, bench.jobs, reconcile_seconds=3600)
    submitted = Event()
    submit = bench.jobs.submit_run

    def tell(*args: object) -> None:
        submit(*args)  # type: ignore[arg-type]
        submitted.set()

    bench.jobs.submit_run = tell  # type: ignore[method-assign, assignment]
    with bench.http:
        bench.http.post("/v1/searches", json=BODY)
        assert submitted.wait(20)


def test_service_killed_after_the_job_was_submitted_takes_its_status_and_result_for_its_own(bench: Bench) -> None:
    """The driver may have gone all the way before a service comes up again."""
    search_id = bench.succeeded()
    assert bench.http.post(f"/v1/searches/{search_id}/extend", json={"num_trials": 12}).status_code == 202
    second = f"{search_id}-2"
    bench.jobs.states[second] = JobState.SUCCEEDED  # submitted by the process that was killed
    folder = bench.folder(search_id)
    folder.write_json("result.json", {"best": 0.95})
    bench.drive(search_id, "SUCCEEDED")
    later = bench.restart()
    later.round()
    later.round()
    assert later.state(search_id) == "SUCCEEDED"
    assert later.http.get(f"/v1/searches/{search_id}/result").json() == {"best": 0.95}
    assert second not in bench.jobs.submitted
