"""Tells the controller what this host's guests announce: the last word of each, soon, and no more than a guest's share.

Never believes a guest: whether it may have what it says is the controller's to judge, and to remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.dataplane import Announcement
from weft.kit.errors import Retry
from weft.kit.waiting import first_of
from weft.policy.rows import tenant_of_port
from weft.wire.api import MOST_ANNOUNCED, Announced

_log = structlog.get_logger("weft.agent")

#: What waits to be told, in all and of one port; of a tenant no more than it leaves. Beyond it the oldest of the port,
#: or of the tenant, is forgotten.
MOST = 4096
MOST_OF_PORT = 128

#: How much of a port's is passed on: so many at once, then so many a second.
BURST = 64
PER_S = 10.0

RETRY_FIRST_S = 0.2
RETRY_MOST_S = 10.0

#: Answers that no repetition changes: what was sent is wrong, or there is no such thing to send it to.
_HOPELESS = (400, 413, 422)

_Key: TypeAlias = tuple[str, str]  # port, address


class Controller(Protocol):
    """Whom to tell."""

    async def announce(self, host: str, announced: Sequence[Announced]) -> None: ...


@dataclass(slots=True)
class _Bucket:
    """A port's share: what is left of it, and since when that is so."""

    left: float
    at_s: float

    def fill(self, now_s: float) -> float:
        self.left = min(float(BURST), self.left + (now_s - self.at_s) * PER_S)
        self.at_s = now_s
        return self.left


@dataclass(slots=True)
class Figures:
    """All that came of announcements so far. told: the controller has them; what it made of them is in its own figures.

    replaced: the same port said something newer of the same address before it was told.
    """

    told: int = 0
    replaced: int = 0
    forgotten: int = 0
    refused: int = 0


class Announcer:
    """What is still to be told. ``heard`` adds to it; ``run`` tells it, for ever."""

    def __init__(self, host: str, controller: Controller, clock: Clock) -> None:
        self.figures = Figures()
        self._host = host
        self._controller = controller
        self._clock = clock
        self._waiting: dict[_Key, Announcement] = {}  # the oldest first
        self._of_port: dict[str, dict[_Key, None]] = {}
        self._of_tenant: dict[str, dict[_Key, None]] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()

    def heard(self, announced: Iterable[Announcement]) -> None:
        for each in announced:
            key = (each.port, each.address)
            if key in self._waiting:
                self._take(key)
                self.figures.replaced += 1
            self._put(key, each)
        if self._waiting:
            self._news.set()

    def connected(self) -> None:
        """The controller is there again: no need to wait any longer."""
        self._hurry.set()

    async def run(self) -> None:
        failures = 0
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            some = self._share()
            if not some:
                await self._pause(self._news, 1 / PER_S)
                continue
            try:
                await self._controller.announce(
                    self._host, [Announced(each.port, each.mac, each.address) for each in some]
                )
            except (Retry, ApiError) as fault:
                if isinstance(fault, ApiError) and fault.status in _HOPELESS:
                    _log.warning("announcements are refused", reason=str(fault), announcements=len(some))
                    self.figures.refused += len(some)
                    continue
                _log.info("announcements are not told yet", reason=str(fault), announcements=len(some))
                self._return(some)
                await self._pause(self._hurry, min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(failures, 10)))
                failures += 1
            else:
                failures = 0
                self.figures.told += len(some)

    def _share(self) -> list[Announcement]:
        """Take what may be told now: of each port as much as is left of its share."""
        now_s = self._clock.now_s()
        left = {port: self._buckets.setdefault(port, _Bucket(BURST, now_s)).fill(now_s) for port in self._of_port}
        some: list[Announcement] = []
        for key in list(self._waiting):
            if left[key[0]] >= 1:
                left[key[0]] -= 1
                some.append(self._take(key))
                if len(some) == MOST_ANNOUNCED:
                    break
        for port, rest in left.items():
            self._buckets[port].left = rest
        for port in [port for port, bucket in self._buckets.items() if bucket.fill(now_s) >= BURST]:
            del self._buckets[port]  # as good as new
        return some

    def _return(self, some: Iterable[Announcement]) -> None:
        """What was not told waits on, ahead of what came after it, unless something newer was said."""
        later = list(self._waiting.items())
        self._waiting, self._of_port, self._of_tenant = {}, {}, {}
        newer = {key for key, _ in later}
        for each in some:
            if (key := (each.port, each.address)) not in newer:
                self._put(key, each)
            else:
                self.figures.replaced += 1
        for key, each in later:
            self._put(key, each)

    def _put(self, key: _Key, announcement: Announcement) -> None:
        of_port = self._of_port.setdefault(key[0], {})
        if len(of_port) >= MOST_OF_PORT:
            self._forget(next(iter(of_port)))
        elif len(of_tenant := self._of_tenant.get(tenant_of_port(key[0]), {})) >= MOST - len(self._waiting):
            crowd = of_tenant or max(self._of_tenant.values(), key=len)
            self._forget(next(iter(crowd)))
        self._waiting[key] = announcement
        self._of_port.setdefault(key[0], {})[key] = None
        self._of_tenant.setdefault(tenant_of_port(key[0]), {})[key] = None

    def _forget(self, key: _Key) -> None:
        self._take(key)
        self.figures.forgotten += 1

    def _take(self, key: _Key) -> Announcement:
        of_port = self._of_port[key[0]]
        del of_port[key]
        if not of_port:
            del self._of_port[key[0]]
        of_tenant = self._of_tenant[tenant_of_port(key[0])]
        del of_tenant[key]
        if not of_tenant:
            del self._of_tenant[tenant_of_port(key[0])]
        return self._waiting.pop(key)

    async def _pause(self, signal: asyncio.Event, seconds: float) -> None:
        """Until then, or until the signal."""
        try:
            await first_of(signal.wait(), self._clock.sleep(seconds))
        finally:
            signal.clear()
