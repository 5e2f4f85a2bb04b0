"""Callers who do not say what they want, do not read what they asked for, or send nonsense: they harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from polling import PATIENCE_S, becomes
from unit.certificates import ADMIN, CONTROLLER, authority, credentials_of, files_of
from unit.controller_world import BASE, assembled, port
from unit.test_tls import Running, running
from weft.client import AsyncClient
from weft.controller.doors import Crowd, Door, Listener, Patience, Server
from weft.controller.limits import Waits
from weft.controller.service import Service
from weft.store.memory import MemoryStore
from weft.tls.contexts import ClientTls, ServerTls


@asynccontextmanager
async def listening(patience: Patience, waits: Waits) -> AsyncIterator[tuple[int, Crowd]]:
    """A controller with little patience."""
    async with served(patience, waits) as (number, crowd, _):
        yield number, crowd


@asynccontextmanager
async def served(
    patience: Patience, waits: Waits, tls: ServerTls | None = None
) -> AsyncIterator[tuple[int, Crowd, Server]]:
    service = await Service.start(MemoryStore())
    stopping = asyncio.Event()
    crowd, bound = Crowd(patience), socket.create_server(("127.0.0.1", 0))
    application = assembled(service, stopping, waits=waits)
    config = uvicorn.Config(
        application, log_config=None, lifespan="off", http="httptools", ws="none", timeout_graceful_shutdown=1
    )
    listener = Listener(Door.LOOPBACK, bound) if tls is None else Listener(Door.TLS, bound, tls)
    server = Server(config, [listener], crowd, lambda: None)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        try:
            yield bound.getsockname()[1], crowd, server
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
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
        writer.close()


async def test_a_head_without_end_is_cut_off() -> None:
    async with listening(Patience(headers_bytes=20_000), HURRIED) as (number, crowd):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
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
            async with asyncio.timeout(PATIENCE_S):
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
        async with asyncio.timeout(PATIENCE_S):
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


async def test_a_listener_over_tls_that_does_not_read_keeps_no_more_of_the_controllers_memory(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    async with (
        served(Patience(), Waits(), ServerTls(files_of(ca, CONTROLLER))) as (number, crowd, server),
        AsyncClient(f"https://127.0.0.1:{number}", credentials=credentials_of(ca, ADMIN)) as client,
    ):
        await client.apply(BASE)
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", number))
        context = ClientTls(files_of(ca, ADMIN)).context
        _, writer = await asyncio.open_connection(sock=slow, ssl=context, server_hostname="127.0.0.1", limit=4096)
        writer.write(b"GET /v1/watch HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await becomes(lambda: crowd.all == 2)
        seen = [0]
        for revision in range(200):  # 12 MB: more than the kernel keeps for a socket
            await client.put("tenants/blue", {"description": f"{revision} " + "x" * 60_000})
            waiting = [each.transport.get_write_buffer_size() for each in server.server_state.connections]
            seen.append(max(waiting))
        assert 64 << 10 < max(seen) < 256 << 10  # it was held up, by one change more than 64 KiB
        writer.transport.abort()


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
