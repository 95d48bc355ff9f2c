"""Runs kept in an S3 server of the test's own: what is there can be resumed, and one driver writes to it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cluster import object_store, store_lease
from cluster.object_store import Store, open_store
from cluster.run_folder import STUDY_VARIABLE, RunFolder
from cluster.storage import Mirror, mirrored
from cluster.store_lease import ReplacedError
from slicemamba.errors import InputError, RunFailedError

URL = "s3://runs/team"
pytestmark = pytest.mark.usefixtures("bucket")


def begun(folder: Path) -> RunFolder:
    """A run in its search, with a checkpoint of its training."""
    run = RunFolder(folder)
    run.write_json("config.json", {"name": "x"})
    run.write_json("status.json", {"state": "FAILED", "error": "lost", "updated_at": "2024-01-01T00:00:00Z"})
    run.emit("phase", phase="search")
    for name, content in {
        "search.journal": "one\ntwo\nhal",
        "scores/search/00000.npz": "counts",
        ".ray/supernet/checkpoint_0/state.pt": "weights",
        ".ray/supernet/checkpoint_manager_snapshot.json": '{"latest": "checkpoint_0"}',
        ".ray/search/tuner.pkl": "not needed",
        ".driver/lease-1": "not to be copied",
        "empty.txt": "",
    }.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(content)
    return run


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".store.json", "status.json"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_run_goes_on_where_its_folder_was_lost(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with mirrored(run, URL):
        pass
    expected = contents(run.path)
    for name in (".ray/search/tuner.pkl", ".driver/lease-1"):
        del expected[name]
    expected["search.journal"] = "one\ntwo\n"  # the line that was being written is not a trial yet
    shutil.rmtree(run.path)
    with mirrored(run, URL):
        assert contents(run.path) == expected
        status = run.read_status()
        assert status is not None
        assert (status.state, status.error) == ("RUNNING", None), "the last word of the driver before is not this one's"
        assert (datetime.now(timezone.utc) - status.updated_at).total_seconds() < 60
    assert open_store(URL, "run").names() == {*expected, "driver.json", "status.json"}


def test_folder_that_is_newer_than_the_store_is_kept_and_an_older_one_set_aside(tmp_path: Path) -> None:
    here, there = begun(tmp_path / "here" / "run"), RunFolder(tmp_path / "there" / "run")
    with mirrored(here, URL):
        pass
    (here.path / "later.txt").write_text("as the upload of this was cut off")
    with mirrored(here, URL):
        assert (here.path / "later.txt").exists()
    with mirrored(there, URL):
        assert (there.path / "later.txt").exists()
        (there.path / "later.txt").write_text("newer")
    with mirrored(here, URL):
        assert (here.path / "later.txt").read_text() == "newer"
    assert (tmp_path / "here" / "run.older-1" / "later.txt").exists()


def test_what_was_removed_here_is_removed_there(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    mirror.upload()
    shutil.rmtree(run.path / ".ray/supernet/checkpoint_0")
    (run.path / "scores/search/00001.npz").write_text("more")
    mirror.upload()
    names = open_store(URL, "run").names()
    assert ".ray/supernet/checkpoint_0/state.pt" not in names
    assert "scores/search/00001.npz" in names


def test_extended_search_has_no_result_in_the_store_whenever_its_upload_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the new configuration the result would count as that of the search with more trials."""
    run = begun(tmp_path / "run")
    run.write_json("result.json", {"trials": 8})
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    mirror.upload()
    run.set_aside_result()
    run.write_json("config.json", {"name": "extended"})
    write = Store.write

    def die(store: Store, name: str, content: bytes) -> None:
        if name == "result-1.json":
            raise OSError("the node dies")
        write(store, name, content)

    monkeypatch.setattr(Store, "write", die)
    with pytest.raises(OSError, match="the node dies"):
        mirror.upload()
    store = open_store(URL, "run")
    assert json.loads(store.read("config.json") or b"") == {"name": "extended"}
    assert store.read("result.json") is None


