"""Has what waits for guests of arriving ports be what is new (ebpf/waiting.py). Decides whose, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from weft.agent.exporter import Ask
from weft.contracts.clock import Clock
from weft.policy.rows import Port

#: Between two rounds.
AGAIN_S = 0.025


class Queues:
    """All ports' that are on their way to this host."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._arriving: frozenset[str] = frozenset()
        self._stirred = asyncio.Event()

    def follow(self, ports: Mapping[str, Port]) -> None:
        """All ports of this host, as they are now. At an interface with sub-ports frames differ by their tags, which
        one that is put back would lack: its queue is as the kernel has it.
        """
        arriving = {name for name, port in ports.items() if port.arriving and port.parent is None}
        if arriving:
            arriving -= {port.parent for port in ports.values() if port.parent is not None}
        self._arriving = frozenset(arriving)
        self._stirred.set()

    async def run(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self._arriving:
                await self._freshen()
                await self._clock.sleep(AGAIN_S)
            await self._freshen()

    async def _freshen(self) -> None:
        arriving = self._arriving
        await self._ask(lambda plane: plane.freshen(arriving))
