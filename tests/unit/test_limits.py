"""What one caller can do to others by asking too much, too slowly, or wrongly: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette

from polling import becomes
from unit.controller_world import BASE, LOCAL, CameIn, assembled, port, world
from unit.test_authorisation import STRANGER, by_token, shows
from unit.test_tls import Running, running
from weft.client import AsyncClient
from weft.controller import statuses
from weft.controller.authorisation import Action, Caller, Role
from weft.controller.callers import Callers
from weft.controller.doors import Crowd, Door, Listener, Patience, Peer, Server
from weft.controller.limits import AFTER, Limits, Share, TooMany, Waits
from weft.controller.service import Service
from weft.model.names import Name
from weft.store.memory import MemoryStore
from weft.tls import identity

SOON_S = 10.0


class Now:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


ANN = Caller(Role.TENANT_ADMIN, "user/ann", Name("tenants/blue"))
BOB = Caller(Role.TENANT_READER, "user/bob", Name("tenants/blue"))
EVE = Caller(Role.TENANT_ADMIN, "user/eve", Name("tenants/red"))
HERE = Caller(Role.ADMIN, "local uid 0", where="uid 0")


def limits(now: Now, **share: Any) -> Limits:
    given = Share(**{"per_s": 10, "burst": 5, "at_once": 2, "streams": 1, "body_bytes": 100, **share})
    return Limits(dict.fromkeys(Role, given), now)


def asked(it: Limits, caller: Caller, times: int) -> int:
    """How often it was let through."""
    through = 0
    for _ in range(times):
        with contextlib.suppress(TooMany):
            it.count(caller)
            through += 1
    return through


def test_a_tenants_users_share_and_nobody_elses_share_is_touched() -> None:
    now = Now()
    it = limits(now)
    assert asked(it, ANN, 4) + asked(it, BOB, 4) == 5
    assert asked(it, EVE, 6) == 5
    now.at_s += 0.2
    assert asked(it, BOB, 4) == 2
    now.at_s += 1000
    assert asked(it, ANN, 100) == 5
    assert asked(it, HERE, 100) == 100


def test_places_are_given_back_when_a_request_is_over() -> None:
    it = limits(Now())
    scopes: list[dict[str, Any]] = [{} for _ in range(3)]
    it.occupy(ANN, Action.READ_INTENT, scopes[0])
    it.occupy(BOB, Action.READ_INTENT, scopes[1])
    with pytest.raises(TooMany, match="2 requests are being answered"):
        it.occupy(ANN, Action.READ_INTENT, scopes[2])
    it.occupy(EVE, Action.READ_INTENT, {})
    it.occupy(ANN, Action.WATCH, {})
    with pytest.raises(TooMany, match="1 streams are open"):
        it.occupy(BOB, Action.WATCH, {})
    scopes[0][AFTER][0]()
    it.occupy(BOB, Action.READ_INTENT, scopes[2])


def test_callers_without_number_do_not_fill_the_memory() -> None:
    now = Now()
    it = limits(now)
    for number in range(30_000):
        now.at_s += 0.01
        it.count(Caller(Role.NOBODY, where=f"2001:db8::{number:x}"))
    assert len(it._buckets) < 11_000


def by(application: Starlette, peer: Peer) -> httpx2.AsyncClient:
    """Somebody who came in by one of its doors."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(CameIn(application, peer)), base_url="http://w")


async def test_whoever_asks_too_fast_is_told_to_wait_and_others_are_served() -> None:
    service = await Service.start(MemoryStore())
    callers = Callers([by_token])
    application = assembled(service, callers=callers, limits=limits(Now()))
    headers = {"authorization": "Bearer blue-reader"}
    async with (
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
        ) as tenant,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(CameIn(application, LOCAL)), base_url="http://w") as operator,
    ):
        found = [(await tenant.get("/v1/whoami", headers=headers)).status_code for _ in range(7)]
        assert found == [200] * 5 + [429] * 2
        refused = await tenant.get("/v1/whoami", headers=headers)
        assert refused.headers["retry-after"] == "1"
        assert (await operator.get("/v1/whoami")).status_code == 200


async def test_tokens_cannot_be_guessed_for_long() -> None:
    service = await Service.start(MemoryStore())
    application = assembled(service, callers=Callers([by_token]), limits=Limits(now_s=Now()))
    async with by(application, Peer(Door.TLS, "192.0.2.9")) as guesser:
        found = [
            (await guesser.get("/v1/whoami", headers={"authorization": f"Bearer weft_a_{n}"})).status_code
            for n in range(60)
        ]
        assert found == [401] * 50 + [429] * 10
        # Not even the right one: who guesses on would know it by that.
        assert (await guesser.get("/v1/whoami", headers={"authorization": "Bearer blue-admin"})).status_code == 429
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
    ) as other:
        assert (await other.get("/v1/whoami", headers={"authorization": "Bearer blue-admin"})).status_code == 200


@pytest.mark.parametrize(("who", "path"), [("blue-admin", "/v1/apply"), ("", "/v1/join")])
async def test_bodies_are_bounded_by_who_sends_them(who: str, path: str) -> None:
    service = await Service.start(MemoryStore())
    application = assembled(service, callers=Callers([by_token]))
    headers = {"authorization": f"Bearer {who}"} if who else {}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
    ) as it:
        answer = await it.post(path, content=b" " * ((4 << 20) + 1), headers=headers)
        assert answer.status_code == 413


