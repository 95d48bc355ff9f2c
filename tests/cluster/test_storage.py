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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cluster import attempts
from cluster.attempts import Attempts, FencedError, FolderPlace, only_driver
from cluster.driver_process import DriverProcess
from cluster.object_store import Store, open_store
from cluster.run_folder import STUDY_VARIABLE, RunFolder
from cluster.storage import Mirror, bring, mirrored
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
        ".ray/supernet/checkpoints/epoch-0.pt": "weights",
        ".ray/supernet/checkpoints/checkpoints.json": '{"last": "epoch-0.pt"}',
        ".ray/search/tuner.pkl": "not needed",
        ".reserve": "not to be copied",
        "empty.txt": "",
    }.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(content)
    return run


def contents(folder: Path) -> dict[str, str]:
    """Of the files that a driver has written, without those of its attempt."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_text()
        for name, path in files.items()
        if name not in ("status.json", ".bringing.lock") and not name.startswith("attempts/")
    }


MirrorOf = Callable[..., Mirror]


@pytest.fixture
def mirror_of() -> Iterator[MirrorOf]:
    """Makes mirrors whose uploads the test asks for."""
    with ExitStack() as stack:

        def make(run: RunFolder, store: Store | None = None) -> Mirror:
            mirror = Mirror(run, store or open_store(URL, "run"), stack.enter_context(only_driver(run)))
            stack.enter_context(mirror.claimed())
            return mirror

        yield make


def test_run_goes_on_where_its_folder_was_lost(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with mirrored(run, URL):
        pass
    expected = contents(run.path)
    for name in (".ray/search/tuner.pkl", ".reserve"):
        del expected[name]
    expected["search.journal"] = "one\ntwo\n"  # the line that was being written is not a trial yet
    shutil.rmtree(run.path)
    with mirrored(run, URL):
        assert contents(run.path) == expected
        status = run.read_status()
        assert status is not None
        assert (status.state, status.error) == ("RUNNING", None), "the last word of the driver before is not this one's"
        assert (datetime.now(timezone.utc) - status.updated_at).total_seconds() < 60
    of_attempts = {f"attempts/{number}/{name}" for number in (1, 2) for name in ("driver.json", "ended")}
    assert open_store(URL, "run").names() == {*expected, *of_attempts, "status.json"}


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


def test_what_was_removed_here_is_removed_there(tmp_path: Path, mirror_of: MirrorOf) -> None:
    run = begun(tmp_path / "run")
    mirror = mirror_of(run)
    mirror.upload()
    shutil.rmtree(run.path / ".ray/supernet/checkpoints")  # as those of a winner that is another now
    (run.path / "scores/search/00001.npz").write_text("more")
    mirror.upload()
    names = open_store(URL, "run").names()
    assert ".ray/supernet/checkpoints/epoch-0.pt" not in names
    assert "scores/search/00001.npz" in names


def test_extended_search_has_no_result_in_the_store_whenever_its_upload_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    """Beside the new configuration the result would count as that of the search with more trials."""
    run = begun(tmp_path / "run")
    run.write_json("result.json", {"trials": 8})
    mirror = mirror_of(run)
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
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 3600)  # else its driver would be interrupted
    run = begun(tmp_path / "run")
    mirror = mirror_of(run)
    mirror.upload()
    before = open_store(URL, "run").names()
    if what == "unreadable":
        monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(OSError(errno.ESTALE, "stale", path)))
    else:
        shutil.move(run.path, tmp_path / "elsewhere")
    if what == "made anew":
        RunFolder(run.path).emit("progress")  # of a worker
    with pytest.raises(OSError, match=r"does not exist any more|stale"):
        mirror.upload()
    monkeypatch.undo()
    assert mirror._store.names() == before


class CutOff(Store):
    """Dies after so many writes, and notes what it has written."""

    left = 10**6

    def write(self, name: str, content: bytes) -> None:
        self._count(name)
        super().write(name, content)

    def upload(self, name: str, file: Path) -> None:
        self._count(name)
        super().upload(name, file)

    def _count(self, name: str) -> None:
        if name.endswith(("driver.json", "heartbeat", "ended")):
            return
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.mark.parametrize("writes", range(9))
def test_cut_off_anywhere_the_store_can_be_resumed(tmp_path: Path, writes: int, mirror_of: MirrorOf) -> None:
    """Nothing in it refers to what is not there: trials to their counts, a checkpoint's record to the checkpoint."""
    run = begun(tmp_path / "run")
    whole = open_store(URL, "run")
    store = CutOff(whole._client, whole._bucket, whole._prefix)
    mirror = mirror_of(run, store)
    mirror.upload()
    # The next epoch and the next trial.
    checkpoints = run.path / ".ray/supernet/checkpoints"
    (checkpoints / "epoch-0.pt").rename(checkpoints / "epoch-1.pt")
    run.write_json(".ray/supernet/checkpoints/checkpoints.json", {"last": "epoch-1.pt"})
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
    last = json.loads(whole.read(".ray/supernet/checkpoints/checkpoints.json") or b"")["last"]
    assert f".ray/supernet/checkpoints/{last}" in names
    ended = b"1 ended" in (whole.read("search.journal") or b"")
    assert "scores/search/00001.npz" in names or not ended
    assert ended or b'"trial"' not in (whole.read("attempts/1/events.jsonl") or b"")


