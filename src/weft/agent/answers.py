"""Answers what the controller asks this host in its feed. Knows no question itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import structlog

from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.feed.reflector import Asked
from weft.kit.errors import Rejected, Retry

_log = structlog.get_logger("weft.agent")

#: At once: as many as the controller lets wait for a host; many are of ports that leave, and wait for news.
MOST_AT_ONCE = 64
#: That are told that they are too many. Whoever asks even more hears in time that there was no answer.
MOST_REFUSED = 64
#: Answers on their way at once: a host may do eight things at once (controller/limits.py), and does others, too.
MOST_SAID_AT_ONCE = 2
#: An answer that the controller had no time for is said again, so often, after so long.
SAYINGS, AGAIN_S = 5, 1.0

_TOO_MANY = 429

Answer: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class Controller(Protocol):
    """Whom to tell."""

    async def answer(self, host: str, question: str, body: bytes, refused: str = "") -> None: ...


class Answerer:
    """By the question's name, who answers it."""

    def __init__(self, host: str, controller: Controller, answers: Mapping[str, Answer], clock: Clock) -> None:
        self._host = host
        self._controller = controller
        self._answers = answers
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        self._saying = asyncio.Semaphore(MOST_SAID_AT_ONCE)

    def asked(self, question: Asked) -> None:
        if len(self._tasks) < MOST_AT_ONCE:
            tasks, work = self._tasks, self._answer(question)
        elif len(self._refusing) < MOST_REFUSED:
            _log.warning("too many questions at once", what=question.what)
            tasks, work = self._refusing, self._say(question, b"", f"it answers {MOST_AT_ONCE} questions already")
        else:
            return
        task = asyncio.create_task(work, name=f"answer {question.what}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._refusing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, question: Asked) -> None:
        answer = self._answers.get(question.what)
        body, refused = b"", f"this agent does not know of {question.what[:40]!r}"
        if answer is not None:
            try:
                body, refused = await answer(question.body), ""
            except (Rejected, Retry) as fault:
                refused = str(fault)
        await self._say(question, body, refused)

    async def _say(self, question: Asked, body: bytes, refused: str) -> None:
        for left in reversed(range(SAYINGS)):
            try:
                async with self._saying:
                    await self._controller.answer(self._host, question.id, body, refused)
            except (Retry, ApiError) as fault:
                if not left or not isinstance(fault, ApiError) or fault.status != _TOO_MANY:
                    _log.info("the controller has not heard an answer", what=question.what, reason=str(fault))
                    return
            else:
                return
            await self._clock.sleep(AGAIN_S)