async def test_a_hostile_host_cannot_fill_the_controllers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "MOST_PORTS", 10)
    async with world(peer=shows(identity.Role.HOST, "h1"), base=False) as it:
        await it.service.apply([_put(*each) for each in BASE], [], dry_run=False)

        async def say(first: int, count: int) -> int:
            ports = {f"tenants/blue/ports/x{n}": {"state": "active"} for n in range(first, first + count)}
            return (await it.http.post("/v1/hosts/h1/status", json={"revision": 1, "ports": ports})).status_code

        assert await say(0, 10) == 204
        assert await say(5, 5) == 204
        assert await say(20, 1) == 422


def _put(name: str, spec: dict[str, Any]) -> Any:
    import msgspec

    from weft.controller.service import Put

    return Put(Name(name), msgspec.json.encode(spec))


# ---- over real connections


@asynccontextmanager
async def listening(patience: Patience, waits: Waits) -> AsyncIterator[tuple[int, Crowd]]:
    """A controller with little patience."""
    service = await Service.start(MemoryStore())
    stopping = asyncio.Event()
    crowd, bound = Crowd(patience), socket.create_server(("127.0.0.1", 0))
    application = assembled(service, stopping, waits=waits)
    config = uvicorn.Config(
        application, log_config=None, lifespan="off", http="httptools", ws="none", timeout_graceful_shutdown=1
    )
    server = Server(config, [Listener(Door.LOOPBACK, bound)], crowd, lambda: None)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        try:
            yield bound.getsockname()[1], crowd
        finally:
            stopping.set()
            server.should_exit = True


IMPATIENT = Patience(headers_s=0.3)
HURRIED = Waits(piece_s=0.3, body_s=0.6, send_s=0.3)
HEAD = b"PUT /v1/tenants/a HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        [b""],  # nothing at all
        [b"GET /healthz HTTP/1.1\r\n"],  # half a head
        [b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"\r\n", b"\r\n"],  # one, and then half of another
        [HEAD],  # no body
        [HEAD, b"{", b" ", b" ", b" ", b" ", b" ", b" ", b" ", b" ", b" "],  # a body byte by byte
    ],
)
async def test_who_does_not_say_what_it_wants_is_cut_off(said: list[bytes]) -> None:
    async with listening(IMPATIENT, HURRIED) as (number, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        with contextlib.suppress(ConnectionError):
            for each in said:
                writer.write(each)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await asyncio.Event().wait()
            async with asyncio.timeout(SOON_S):
                await reader.read()
        writer.close()


async def test_a_head_without_end_is_cut_off() -> None:
    async with listening(Patience(headers_bytes=20_000), HURRIED) as (number, crowd):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SOON_S):
                while crowd.timed_out == 0:
                    writer.write(b"x-more: " + b"y" * 1000 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
                await reader.read()
        assert crowd.timed_out == 1
        writer.close()


async def test_a_caller_has_so_many_connections_and_others_have_theirs() -> None:
    patience = Patience(connections=3)
    async with listening(patience, HURRIED) as (number, crowd):
        held = [await asyncio.open_connection("127.0.0.1", number) for _ in range(3)]
        await becomes(lambda: crowd.all == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SOON_S):
                assert await reader.read() == b""
        assert crowd.turned_away == 1
        for _, other in [*held, (reader, writer)]:
            other.close()
        await becomes(lambda: crowd.all == 0)
        async with AsyncClient(f"http://127.0.0.1:{number}") as client:
            assert (await client.health())["status"] == "ok"


async def test_a_listener_that_does_not_read_is_dropped_and_can_come_back() -> None:
    async with listening(Patience(), HURRIED) as (number, crowd), AsyncClient(f"http://127.0.0.1:{number}") as client:
        await client.apply(BASE)
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", number))
        slow.send(b"GET /v1/watch HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await becomes(lambda: crowd.all == 2)
        async with asyncio.timeout(SOON_S * 2):
            revision = 1
            while crowd.all > 1:  # until it is dropped; what is written meanwhile is written for all others
                item = await client.put("tenants/blue", {"description": f"{revision} " + "x" * 60_000})
                revision = item.revision
        slow.close()
        fresh = await client.put("tenants/green", {})
        async for event in client.watch(fresh.revision - 1):
            if event.puts:
                assert event.puts[0].name == "tenants/green"
                break


async def test_nonsense_harms_nobody(tmp_path: Path) -> None:
    """Bytes of every kind at a TLS port, while somebody else goes on writing."""
    async with running(tmp_path) as it:
        number = int(it.url.rpartition(":")[2])
        stop = asyncio.Event()

        async def throw(said: bytes) -> None:
            while not stop.is_set():
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", number)
                    writer.write(said)
                    await writer.drain()
                    writer.close()

        async with asyncio.TaskGroup() as tasks:
            for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 500, b"\x80" * 4000, b""):
                tasks.create_task(throw(said))
            try:
                await _write_on(it)
            finally:
                stop.set()


async def _write_on(it: Running) -> None:
    from unit.certificates import ADMIN, credentials_of

    async with AsyncClient(it.url, credentials=credentials_of(it.ca, ADMIN)) as client:
        await client.apply(BASE)
        for number in range(20):
            await client.put(*port(number))
        assert (await client.page("tenants/blue/ports")).items[0].name == "tenants/blue/ports/p0"