def test_checkpoint_that_is_replaced_during_the_upload_is_left_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    run = begun(tmp_path / "run")
    checkpoints = run.path / ".ray/supernet/checkpoints"
    mirror = mirror_of(run)
    upload_changed = mirror._upload_changed

    def replaced(name: str, path: Path) -> bool:
        if name.endswith("epoch-0.pt") and path.exists():
            (checkpoints / "epoch-0.pt").rename(checkpoints / "epoch-1.pt")
            run.write_json(".ray/supernet/checkpoints/checkpoints.json", {"last": "epoch-1.pt"})
        return upload_changed(name, path)

    monkeypatch.setattr(mirror, "_upload_changed", replaced)
    mirror.upload()
    store = open_store(URL, "run")
    assert b"epoch-1" in (store.read(".ray/supernet/checkpoints/checkpoints.json") or b"")
    assert ".ray/supernet/checkpoints/epoch-1.pt" in store.names()


@pytest.mark.parametrize("training", [".ray/supernet", "baselines/unet/.ray/retrain"])
def test_training_that_is_quicker_than_its_uploads_keeps_nothing_else_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf, training: str
) -> None:
    """Its stored states stay until newer ones are whole there, and do not pile up."""
    run = begun(tmp_path / "run")
    folder = run.path / training / "checkpoints"
    if not folder.exists():
        folder.parent.mkdir(parents=True)
        (run.path / ".ray/supernet/checkpoints").rename(folder)
    mirror = mirror_of(run)
    mirror.upload()
    epochs, upload_changed = iter(range(1, 1000)), mirror._upload_changed
    quick = True

    def an_epoch_later(name: str, path: Path) -> bool:
        if name.endswith(".pt") and quick:
            number = next(epochs)
            (folder / f"epoch-{number}.pt").write_text("weights")
            run.write_json(f"{training}/checkpoints/checkpoints.json", {"last": f"epoch-{number}.pt"})
            path.unlink()
        return upload_changed(name, path)

    monkeypatch.setattr(mirror, "_upload_changed", an_epoch_later)
    (run.path / "scores/search/00001.npz").write_text("counts")
    mirror.upload()
    store = open_store(URL, "run")
    assert "scores/search/00001.npz" in store.names()
    assert json.loads(store.read(f"{training}/checkpoints/checkpoints.json") or b"") == {"last": "epoch-0.pt"}
    assert f"{training}/checkpoints/epoch-0.pt" in store.names()
    quick = False
    mirror.upload()
    states = [name for name in store.names() if name.endswith(".pt")]
    last = json.loads(store.read(f"{training}/checkpoints/checkpoints.json") or b"")["last"]
    assert states == [f"{training}/checkpoints/{last}"]


def test_status_of_an_audit_that_changes_all_the_time_does_not_keep_a_round_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    run = begun(tmp_path / "run")
    mirror = mirror_of(run)
    upload_changed, rounds = mirror._upload_changed, iter(range(1000))

    def beside(name: str, path: Path) -> bool:
        run.write_json("audit/status.json", {"done": next(rounds)})
        return upload_changed(name, path)

    monkeypatch.setattr(mirror, "_upload_changed", beside)
    mirror.upload()
    store = open_store(URL, "run")
    assert store.read("config.json")
    assert b"done" in (store.read("audit/status.json") or b"")


