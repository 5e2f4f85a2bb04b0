"""The only controller of its store: it is always its turn, and there are no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager


class Alone:
    """The cluster contract for one."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    @asynccontextmanager
    async def turn(self, work: str) -> AsyncIterator[asyncio.Event]:  # noqa: ARG002 -- the contract's
        yield asyncio.Event()

    async def others(self) -> AsyncGenerator[Mapping[str, str], None]:
        yield {}
        await asyncio.Event().wait()

    async def left_behind_by(self, schema: int) -> list[str]:  # noqa: ARG002 -- the contract's
        return []

    async def close(self) -> None:
        pass
