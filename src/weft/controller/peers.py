"""The other controllers of the store: what their hosts say to them is known here, too. Carries no intent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol, TypeAlias

import msgspec
import structlog

from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.cluster import Cluster
from weft.controller.service import Service
from weft.kit.errors import Rejected, Retry
from weft.wire.api import Told

# A controller that says nothing for so long is gone, and with it those who were connected to it.
SILENCE_S = 3.0
_AGAIN_S = 0.3

_log = structlog.stdlib.get_logger("weft.peers")
_decode = msgspec.json.Decoder(Told).decode


class Peer(Protocol):
    """Another controller, as a client sees it."""

    def statuses(self) -> AsyncGenerator[bytes, None]:
        """Lines, as they come. Raises Retry."""
        ...

    async def pass_on(self, host: str, what: str, body: object, timeout_s: float) -> bytes:
        """A question to a host that is connected there; its answer. Raises Retry, ApiError."""
        ...


#: Opens the way to the controller at a URL.
Reach: TypeAlias = Callable[[str], AbstractAsyncContextManager[Peer]]


async def listen(service: Service, cluster: Cluster, reach: Reach, clock: Clock) -> None:
    """To all others that there are, until cancelled."""
    tasks: dict[str, asyncio.Task[None]] = {}
    try:
        async with aclosing(cluster.others()) as others:
            async for there in others:
                for gone in tasks.keys() - there.keys():
                    await _ended(tasks.pop(gone))
                for id_ in there.keys() - tasks.keys():
                    tasks[id_] = asyncio.ensure_future(_listen_to(service, id_, there[id_], reach, clock))
    finally:
        for task in tasks.values():
            await _ended(task)


async def _ended(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _listen_to(service: Service, id_: str, url: str, reach: Reach, clock: Clock) -> None:
    connected = False
    try:
        while True:
            try:
                async with reach(url) as peer, aclosing(peer.statuses()) as lines:
                    service.statuses.hear_anew(id_)
                    service.others[id_] = peer
                    while True:
                        async with asyncio.timeout(SILENCE_S):
                            line = await anext(lines)
                        service.was_told(id_, _decode(line))
                        if not connected:
                            connected = True
                            _log.info("hears another controller", url=url)
            except (Retry, Rejected, ApiError, TimeoutError, StopAsyncIteration, msgspec.DecodeError) as error:
                if connected:
                    _log.warning("no longer hears another controller", url=url, reason=str(error))
                connected = False
                service.statuses.hear_no_more(id_)
            finally:
                service.others.pop(id_, None)
            await clock.sleep(_AGAIN_S)
    finally:
        service.statuses.hear_no_more(id_)


async def in_turn(cluster: Cluster, work: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does a work whenever it is this process's turn, until cancelled or the work is over."""
    while True:
        async with cluster.turn(work) as lost:
            task, losing = asyncio.ensure_future(run()), asyncio.ensure_future(lost.wait())
            try:
                await asyncio.wait((task, losing), return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    task.result()
                    return
            finally:
                await _ended(losing)
                await _ended(task)
