"""How much one caller may ask: requests a second, requests at once, streams, bytes. Nobody's share is another's to use.

Buckets are of callers, not of connections; a tenant's users share one, since a tenant can have as many users as it
likes. This machine's operator is not bounded: who comes in without saying more is root here, and can do worse.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from prometheus_client.core import CounterMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.controller.authorisation import Action, Caller, Role
from weft.controller.doors import ABORT, Door

#: Where a request's scope holds what is to be called when it is over.
AFTER = "weft.after"

#: Buckets there may be before those that are full are forgotten.
_MOST_BUCKETS = 10_000


class TooMany(Exception):
    """A caller asks for more than its share. Nothing was done."""

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Share:
    """What one caller may have. at_once: requests that are being answered; streams: feeds and watches beside them."""

    per_s: float
    burst: int
    at_once: int
    streams: int
    body_bytes: int


#: By role. A tenant's is all its users' together; nobody's is an address's.
SHARES: Mapping[Role, Share] = {
    Role.ADMIN: Share(1000, 2000, 256, 1024, 64 << 20),
    Role.OPERATOR: Share(1000, 2000, 256, 1024, 64 << 20),
    Role.TENANT_ADMIN: Share(100, 200, 16, 32, 4 << 20),
    Role.TENANT_READER: Share(100, 200, 16, 32, 64 << 10),
    Role.HOST: Share(50, 200, 8, 4, 8 << 20),
    Role.CONTROLLER: Share(50, 200, 8, 8, 64 << 10),
    Role.NOBODY: Share(50, 200, 64, 0, 64 << 10),
}

#: Of one address: how often it may be wrong about who it is.
_WRONG_PER_S, _WRONG_BURST = 5.0, 50

_STREAMS = frozenset({Action.WATCH, Action.READ_FEED, Action.FOLLOW_AUDIT, Action.SPEAK_AS_CONTROLLER})


@dataclass(slots=True)
class _Bucket:
    left: float
    at_s: float

    def take(self, per_s: float, burst: int, now_s: float) -> float:
        """0 when there was one to take; else in how many seconds there will be."""
        self.left = min(burst, self.left + (now_s - self.at_s) * per_s)
        self.at_s = now_s
        if self.left < 1:
            return (1 - self.left) / per_s
        self.left -= 1
        return 0


@dataclass(slots=True)
class Limits:
    """The shares that are in use."""

    shares: Mapping[Role, Share] = field(default_factory=lambda: SHARES)
    now_s: Callable[[], float] = time.monotonic
    refused: Counter[str] = field(default_factory=Counter)
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _busy: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def count(self, caller: Caller) -> None:
        """One more request. Raises TooMany."""
        if not _is_here(caller):
            share = self.shares[caller.role]
            self._spend(f"request {_who(caller)}", share.per_s, share.burst)

    def occupy(self, caller: Caller, action: Action, scope: Scope) -> None:
        """A place, until the request is over. Raises TooMany."""
        if _is_here(caller):
            return
        share, who = self.shares[caller.role], _who(caller)
        streams = action in _STREAMS
        place, most = (who, streams), share.streams if streams else share.at_once
        if self._busy[place] >= most:
            self.refused["at once"] += 1
            what = "streams are open" if streams else "requests are being answered"
            raise TooMany(f"{most} {what} already, which is what a {caller.role.value} may have", 1)
        self._busy[place] += 1
        scope.setdefault(AFTER, []).append(lambda: self._leave(place))

    def check_guesses(self, where: str) -> None:
        """Before looking whether somebody is who it says. Raises TooMany when it was wrong too often."""
        bucket = self._buckets.get(f"wrong {where}")
        if bucket is not None and bucket.left + (self.now_s() - bucket.at_s) * _WRONG_PER_S < 1:
            self.refused["guesses"] += 1
            raise TooMany("it was said too often, and wrongly, who asks", 1)

    def guessed_wrong(self, where: str) -> None:
        bucket = self._buckets.setdefault(f"wrong {where}", _Bucket(_WRONG_BURST, self.now_s()))
        bucket.take(_WRONG_PER_S, _WRONG_BURST, self.now_s())

    def most_bytes(self, caller: Caller, most: int) -> int:
        """Of a body of which anybody may send at most so much."""
        return min(most, self.shares[caller.role].body_bytes)

    def figures(self) -> Iterator[Metric]:
        refused = CounterMetricFamily("weft_http_refused", "Requests beyond a caller's share", labels=["reason"])
        for reason in ("too fast", "at once", "guesses"):
            refused.add_metric([reason], self.refused[reason])
        yield refused

    def _spend(self, key: str, per_s: float, burst: int) -> None:
        now_s = self.now_s()
        if len(self._buckets) > _MOST_BUCKETS:
            self._forget(now_s)
        bucket = self._buckets.setdefault(key, _Bucket(burst, now_s))
        if wait_s := bucket.take(per_s, burst, now_s):
            self.refused["too fast"] += 1
            raise TooMany(f"more than {per_s:g} requests a second", max(1, round(wait_s)))

    def _forget(self, now_s: float) -> None:
        """Whoever was not here for a while has a full bucket; so it is all the same to have none."""
        slowest_s = max(share.burst / share.per_s for share in self.shares.values()) + _WRONG_BURST / _WRONG_PER_S
        self._buckets = {key: each for key, each in self._buckets.items() if now_s - each.at_s < slowest_s}

    def _leave(self, place: tuple[str, bool]) -> None:
        self._busy[place] -= 1
        if not self._busy[place]:
            del self._busy[place]


def _is_here(caller: Caller) -> bool:
    return caller.name.startswith((f"{Door.LOCAL.value} ", f"{Door.LOOPBACK.value} "))


def _who(caller: Caller) -> str:
    match caller.role:
        case Role.NOBODY:
            return f"address {caller.where}"
        case Role.TENANT_ADMIN | Role.TENANT_READER:
            return f"{caller.of}"
        case Role.ADMIN | Role.OPERATOR | Role.HOST | Role.CONTROLLER:
            return caller.name
        case _:
            assert_never(caller.role)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a caller may take, in seconds: between two pieces of its body, for all of it, and to read an answer."""

    piece_s: float = 20.0
    body_s: float = 120.0
    send_s: float = 30.0


WAITS = Waits()


class Patient:
    """ASGI: whoever does not send, or does not read, is cut off; what is to be done afterwards, is done."""

    def __init__(self, app: ASGIApp, waits: Waits) -> None:
        self._app = app
        self._waits = waits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        abort: Callable[[], None] = scope.get(ABORT, lambda: None)
        after: list[Callable[[], None]] = []
        scope[AFTER] = after
        waits, loop = self._waits, asyncio.get_running_loop()
        ends_s = loop.time() + waits.body_s
        whole = False

        async def received() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(min(ends_s, loop.time() + waits.piece_s)):
                    message = await receive()
            except TimeoutError:
                abort()
                whole = True
                return {"type": "http.disconnect"}
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            try:
                async with asyncio.timeout(waits.send_s):
                    await send(message)
            except TimeoutError:
                abort()

        try:
            await self._app(scope, received, sent)
        finally:
            for each in after:
                each()
