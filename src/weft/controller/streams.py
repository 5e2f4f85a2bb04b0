"""Answers that never end: the feed and the watch as NDJSON. Neither holds up the controller's own end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from weft.contracts.store import Batch, Compacted
from weft.wire.api import Told

Chunks: TypeAlias = AsyncGenerator[bytes, None]

#: Returns when a stream is to end.
Until: TypeAlias = Callable[[], Awaitable[None]]

CONTENT_TYPE = "application/x-ndjson"

# A listener that does not read gets this long for the last, empty piece of its stream.
_FAREWELL_S = 0.2


class Stream(StreamingResponse):
    """Sends ``first`` and what ``chunks`` yields, until that ends, the listener goes, ``stopping`` is set or ``until``
    returns: when the listener may not listen any more.

    Closes ``chunks`` in any case; it must have taken its first step (which gave ``first``), so that what that step
    refuses was an answer of its own.
    """

    def __init__(self, first: bytes, chunks: Chunks, stopping: asyncio.Event, until: Until) -> None:
        super().__init__(chunks, media_type=CONTENT_TYPE, headers={"cache-control": "no-store"})
        self._first = first
        self._chunks = chunks
        self._stopping = stopping
        self._until = until

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            pump = asyncio.ensure_future(self._pump(send))
            others = [
                asyncio.ensure_future(_gone(receive)),
                asyncio.ensure_future(self._stopping.wait()),
                asyncio.ensure_future(self._until()),
            ]
            try:
                await asyncio.wait((pump, *others), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (pump, *others):
                    task.cancel()
                await asyncio.gather(pump, *others, return_exceptions=True)
        if not pump.cancelled() and (error := pump.exception()) and not isinstance(error, OSError):
            raise error
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_FAREWELL_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def watch(
    batches: AsyncGenerator[Batch, None],
    line: Callable[[Batch], bytes | None],
    since: int,
    now: int,
    *,
    bookmark_s: float,
) -> AsyncGenerator[bytes, None]:
    """A line for every batch after ``since`` that has one, and a bookmark after every silence of ``bookmark_s``.

    Raises Compacted at its first step, or else ends when the log overtakes it: who comes back is told then.
    """
    async with aclosing(batches):
        if since == now:
            yield _bookmark(since)
        else:
            batch = await anext(batches)
            since = batch.revision
            yield line(batch) or _bookmark(since)
        step = asyncio.ensure_future(_next(batches))
        try:
            while True:
                # Not wait_for: to cancel the step would be to end the generator behind it.
                await asyncio.wait({step}, timeout=bookmark_s)
                if not step.done():
                    yield _bookmark(since)
                    continue
                following = step.result()
                if following is None:
                    return
                since = following.revision
                step = asyncio.ensure_future(_next(batches))
                if (text := line(following)) is not None:
                    yield text
        except Compacted:
            return
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def told(lines: AsyncGenerator[Told, None], *, every_s: float, first: bool) -> AsyncGenerator[bytes, None]:
    """What another controller is told, line by line; an empty one after every silence of ``every_s``.

    first: it is of the first release.
    """
    async with aclosing(lines):
        step = asyncio.ensure_future(anext(lines, None))
        try:
            while True:
                await asyncio.wait({step}, timeout=every_s)
                if not step.done():
                    yield b"{}\n"
                    continue
                if (line := step.result()) is None:
                    return
                step = asyncio.ensure_future(anext(lines, None))
                yield msgspec.json.encode(line.as_at_first() if first else line) + b"\n"
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


def _bookmark(revision: int) -> bytes:
    return msgspec.json.encode({"revision": revision}) + b"\n"


async def _next(batches: AsyncGenerator[Batch, None]) -> Batch | None:
    return await anext(batches, None)
