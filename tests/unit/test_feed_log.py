"""The server's side of the feed: what is encoded once, who is woken, who is cut off, and in which order rows go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from weft.feed.log import FeedLog, Gone, Limits
from weft.policy.delta import Delta, ScopedDelta
from weft.policy.rows import Host, Port, Record, Route, Row, Scope, Subnet
from weft.wire import feed as wire
from weft.wire.knows import OURS

BIG = "rd:big"


def record(number: int, pa: str = "192.0.2.1") -> Record:
    return Record(5000, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", pa, "02:00:00:00:00:01")


class HeldClock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self._waits: list[asyncio.Future[None]] = []

    def now_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self._waits.append(asyncio.get_running_loop().create_future())
        await self._waits[-1]

    def tick(self) -> None:
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.cancelled() or wait.set_result(None)


class Feed:
    """A log over rows that the test holds, and listeners that read as much as the test says."""

    def __init__(
        self, rows: dict[Scope, list[Row]], hosts: dict[str, set[Scope]], limits: Limits | None = None
    ) -> None:
        self.rows = rows
        self.hosts = hosts
        self.clock = HeldClock()
        self.log = FeedLog(
            lambda scope: self.rows[scope], lambda host: frozenset(self.hosts[host]), 1, clock=self.clock, limits=limits
        )
        self.streams: list[AsyncIterator[bytes]] = []

    def listen(self, host: str, revision: int | None = None) -> AsyncIterator[bytes]:
        self.streams.append(self.log.stream(host, revision))
        return self.streams[-1]

    def listen_and_answer(self, host: str) -> AsyncIterator[bytes]:
        self.streams.append(self.log.stream(host, answers=True))
        return self.streams[-1]

    async def close(self) -> None:
        for stream in self.streams:
            await stream.aclose()


async def upto_bookmark(stream: AsyncIterator[bytes]) -> list[bytes]:
    """The writes of a stream, up to and with the next bookmark."""
    writes: list[bytes] = []
    while not writes or b'"synced"' not in writes[-1]:
        writes.append(await anext(stream))
    return writes


def frames(writes: list[bytes]) -> list[wire.Frame]:
    decoder = wire.Decoder()
    return [decoder.decode(line) for line in b"".join(writes).splitlines()]


def blocked(reading: asyncio.Future[bytes]) -> bool:
    return not reading.done()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_large_scope_is_encoded_once_however_many_hosts_listen() -> None:
    rows: list[Row] = [record(n) for n in range(9_000)]
    feed = Feed({BIG: rows}, {f"hosts/h{n}": {BIG} for n in range(20)})
    said = [await upto_bookmark(feed.listen(f"hosts/h{n}")) for n in range(20)]
    assert feed.log.counters.frames_encoded == 5
    large = [write for write in said[0] if len(write) > 16_384]
    assert len(large) == 5
    for writes in said:
        assert all(mine is first for mine, first in zip(writes, large, strict=False))
    assert sum(len(frame.puts) for frame in frames(said[7]) if isinstance(frame, wire.Rows)) == 9_000
    await feed.close()


async def test_a_change_is_encoded_once_and_wakes_only_those_whom_it_concerns() -> None:
    hosts = {f"hosts/h{n}": {f"rd:{n % 10}"} for n in range(50)}
    feed = Feed({f"rd:{n}": [] for n in range(10)}, hosts)
    streams = {host: feed.listen(host) for host in hosts}
    for stream in streams.values():
        await upto_bookmark(stream)
    reading = {host: asyncio.ensure_future(anext(stream)) for host, stream in streams.items()}
    await settle()
    encoded = feed.log.counters.frames_encoded
    feed.log.publish(2, ScopedDelta({"rd:3": Delta((record(1),))}))
    await settle()
    assert {host for host, read in reading.items() if read.done()} == {host for host in hosts if host.endswith("3")}
    assert feed.log.counters.wakes == 5
    assert feed.log.counters.frames_encoded == encoded + 1
    # The others hear of the revision with their next bookmark.
    feed.clock.tick()
    await asyncio.wait(reading.values())
    assert frames([reading["hosts/h1"].result()]) == [wire.Bookmark(2, True)]
    await feed.close()


async def test_ports_come_after_everything_that_they_rest_on() -> None:
    own: list[Row] = [Port("tenants/a/ports/p", 5000, "02:00:00:00:00:01", ()), Host("hosts/h1", (), ())]
    domain: list[Row] = [record(1), Subnet(5000, "big", (), (), "02:57:45:46:54:01", 0)]
    feed = Feed({"host:hosts/h1": own, BIG: domain}, {"hosts/h1": {"host:hosts/h1", BIG}})
    said = frames(await upto_bookmark(feed.listen("hosts/h1")))
    tables = [row.key[0] for frame in said if isinstance(frame, wire.Rows) for row in frame.puts]
    assert tables == ["hosts", "subnets", "records", "ports"]
    await feed.close()


async def test_one_that_lags_gets_many_changes_as_one_frame() -> None:
    feed = Feed({BIG: []}, {"hosts/h1": {BIG}, "hosts/h2": {BIG}})
    streams = [feed.listen("hosts/h1"), feed.listen("hosts/h2")]
    for stream in streams:
        await upto_bookmark(stream)
    for revision in range(2, 12):
        feed.log.publish(revision, ScopedDelta({BIG: Delta((record(1, f"192.0.2.{revision}"), record(revision)))}))
    feed.log.publish(12, ScopedDelta({BIG: Delta((), (record(5).key,))}))
    for stream in streams:
        changed, bookmark = frames(await upto_bookmark(stream))
        assert isinstance(changed, wire.Rows)
        assert record(1, "192.0.2.11") in changed.puts
        assert len(changed.puts) == 10
        assert changed.deletes == (record(5).key,)
        assert bookmark == wire.Bookmark(12, True)
    assert feed.log.counters.frames_encoded == 1
    await feed.close()


async def test_one_that_does_not_read_is_cut_off_at_the_bound() -> None:
    feed = Feed({BIG: []}, {"hosts/h1": {BIG}, "hosts/h2": {BIG}}, Limits(pending_rows=10))
    slow, quick = feed.listen("hosts/h1"), feed.listen("hosts/h2")
    await upto_bookmark(slow)
    await upto_bookmark(quick)
    for revision in range(2, 20):
        feed.log.publish(revision, ScopedDelta({BIG: Delta((record(1), record(2)))}))
        await upto_bookmark(quick)
    with pytest.raises(StopAsyncIteration):
        await upto_bookmark(slow)
    assert feed.log.counters.streams_cut_off == 1
    assert feed.log.counters.listeners == 1
    await feed.close()


async def test_one_change_larger_than_the_bound_is_not_lag() -> None:
    feed = Feed({BIG: []}, {"hosts/h1": {BIG}}, Limits(pending_rows=10))
    stream = feed.listen("hosts/h1")
    await upto_bookmark(stream)
    feed.log.publish(2, ScopedDelta({BIG: Delta(tuple(record(n) for n in range(50)))}))
    assert len(frames(await upto_bookmark(stream))) == 2
    await feed.close()


@pytest.mark.parametrize("revision", [0, 1, 99])
async def test_what_the_history_does_not_hold_is_gone(revision: int) -> None:
    feed = Feed({BIG: []}, {"hosts/h1": {BIG}}, Limits(history_changes=2))
    for published in range(2, 6):
        feed.log.publish(published, ScopedDelta({BIG: Delta((record(published),))}))
    with pytest.raises(Gone, match=rf"revision {revision} cannot be resumed from; 3\.\.5 can"):
        await anext(feed.listen("hosts/h1", revision))
    assert frames([await anext(feed.listen("hosts/h1", 3))])[0] == wire.Resume(3)
    await feed.close()


async def test_an_idle_stream_carries_a_bookmark_now_and_then() -> None:
    feed = Feed({BIG: []}, {"hosts/h1": {BIG}})
    stream = feed.listen("hosts/h1")
    await upto_bookmark(stream)
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    assert blocked(reading)
    feed.clock.tick()
    assert frames([await reading]) == [wire.Bookmark(1, True)]
    await feed.close()


async def test_a_snapshot_is_of_one_moment_however_slowly_it_is_read() -> None:
    feed = Feed({BIG: [record(n) for n in range(10)]}, {"hosts/h1": {BIG}}, Limits(frame_rows=2, join_bytes=1))
    stream = feed.listen("hosts/h1")
    first = await anext(stream)
    feed.rows[BIG] = [record(n, "192.0.2.9") for n in range(5)]
    feed.log.publish(2, ScopedDelta({BIG: Delta(tuple(feed.rows[BIG]), tuple(record(n).key for n in range(5, 10)))}))
    rest = await upto_bookmark(stream)
    rows = {row for frame in frames([first, *rest]) if isinstance(frame, wire.Rows) for row in frame.puts}
    assert rows == {record(n) for n in range(10)}
    assert frames(rest)[-1] == wire.Bookmark(1, True)
    changed = frames(await upto_bookmark(stream))
    assert changed[-1] == wire.Bookmark(2, True)
    await feed.close()


def test_revisions_only_grow() -> None:
    feed = Feed({}, {})
    with pytest.raises(ValueError, match="revision 1 was published after 1"):
        feed.log.publish(1, ScopedDelta())


async def test_a_revision_of_another_history_is_gone_whatever_its_number() -> None:
    log = FeedLog(lambda _scope: (), lambda _host: frozenset(), 7, history="a.1")
    for history in ("", "b.1"):
        stream = log.stream("hosts/h1", 7, history)
        with pytest.raises(Gone, match="of another store, compiler or agent"):
            await anext(stream)
    stream = log.stream("hosts/h1", 7, "a.1")
    assert b'"resume":7' in await anext(stream)
    await stream.aclose()
    assert log.counters.streams_gone == 2


LEARNED = "hosts ports host: 00000000"


async def _first(stream: AsyncGenerator[bytes, None]) -> tuple[list[dict[str, Any]], str]:
    """The frames up to the first bookmark, and whose history that names."""
    frames: list[dict[str, Any]] = []
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            frames += map(json.loads, chunk.splitlines())
            if "revision" in frames[-1]:
                return frames[:-1], frames[-1]["history"]
    raise AssertionError("there was no bookmark")


async def test_an_agent_is_sent_the_tables_and_scopes_that_it_knows_and_starts_over_once_it_knows_more() -> None:
    host = Host("hosts/h1", ("192.0.2.1",), ())
    route = Route("11111111-1111-1111-1111-111111111111", "0.0.0.0/0", 5000, "10.0.0.1")
    rows: dict[str, list[Row]] = {"host:hosts/h1": [host, route], BIG: [route]}
    log = FeedLog(lambda scope: rows[scope], lambda _host: frozenset(rows), 7, history="a.1")
    frames, known = await _first(log.stream("hosts/h1", knows=LEARNED))
    assert [(frame["scope"], list(frame["puts"])) for frame in frames] == [("host:hosts/h1", ["hosts"])]
    frames, whole = await _first(log.stream("hosts/h1", knows=OURS))
    assert {frame["scope"] for frame in frames} == set(rows)
    assert known != whole
    # The same agent resumes; upgraded, it holds rows that it could not read whole.
    frames, again = await _first(log.stream("hosts/h1", 7, known, LEARNED))
    assert (frames, again) == ([{"resume": 7}], known)
    with pytest.raises(Gone, match="of another store, compiler or agent"):
        await anext(log.stream("hosts/h1", 7, known, OURS))


async def test_of_a_change_an_agent_is_told_what_it_knows_and_of_the_rest_only_the_revision() -> None:
    log = FeedLog(lambda _scope: (), lambda _host: frozenset({"host:hosts/h1"}), 7, history="a.1")
    route = Route("11111111-1111-1111-1111-111111111111", "0.0.0.0/0", 5000, "10.0.0.1")
    async with aclosing(log.stream("hosts/h1", knows=LEARNED)) as stream:
        await anext(stream)
        log.publish(8, ScopedDelta({"host:hosts/h1": Delta((route,), (("ports", "tenants/blue/ports/p"),))}))
        log.publish(9, ScopedDelta({"host:hosts/h1": Delta((route,), ())}))
        told = [json.loads(line) for line in (await anext(stream)).splitlines()]
    assert told[:-1] == [
        {"scope": "host:hosts/h1", "puts": {}, "deletes": {"ports": [["tenants/blue/ports/p"]]}},
    ]
    assert told[-1]["revision"] == 9


async def test_only_an_agent_that_answers_is_asked_and_so_much_at_once() -> None:
    feed = Feed({BIG: [record(1)]}, {"hosts/h1": {BIG}, "hosts/h2": {BIG}}, Limits(asks=2))
    silent, answering = feed.listen("hosts/h1"), feed.listen_and_answer("hosts/h2")
    await anext(silent)
    await anext(answering)
    question = wire.encode_ask("1", "connections", {})
    assert [feed.log.ask(f"hosts/h{n}", question) is not None for n in (1, 2, 3)] == [False, True, False]
    assert await anext(answering) == question
    assert [feed.log.ask("hosts/h2", question) is not None for _ in range(3)] == [True, True, False]
    assert await anext(answering) == question * 2
    feed.rows[BIG] = [record(2)]
    feed.log.publish(2, ScopedDelta({BIG: Delta((record(2),), ())}, (), ()))
    assert (await anext(answering)).endswith(wire.encode_bookmark(2, synced=True))
    await feed.close()
