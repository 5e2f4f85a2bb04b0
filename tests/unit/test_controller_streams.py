"""What streams, over a real server on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polling import PATIENCE_S
from unit.controller_world import BASE, defaults, port
from weft.apps import controller
from weft.client import ApiError, AsyncClient, Client, Event, PortReport, StatusReport
from weft.kit.errors import Rejected, Retry


@dataclass(frozen=True, slots=True)
class Running:
    client: AsyncClient
    stop: Callable[[], None]
    ended: asyncio.Task[None]
    url: str


@asynccontextmanager
async def running(directory: Path, *more: str) -> AsyncIterator[Running]:
    url = f"unix://{directory}/s"
    stopping, ready = asyncio.Event(), asyncio.Event()
    ended = asyncio.create_task(controller.serve(str(directory / "weft.db"), [url, *more], stopping, ready=ready.set))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait({ended, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        await ended
    async with AsyncClient(url) as client:
        yield Running(client, stopping.set, ended, url)
    stopping.set()
    async with asyncio.timeout(PATIENCE_S):
        await ended


async def events(client: AsyncClient, count: int, revision: int | None = None, prefix: str = "") -> list[Event]:
    """The first so many that say something."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(client.watch(revision, prefix)) as stream:
        async for event in stream:
            if event.puts or event.deletes:
                found.append(event)
            if len(found) == count:
                break
    return found