@pytest.mark.parametrize("what", ["gone", "made anew", "unreadable"])
def test_nothing_is_removed_there_because_the_disk_here_is_away(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    mirror.upload()
    before = open_store(URL, "run").names()
    if what == "unreadable":
        monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(OSError(errno.ESTALE, "stale", path)))
    else:
        shutil.move(run.path, tmp_path / "elsewhere")
    if what == "made anew":
        run.emit("progress")  # of a worker, which holds no lease
    with pytest.raises(OSError, match=r"does not exist any more|stale"):
        mirror.upload()
    monkeypatch.undo()
    assert Store(mirror._store._filesystem, mirror._store.path).names() == before


def test_file_is_stored_whole_though_the_store_is_lost_during_its_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is left early makes an object of what it has got so far."""
    run = begun(tmp_path / "run")
    monkeypatch.setattr(object_store, "_CHUNK_BYTES", 5 << 20)
    (run.path / "weights").write_bytes(bytes(12 << 20))
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    mirror.upload()
    (run.path / "weights").write_bytes(b"1" * (12 << 20))
    beats = iter([ReplacedError()])

    def beat() -> None:
        for fault in beats:
            raise fault

    monkeypatch.setattr(mirror._lease, "beat_if_due", beat)
    with pytest.raises(ReplacedError):
        mirror.upload()
    assert len(mirror._store.read("weights") or b"") == 12 << 20


class CutOff(Store):
    """Dies after so many writes, and notes what it has written."""

    left = 10**6

    def write(self, name: str, content: bytes) -> None:
        self._count(name)
        super().write(name, content)

    def upload(self, name: str, file: Path) -> Iterator[None]:
        self._count(name)
        return super().upload(name, file)

    def _count(self, name: str) -> None:
        if name == "driver.json":
            return
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.mark.parametrize("writes", range(9))
def test_cut_off_anywhere_the_store_can_be_resumed(tmp_path: Path, writes: int) -> None:
    """Nothing in it refers to what is not there: trials to their counts, a checkpoint's record to the checkpoint."""
    run = begun(tmp_path / "run")
    whole = open_store(URL, "run")
    store = CutOff(whole._filesystem, whole.path)
    mirror = Mirror(run, store)
    mirror.claim()
    mirror.upload()
    # The next epoch and the next trial.
    checkpoints = run.path / ".ray/supernet"
    (checkpoints / "checkpoint_0").rename(checkpoints / "checkpoint_1")
    run.write_json(".ray/supernet/checkpoint_manager_snapshot.json", {"latest": "checkpoint_1"})
    (run.path / "scores/search/00001.npz").write_text("counts")
    (run.path / "search.journal").write_text("one\ntwo\n1 ended\n")
    run.emit("trial", number=1)
    store.left = writes
    try:
        mirror.upload()
    except KeyboardInterrupt:
        assert writes < 5
    else:
        assert writes >= 5
    names = whole.names()
    latest = json.loads(whole.read(".ray/supernet/checkpoint_manager_snapshot.json") or b"")["latest"]
    assert f".ray/supernet/{latest}/state.pt" in names
    ended = b"1 ended" in (whole.read("search.journal") or b"")
    assert "scores/search/00001.npz" in names or not ended
    assert ended or b'"trial"' not in (whole.read("events.jsonl") or b"")


def test_checkpoint_that_is_replaced_during_the_upload_is_left_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    checkpoints = run.path / ".ray/supernet"
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    upload_changed = mirror._upload_changed

    def replaced(name: str, path: Path) -> None:
        if name.endswith("checkpoint_0/state.pt") and path.exists():
            (checkpoints / "checkpoint_0").rename(checkpoints / "checkpoint_1")
            run.write_json(".ray/supernet/checkpoint_manager_snapshot.json", {"latest": "checkpoint_1"})
        upload_changed(name, path)

    monkeypatch.setattr(mirror, "_upload_changed", replaced)
    mirror.upload()
    store = open_store(URL, "run")
    assert b"checkpoint_1" in (store.read(".ray/supernet/checkpoint_manager_snapshot.json") or b"")
    assert ".ray/supernet/checkpoint_1/state.pt" in store.names()


