"""Has TCP notice within two seconds that a machine is gone, on a stream that is silent. Says nothing on it itself.

Whoever cuts a machine off tells nobody. TCP asks a silent peer after a second (keepalive), and the kernel on the other
side answers however busy its processes are; but it asks again after a whole second only, and gives up at the next. To
set what is set already makes it ask at once: so it is asked several times within the user timeout, and a packet that is
lost now and then costs no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

#: So often a silent peer is asked, once it has been silent for IDLE_S.
AGAIN_S = 0.2
IDLE_S = 1
#: What was sent, or asked, and is not answered for so long never will be.
GIVE_UP_S = 1.3

#: A machine that is gone is noticed after GIVE_UP_S + AGAIN_S at the latest; without ``asking`` it takes two seconds.
KEEPALIVE: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(GIVE_UP_S * 1_000)),
]


@contextlib.asynccontextmanager
async def asking(extensions: Mapping[str, Any]) -> AsyncIterator[None]:
    """While a stream is read. extensions: of the HTTP client's answer."""
    connection = _connection(extensions)
    if connection is None:
        yield
        return

    async def ask() -> None:
        while _ask(connection):  # noqa: ASYNC110 -- what is waited for is the kernel's
            await asyncio.sleep(AGAIN_S)

    task = asyncio.ensure_future(ask())
    try:
        yield
    finally:
        task.cancel()


@contextlib.contextmanager
def asking_beside(extensions: Mapping[str, Any]) -> Iterator[None]:
    """The same for a thread that waits for the stream: another asks meanwhile."""
    connection = _connection(extensions)
    if connection is None:
        yield
        return
    over = threading.Event()

    def ask() -> None:
        while _ask(connection) and not over.wait(AGAIN_S):
            pass

    threading.Thread(target=ask, name="weft-liveness", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _connection(extensions: Mapping[str, Any]) -> Any:
    """The socket of an answer that came by TCP. (asyncio gives one of its own kind.)"""
    stream = extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    return found if found is not None and found.family in (socket.AF_INET, socket.AF_INET6) else None


def _ask(connection: Any) -> bool:
    """False: it is closed."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    except OSError:
        return False
    return True