async def frames(feed: AsyncIterator[bytes], until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Every frame up to and with the first of which ``until`` holds."""
    pending = b""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        async for chunk in feed:
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                found.append(msgspec.json.decode(line))
                if until(found[-1]):
                    return found
    raise AssertionError(f"the feed ended: {found}")


async def test_a_watch_tells_what_was_and_what_comes(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        first = await it.client.apply(BASE)
        await it.client.put("tenants/red", {})
        watching = asyncio.ensure_future(events(it.client, 3, first.revision))
        await it.client.apply([port(1)], ["tenants/red"])
        await it.client.patch("tenants/blue/ports/p1", {"host": "h2"})
        found = await watching
        assert [(e.revision, sorted(p.name for p in e.puts), sorted(e.deletes)) for e in found] == [
            (2, ["tenants/red", *defaults("red")], []),
            (3, ["tenants/blue/ports/p1"], ["tenants/red", *defaults("red")]),
            (4, ["tenants/blue/ports/p1"], []),
        ]
        assert found[2].puts[0] == await it.client.get("tenants/blue/ports/p1")


async def test_a_watch_of_a_prefix_tells_of_what_is_below_it_only(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply([*BASE, ("tenants/blue-2", {})])
        await it.client.apply([port(1), ("tenants/blue-2", {"description": "no"})])
        await it.client.put("tenants/blue-2", {})
        await it.client.put("tenants/blue", {"description": "yes"})
        found = await events(it.client, 2, 1, "tenants/blue")
        assert [[p.name for p in e.puts] for e in found] == [["tenants/blue/ports/p1"], ["tenants/blue"]]


async def test_a_watch_from_now_begins_with_a_bookmark(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply(BASE)
        async with asyncio.timeout(PATIENCE_S), aclosing(it.client.watch()) as stream:
            assert await anext(stream) == Event(revision=1)
            await it.client.put("tenants/red", {})
            assert sorted(item.name for item in (await anext(stream)).puts) == ["tenants/red", *defaults("red")]


async def test_a_watch_from_a_revision_that_is_not_known_is_410(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply(BASE)
        with pytest.raises(ApiError) as gone:
            await events(it.client, 1, 7)
        assert (gone.value.status, gone.value.field) == (410, "revision")


async def test_a_host_is_fed_its_rows_and_its_changes_and_counts_as_connected(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply([*BASE, port(1)])
        feed = it.client.feed("hosts/h1")
        started = await frames(feed, lambda frame: frame.get("synced") is True)
        history = started[-1]["history"]
        assert started[-1] == {"revision": 1, "synced": True, "history": history}
        tables = {table for frame in started for table in frame.get("puts", {})}
        assert tables == {"hosts", "subnets", "peers", "records", "macs", "members", "routes", "ports"}
        assert (await it.client.get("hosts/h1")).status["state"] == "connected"
        assert (await it.client.get("hosts/h2")).status["state"] == "absent"
        await it.client.report(
            "hosts/h1", StatusReport(revision=1, ports={"tenants/blue/ports/p1": PortReport("active")}, complete=True)
        )
        assert (await it.client.get("tenants/blue/ports/p1")).status["state"] == "active"
        await it.client.apply([port(2)])
        changed = await frames(feed, lambda frame: frame.get("revision") == 2)
        assert "tenants/blue/ports/p2" in str(changed)
        await feed.aclose()
        async with asyncio.timeout(PATIENCE_S):
            while (await it.client.get("hosts/h1")).status["state"] == "connected":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        resumed = await frames(it.client.feed("hosts/h1", 1, history), lambda frame: "synced" in frame)
        assert resumed[0] == {"resume": 1}
        assert "tenants/blue/ports/p2" in str(resumed)


async def test_a_host_that_followed_another_store_starts_over_whatever_its_revision(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply([*BASE, port(1)])
        for history in ("", "0f0e0d0c.1"):
            with pytest.raises(ApiError) as gone:
                await frames(it.client.feed("hosts/h1", 1, history), bool)
            assert gone.value.status == 410


async def test_the_feed_of_a_host_that_is_deleted_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply(BASE)
        feed = it.client.feed("hosts/h2")
        await frames(feed, lambda frame: "synced" in frame)
        await it.client.delete("hosts/h2")
        async with asyncio.timeout(PATIENCE_S):
            async for _ in feed:
                pass
        with pytest.raises(ApiError) as missing:
            await frames(it.client.feed("hosts/h2"), bool)
        assert missing.value.status == 404


async def test_a_stop_ends_open_streams_in_good_order(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply(BASE)
        feed = it.client.feed("hosts/h1")
        await frames(feed, lambda frame: "synced" in frame)
        watch = it.client.watch()
        await anext(watch)
        it.stop()
        async with asyncio.timeout(PATIENCE_S):
            assert [chunk async for chunk in feed] == []  # the whole of an answer: no broken connection
            assert [event async for event in watch] == []
            await it.ended


async def test_a_listener_that_does_not_read_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.client.apply(BASE)
        reader, writer = await asyncio.open_unix_connection(it.url.removeprefix("unix://"), limit=16)
        writer.write(b"GET /v1/watch HTTP/1.1\r\nhost: weft\r\n\r\n")
        await reader.readexactly(12)
        for n in range(5):  # more than the socket takes
            await it.client.apply([(f"tenants/t{n}-{k}", {"description": "x" * 500}) for k in range(500)])
        it.stop()
        async with asyncio.timeout(PATIENCE_S):
            await it.ended
        writer.transport.abort()


async def test_the_synchronous_client_does_the_same(tmp_path: Path) -> None:
    def use(url: str) -> None:
        with Client(url) as client:
            assert client.health()["revision"] == 0
            client.apply(BASE)
            client.put(*port(1))
            assert [item.name for item in client.list("tenants/-/ports", host="h1")] == ["tenants/blue/ports/p1"]
            assert client.patch("tenants/blue/ports/p1", {"host": None}).spec.get("host") is None
            client.put(*port(1))
            assert client.trace("tenants/blue/ports/p1", to="10.0.1.1").outcome["verdict"] == "answered"
            client.report("hosts/h1", StatusReport(revision=1))
            watch = client.watch(1)
            assert [item.name for item in next(watch).puts] == ["tenants/blue/ports/p1"]
            watch.close()
            feed = client.feed("hosts/h1")
            assert b"hosts/h1" in next(feed)
            feed.close()
            client.delete("tenants/blue/ports/p1")
            with pytest.raises(ApiError) as missing:
                client.get("tenants/blue/ports/p1")
            assert missing.value.status == 404

    async with running(tmp_path) as it:
        await asyncio.to_thread(use, it.url)


@pytest.mark.parametrize("url", ["unix:///nowhere/at/all", "http://127.0.0.1:1"])
async def test_a_client_without_a_controller_is_told_to_retry_and_where(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(Retry, match=url):
            await client.health()
        with pytest.raises(Retry, match=url):
            await anext(client.watch())


@pytest.mark.parametrize("url", ["", "controller", "ftp://x", "unix://relative", "http://", "/run/x"])
def test_a_client_refuses_what_is_no_url(url: str) -> None:
    with pytest.raises(Rejected, match="is not a controller's URL"):
        Client(url)