def test_second_driver_is_refused_while_the_first_lives_and_follows_when_it_is_dead(tmp_path: Path) -> None:
    first = Mirror(begun(tmp_path / "a" / "run"), open_store(URL, "run"))
    first.claim()
    first.start()
    second = Mirror(RunFolder(tmp_path / "b" / "run"), open_store(URL, "run"))
    with pytest.raises(InputError, match="has a running driver"):
        second.claim()
    assert first.stop() is None

    dead = Mirror(first._run, open_store(URL, "run"))
    dead.claim()  # and never gives a sign of life
    dead.upload()
    second.claim()
    assert (tmp_path / "b" / "run" / "config.json").exists()
    with pytest.raises(ReplacedError):
        dead.upload()


def test_time_in_which_all_stood_still_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a suspended laptop: only afterwards can the other driver renew again."""
    first = Mirror(begun(tmp_path / "a" / "run"), open_store(URL, "run"))
    first.claim()
    sleep, pauses = time.sleep, itertools.count()

    def stand_still(seconds: float) -> None:
        number = next(pauses)
        sleep(seconds if number else store_lease.EXPIRE_SECONDS)
        if number:
            first._lease.beat()

    monkeypatch.setattr(time, "sleep", stand_still)
    with pytest.raises(InputError, match="has a running driver"):
        Mirror(RunFolder(tmp_path / "b" / "run"), open_store(URL, "run")).claim()


def test_driver_whose_store_was_taken_over_stops(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")

    def taken_over() -> None:
        with mirrored(run, URL):
            Mirror(run, open_store(URL, "run"))._store.write("driver.json", b'{"owner": "other", "released": false}')
            threading.Event().wait(60)

    with pytest.raises(RunFailedError, match="another driver has taken over the run in the store"):
        taken_over()


@pytest.mark.parametrize(
    ("fault", "says"),
    [(OSError("connection refused"), "connection refused"), (KeyError("ETag"), r"KeyError('ETag')")],
    ids=["away", "strange"],
)
def test_store_that_is_away_for_a_while_is_told_once_and_caught_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception, says: str
) -> None:
    run = begun(tmp_path / "run")
    mirror = Mirror(run, open_store(URL, "run"))
    mirror.claim()
    rounds: list[bool] = []
    upload = mirror.upload

    def sometimes(**options: Any) -> None:
        rounds.append(True)
        if len(rounds) in (2, 3):
            raise fault
        upload(**options)
        if len(rounds) > 4:
            mirror._stop.set()

    monkeypatch.setattr(mirror, "upload", sometimes)
    mirror.start()
    mirror._stop.wait(30)
    assert mirror.stop() is None
    said = capsys.readouterr().out
    assert said.count(f"could not be stored ({says})") == 1
    assert said.count("the run is stored again") == 1
    assert [event["event"] for _, event in run.events()] == ["phase", "warning", "warning"]


@pytest.mark.parametrize("fault", [OSError("no space"), TypeError("no space")], ids=["away", "strange"])
def test_run_that_could_not_be_stored_in_the_end_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    run = begun(tmp_path / "run")

    def fails(self: Mirror, **options: Any) -> None:
        raise fault

    def done() -> None:
        with mirrored(run, URL):
            monkeypatch.setattr(Mirror, "upload", fails)

    with pytest.raises(RunFailedError, match=r"is done, but could not be stored in s3://runs/team \(.*no space.*\)"):
        done()


@pytest.mark.parametrize(
    "url", ["runs/team", "/mnt/nfs", "http://host/bucket", "s3://", "s3://b/x?endpoint_override=y"]
)
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="the store must be s3://BUCKET/PREFIX; got"):
        open_store(url, "run")


def test_bucket_that_is_not_there_is_told_with_the_mend() -> None:
    with pytest.raises(InputError, match=r"the store s3://other cannot be written to .* check the bucket"):
        open_store("s3://other", "run")


def test_store_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(InputError, match="cannot be written to"):
        open_store(URL, "run")


def test_study_in_a_database_and_folder_in_a_store_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STUDY_VARIABLE, "sqlite:///x.db")
    with pytest.raises(InputError, match="unset one of the two"), mirrored(RunFolder(tmp_path), URL):
        pass
