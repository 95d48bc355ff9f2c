"""Streams that many follow: read once, exact from any place, whatever the pace of those who follow."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Hashable
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import httpx
import pytest
from service_helpers import Bench, serving

from api.client.sse import ServerEvent, parse_events
from api.server import driver_output as followed
from api.server import feeds
from api.server.driver_output import DriversEvents, DriversLog, LogPlace
from api.server.feeds import Batch, Feeds, Piece
from cluster.event_files import START
from cluster.jobs import JobState


class Numbers:
    """A stream of numbers that grows by ``upto``; each is its own place."""

    def __init__(self) -> None:
        self.upto, self.ended = 0, False
        self.readers: list[str] = []
        self.broken = False

    def read(self, place: Hashable) -> Batch:
        assert isinstance(place, int)
        self.readers.append(current_thread().name)
        if self.broken:
            raise OSError("the disk is away")
        ended, last = self.ended, min(self.upto, place + feeds.MAX_PIECES)
        pieces = [Piece(n, n + 1, f"{n} ") for n in range(place, last)]
        return Batch(pieces, "end" if ended and last == self.upto else None)


async def texts(stream: AsyncIterator[str], into: list[str], pace: Callable[[], float] = lambda: 0.0) -> list[str]:
    async for text in stream:
        into.append(text)
        if pause := pace():
            await asyncio.sleep(pause)
    return into


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 30)


def numbers_in(found: list[str]) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", "".join(found))]


def test_many_who_follow_are_given_what_one_reader_has_read() -> None:
    async def follow() -> tuple[list[list[str]], list[str]]:
        source, many = Numbers(), Feeds(0.005, Event())
        found: list[list[str]] = [[] for _ in range(50)]
        tasks = [asyncio.create_task(texts(many.follow("n", source, 0), one)) for one in found]
        await until(lambda: sum(name != "feeds" for name in source.readers) >= 50)  # each looks once, to catch up
        source.upto = 1
        await until(lambda: all(found))
        before = len(source.readers)
        for upto in range(2, 40):
            source.upto = upto
            await until(lambda: all(len(numbers_in(one)) == source.upto for one in found))
        source.ended = True
        await asyncio.gather(*tasks)
        return found, source.readers[before:]

    found, readers = asyncio.run(follow())
    assert all("".join(one) == "".join(f"{n} " for n in range(39)) + "end" for one in found)
    assert set(readers) == {"feeds"}


def test_slow_and_late_ones_lose_nothing_and_nothing_is_queued_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_PIECES", 20)
    monkeypatch.setattr(feeds, "MAX_PIECES", 7)
    rng = random.Random(0)

    async def follow() -> tuple[list[list[str]], list[int]]:
        source, many = Numbers(), Feeds(0.002, Event())
        paces: list[Callable[[], float]] = [lambda: 0.0, lambda: 0.02, lambda: rng.uniform(0, 0.02)]
        starts = [0, 0, 0, 13, 77, 120]
        found: list[list[str]] = [[] for _ in starts]
        tasks = []
        for i, start in enumerate(starts):
            stream = many.follow("n", source, start)
            tasks.append(asyncio.create_task(texts(stream, found[i], paces[i % 3])))
        while source.upto < 400:
            source.upto += rng.randint(0, 9)
            await asyncio.sleep(0.002)
        source.ended = True
        await asyncio.gather(*tasks)
        (feed,) = kept
        assert len(feed._kept) <= 20
        return found, [source.upto, *starts]

    kept: list[Any] = []
    make = feeds._Feed.__init__

    def keep(feed: Any, source: Any) -> None:
        make(feed, source)
        kept[:] = kept or [feed]

    monkeypatch.setattr(feeds._Feed, "__init__", keep)
    found, (total, *starts) = asyncio.run(follow())
    for start, one in zip(starts, found, strict=True):
        assert numbers_in(one) == list(range(start, total))
        assert one[-1] == "end"


def test_reader_ends_with_the_last_who_follows_and_begins_anew() -> None:
    async def follow() -> list[str]:
        source, many = Numbers(), Feeds(0.002, Event())
        source.upto = 3
        for _ in range(3):
            task = asyncio.create_task(texts(many.follow("n", source, 0), found := []))
            await until(lambda found=found: bool(found))  # type: ignore[misc]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not many._feeds
            await until(lambda: many._thread is None)
        source.ended = True
        return await texts(many.follow("n", source, 1), [])

    assert asyncio.run(follow()) == ["1 2 ", "end"]


def test_stream_is_kept_alive_and_ends_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEEPALIVE_SECONDS", 0.01)

    async def follow() -> list[str]:
        closing = Event()
        many = Feeds(0.005, closing)
        task = asyncio.create_task(texts(many.follow("n", Numbers(), 0), found := []))
        await until(lambda: len(found) >= 3)
        monkeypatch.setattr(feeds, "KEEPALIVE_SECONDS", 3600)
        await asyncio.sleep(0.05)
        closing.set()
        return await asyncio.wait_for(task, 10)

    assert set(asyncio.run(follow())) == {feeds.STILL_HERE}


def test_source_that_is_away_for_a_while_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def follow() -> list[str]:
        source, many = Numbers(), Feeds(0.002, Event())
        task = asyncio.create_task(texts(many.follow("n", source, 0), found := []))
        source.upto = 1
        await until(lambda: found == ["0 "])
        await until(lambda: "feeds" in source.readers)
        source.broken = True
        before = len(source.readers)
        await until(lambda: len(source.readers) > before + 4)
        source.upto, source.broken, source.ended = 3, False, True
        return await task

    assert asyncio.run(follow()) == ["0 ", "1 2 ", "end"]
    assert caplog.text.count("cannot read the source of a stream; retrying") == 1


# Over HTTP


class Follower(Thread):
    """A client; ``found`` are the events that it has been sent."""

    def __init__(self, url: str, after: str | None = None) -> None:
        super().__init__(daemon=True)
        self._url, self._after = url, after
        self.found: list[ServerEvent] = []
        self.start()

    def run(self) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._after} if self._after else {})
        with httpx.stream("GET", self._url, headers=headers, timeout=60) as response:
            for event in parse_events(response.iter_lines()):
                self.found.append(event)

    def wait_for(self, count: int) -> None:
        for _ in range(3000):
            if len(self.found) >= count:
                return
            Event().wait(0.01)
        raise AssertionError(f"{len(self.found)} events came, not {count}")


def counted(monkeypatch: pytest.MonkeyPatch, source: type, name: str = "read") -> list[str]:
    """Names of the threads that call it from now on."""
    threads: list[str] = []
    call = getattr(source, name)

    def count(*given: Any) -> Any:
        threads.append(current_thread().name)
        return call(*given)

    monkeypatch.setattr(source, name, count)
    return threads


def test_events_are_read_once_for_all_and_resumed_exactly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.running()
    folder = bench.folder(search_id)
    for number in range(5):
        folder.emit("trial", number=number)
    with serving(bench) as url:
        stream = f"{url}/v1/searches/{search_id}/events"
        many = [Follower(stream) for _ in range(12)]
        for one in many:
            one.wait_for(5)
        Event().wait(0.5)  # each looks whether there is more
        readers = counted(monkeypatch, DriversEvents)
        for number in range(5, 60):
            folder.emit("trial", number=number)
        for one in many:
            one.wait_for(60)
        assert set(readers) == {"feeds"}
        late = [Follower(stream, one.id) for one in many[0].found[:60:7]]
        bench.drive(search_id, "FAILED", error="x")
        bench.round()
        for one in [*many, *late]:
            one.join(30)
    ids = [event.id for event in many[0].found]
    for one in many:
        assert [event.data.get("number") for event in one.found] == [*range(60), None]
        assert [event.id for event in one.found] == ids
        assert one.found[-1] == ServerEvent(None, "end", {"state": "FAILED"})
    for start, one in zip(range(0, 60, 7), late, strict=True):
        assert [event.id for event in one.found] == ids[start + 1 :]


def test_log_is_fetched_once_for_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "one\ntwo\nhal"
    with serving(bench) as url:
        stream = f"{url}/v1/searches/{search_id}/logs?tail=2"
        many = [Follower(stream) for _ in range(12)]
        for one in many:
            one.wait_for(1)
        Event().wait(0.5)
        fetched = counted(monkeypatch, type(bench.jobs), "job_logs")
        for number in range(10):
            bench.jobs.logs[search_id] += f"f {number}\n"
            many[-1].wait_for(number + 2)
        bench.jobs.down = True  # a moment without Ray costs nothing
        Event().wait(0.1)
        bench.jobs.down = False
        for one in many:
            one.wait_for(11)
        assert set(fetched) == {"feeds"}
        bench.drive(search_id, "FAILED", error="x")
        bench.jobs.logs[search_id] += "last"
        bench.round()
        for one in many:
            one.join(30)
    expected = ["two", "half 0", *(f"f {n}" for n in range(1, 10)), "last", None]
    assert all([event.data.get("line") for event in one.found] == expected for one in many)


def test_services_side_by_side_tell_the_same(tmp_path: Path, database_url: str) -> None:
    """Each reads for its own clients; the state comes from the database, whoever has changed it."""
    one = Bench(tmp_path / "runs", database_url=database_url)
    search_id = one.running()
    other = one.restart()
    folder = one.folder(search_id)
    with serving(one) as first, serving(other) as second:
        path = f"/v1/searches/{search_id}/events"
        both = [Follower(first + path), Follower(second + path)]
        for number in range(20):
            folder.emit("trial", number=number)
        for follower in both:
            follower.wait_for(20)
        moved = Follower(second + path, both[0].found[11].id)  # as when a proxy sends it to another process
        one.drive(search_id, "FAILED", error="x")
        one.round()
        for follower in [*both, moved]:
            follower.join(30)
    assert both[0].found == both[1].found
    assert len(both[0].found) == 21
    assert moved.found == both[0].found[12:]


def test_log_of_the_next_attempt_follows_for_those_who_were_there(bench: Bench) -> None:
    search_id = bench.running()
    bench.jobs.logs[search_id] = "one\n"
    with serving(bench) as url:
        many = [Follower(f"{url}/v1/searches/{search_id}/logs") for _ in range(3)]
        for one in many:
            one.wait_for(1)
        bench.http.post(f"/v1/searches/{search_id}/pause")
        bench.round()
        bench.jobs.logs[search_id] += "stopp"
        bench.http.post(f"/v1/searches/{search_id}/resume")
        bench.round()
        bench.jobs.logs[f"{search_id}-2"] = "two\n"
        for one in many:
            one.wait_for(3)
        bench.drive(search_id, "FAILED", error="x")
        bench.jobs.states[f"{search_id}-2"] = JobState.FAILED
        bench.round()
        for one in many:
            one.join(30)
    for one in many:
        assert [event.data.get("line") for event in one.found] == ["one", "stopp", "two", None]


def test_long_history_comes_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "MAX_PIECES", 10)
    search_id = bench.succeeded()
    folder = bench.folder(search_id)
    for number in range(25):
        folder.emit("trial", number=number)
    source = DriversEvents(bench.context.service, search_id)
    place, sizes = START, []
    while True:
        batch = source.read(place)
        sizes.append(len(batch.pieces))
        if batch.end:
            break
        last = batch.pieces[-1].after
        assert isinstance(last, tuple)
        place = last
    assert sizes == [10, 10, 5]
    bench.jobs.logs[search_id] = "".join(f"{n}\n" for n in range(25))
    log = DriversLog(bench.context.service, bench.jobs, bench.settings, bench.context.service.get(search_id))
    assert [len(log.read(LogPlace(1, offset)).pieces) for offset in (0, 20, 50)] == [10, 10, 5]
