"""Carries what hosts tell each other of who listens to which multicast group: by the probes' sockets, and on to the
data plane. Decides nothing: interest.py.
"""

from __future__ import annotations

import asyncio

import structlog

from weft.agent.dhcp import Ask
from weft.agent.interest import Interest
from weft.agent.probes import Prober
from weft.contracts.clock import Clock

_log = structlog.get_logger("weft.agent")

#: What comes within this is dealt with together.
_TOGETHER_S = 0.01


class Exchange:
    """One host's. ``run`` sends and tells, for ever."""

    def __init__(self, interest: Interest, prober: Prober, ask: Ask, clock: Clock) -> None:
        self.interest = interest
        self._prober = prober
        self._ask = ask
        self._clock = clock
        self._awake = asyncio.Event()
        prober.other = self._receive

    def changed(self) -> None:
        """``interest`` has heard something."""
        self._awake.set()

    def _receive(self, pa: str, sender: str, data: bytes) -> None:
        self.interest.receive(pa, sender, data, self._clock.now_s())
        self._awake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        # What a former agent was told would go on without anybody to tell it what changes.
        await self._ask(lambda plane: plane.heed({}))
        while True:
            self._awake.clear()
            for datagram in self.interest.due(self._clock.now_s()):
                self._prober.send(datagram.source, datagram.destination, datagram.data)
            if wanted := self.interest.heed():
                for failure in await self._ask(lambda plane, wanted=wanted: plane.heed(wanted)):  # type: ignore[misc]
                    _log.warning("a host is sent every group", subnet=failure.key[1], reason=failure.reason)
            next_s = self.interest.next_s
            wait_s = None if next_s is None else max(_TOGETHER_S, next_s - self._clock.now_s())
            try:
                async with asyncio.timeout(wait_s):
                    await self._awake.wait()
            except TimeoutError:
                continue
