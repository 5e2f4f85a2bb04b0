"""Questions to hosts, in their feeds, and what comes back. Knows none of them, and keeps no answer.

A host answers what it was asked, once, and nothing else; who does not answer in time has not answered.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from weft.client.client import ApiError
from weft.feed.log import FeedLog
from weft.kit.errors import Missing, Retry
from weft.wire import feed as wire

#: That wait for an answer, at this controller.
MOST_WAITING = 4096
#: A question's body: more is not asked.
MOST_QUESTION_BYTES = 4 << 20
#: An answer's.
MOST_ANSWER_BYTES = 4 << 20


class Unanswered(Exception):
    """Nobody knows what the host would have said; why, for whoever wanted to know."""


class NotConnected(Unanswered):
    """Not to this controller, nor to one that it hears: another may know more."""


class Passing(Protocol):
    """Another controller of the store, where the host's feed is."""

    async def pass_on(self, host: str, what: str, body: object, timeout_s: float) -> bytes:
        """As ``Questions.ask``. Raises Retry, ApiError."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """For an answer. stream: that the question went by."""

    host: str
    stream: object
    answer: asyncio.Future[bytes]


@dataclass(slots=True)
class Questions:
    """Those under way. elsewhere: the controller that a host is connected to, when it is not this one."""

    feed: FeedLog
    elsewhere: Callable[[str], Passing | None] = lambda _host: None
    _waiting: dict[str, _Waiting] = field(default_factory=dict)

    async def ask(self, host: str, what: str, body: object, *, timeout_s: float) -> bytes:
        """A host's answer, wherever it is connected. Raises Unanswered, also for an agent that is too old."""
        if not self.feed.listening(host) and (there := self.elsewhere(host)) is not None:
            try:
                return await there.pass_on(host, what, body, timeout_s)
            except (Retry, ApiError) as fault:
                raise (NotConnected if isinstance(fault, Retry) or fault.status == 503 else Unanswered)(
                    str(fault)
                ) from fault
        return await self.ask_here(host, what, body, timeout_s=timeout_s)

    async def ask_here(self, host: str, what: str, body: object, *, timeout_s: float) -> bytes:
        """Of a host that is connected to this controller."""
        if len(self._waiting) >= MOST_WAITING:
            raise Retry("the controller asks hosts as much as it can")
        id_ = secrets.token_hex(16)
        frame = wire.encode_ask(id_, what, body)
        if len(frame) > MOST_QUESTION_BYTES:
            raise Unanswered(f"what {host} would have to be told is more than {MOST_QUESTION_BYTES} bytes")
        stream = self.feed.ask(host, frame)
        if stream is None:
            if not self.feed.listening(host):
                raise NotConnected(f"{host} is not connected")
            raise Unanswered(f"{host} does not answer questions: its agent is older")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = _Waiting(host, stream, answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise Unanswered(f"{host} has not answered within {timeout_s:g} s") from error
        finally:
            del self._waiting[id_]

    def answer(self, host: str, id_: str, body: bytes, refused: str = "") -> None:
        """By a host. Raises Missing where it was not asked, or nobody waits any more. refused: why it says nothing."""
        waiting = self._waiting.get(id_)
        if waiting is None or waiting.host != host or waiting.answer.done():
            raise Missing(f"nobody waits for an answer {id_[:40]} of {host}", "answer")
        if refused:
            waiting.answer.set_exception(Unanswered(f"{host}: {refused[:500]}"))
        else:
            waiting.answer.set_result(body)

    def ended(self, stream: object) -> None:
        """Whoever was asked by it is gone, and so is what it would have said: nobody waits for that any longer."""
        for each in self._waiting.values():
            if each.stream is stream and not each.answer.done():
                each.answer.set_exception(NotConnected(f"{each.host} is not connected any more"))
