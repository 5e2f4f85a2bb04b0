"""The controllers of one store, as far as they must know of each other. Carries no intent: that is the store's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Cluster(Protocol):
    """This process is one of those who share a store, from ``run`` on until that ends."""

    async def run(self) -> None:
        """Says that this one is there, again and again, until it is cancelled."""
        ...

    def turn(self, work: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Waits until this process is the one that does a certain work. The event is set when it must stop at once.

        Nobody else begins before it is set here. Whoever writes is still bound by what the store says: a turn saves
        work, and is no lock.
        """
        ...

    def others(self) -> AsyncGenerator[Mapping[str, str], None]:
        """Those there are beside this one (id -> URL): at once, and whenever that changes."""
        ...

    async def left_behind_by(self, schema: int) -> list[str]:
        """URLs of those who could not go on with a store of that schema version."""
        ...

    async def close(self) -> None: ...