def test_second_driver_is_refused_while_the_first_lives_and_follows_when_it_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    first, second = (RunFolder(tmp_path / node / "run") for node in "ab")
    with (
        mirrored(begun(first.path), URL),
        pytest.raises(InputError, match="has a running driver"),
        mirrored(second, URL),
    ):
        pass
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 3600)
    monkeypatch.setattr(DriverProcess, "surely_dead", lambda driver: False)  # it is on another node
    dead = mirror_of(first)
    dead.upload()
    with mirrored(second, URL):
        assert (second.path / "config.json").exists()
        with pytest.raises(FencedError, match=r"another driver has taken over s3://runs/team/run \(process"):
            dead.upload()


def test_of_two_that_found_the_place_free_the_second_claims_nothing(tmp_path: Path, mirror_of: MirrorOf) -> None:
    """Whatever numbers their folders have come to, as when one of them was at work without the store."""
    first, second = (begun(tmp_path / node / "run") for node in "ab")
    for _ in range(2):
        with only_driver(second):
            pass
    mirror = mirror_of(first)
    with pytest.raises(InputError, match=r"s3://runs/team/run has a running driver \(process"):
        mirror_of(second)
    mirror.upload()
    assert Attempts(open_store(URL, "run")).latest() == 1


def test_attempts_without_the_store_are_made_up_for_in_it(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with mirrored(run, URL):
        pass
    for _ in range(2):
        with only_driver(run):
            pass
    with mirrored(run, URL):
        pass
    there, here = Attempts(open_store(URL, "run")), Attempts(FolderPlace(run.path))
    assert [there.driver(number) for number in range(1, 5)] == [here.driver(number) for number in range(1, 5)]
    assert there.latest() == 4
    assert not (tmp_path / "run.older-1").exists()


def test_claim_whose_answer_got_lost_is_recognised() -> None:
    there, me = Attempts(open_store(URL, "run")), DriverProcess.me()
    assert there.claim(1, me)
    assert there.claim(1, me)
    assert not there.claim(1, DriverProcess.me())


def test_place_of_before_attempts_were_numbered_is_brought_once_and_gone_on_with(tmp_path: Path) -> None:
    store, run = open_store(URL, "run"), RunFolder(tmp_path / "run")
    store.write("driver.json", json.dumps({"owner": "1f", "content": "1f", "released": True}).encode())
    store.write("search.journal", b"one\n")
    assert bring(run, URL)
    assert not bring(run, URL)
    assert contents(run.path)["search.journal"] == "one\n"
    with mirrored(run, URL):
        pass
    assert Attempts(store).latest() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_time_in_which_all_stood_still_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror_of: MirrorOf
) -> None:
    """As on a suspended laptop: only afterwards can the other driver beat again."""
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 3600)
    monkeypatch.setattr(DriverProcess, "surely_dead", lambda driver: False)  # it is on another node
    mirror_of(begun(tmp_path / "a" / "run"))
    sleep, pauses = time.sleep, itertools.count()

    def stand_still(seconds: float) -> None:
        number = next(pauses)
        sleep(seconds if number else attempts.EXPIRE_SECONDS)
        if number:
            Attempts(open_store(URL, "run")).beat(1)

    monkeypatch.setattr(time, "sleep", stand_still)
    with pytest.raises(InputError, match="has a running driver"), mirrored(RunFolder(tmp_path / "b" / "run"), URL):
        pass


def test_driver_whose_store_was_taken_over_stops(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")

    def taken_over() -> None:
        with mirrored(run, URL):
            assert Attempts(open_store(URL, "run")).claim(2, DriverProcess.me())
            threading.Event().wait(60)

    with pytest.raises(RunFailedError, match="another driver has taken over s3://runs/team/run"):
        taken_over()


@pytest.mark.parametrize(
    ("fault", "says"),
    [(OSError("connection refused"), "connection refused"), (KeyError("ETag"), r"KeyError('ETag')")],
    ids=["away", "strange"],
)
def test_store_that_is_away_for_a_while_is_told_once_and_caught_up_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception,
    says: str,
    mirror_of: MirrorOf,
) -> None:
    run = begun(tmp_path / "run")
    mirror = mirror_of(run)
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


def test_store_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of two drivers would be told that the run is its own."""
    put = Store.write

    def write_new(store: Store, name: str, content: bytes) -> bool:
        put(store, name, content)
        return True

    monkeypatch.setattr(Store, "write_new", write_new)
    with pytest.raises(InputError, match="does not know conditional writes: it has overwritten an object"):
        open_store(URL, "run")


def test_study_in_a_database_and_folder_in_a_store_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STUDY_VARIABLE, "sqlite:///x.db")
    with pytest.raises(InputError, match="unset one of the two"), mirrored(RunFolder(tmp_path), URL):
        pass
