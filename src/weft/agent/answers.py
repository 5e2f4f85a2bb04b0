"""Answers what the controller asks this host in its feed. Knows no question itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import structlog

from weft.client.client import ApiError
from weft.feed.reflector import Asked
from weft.kit.errors import Rejected, Retry

_log = structlog.get_logger("weft.agent")

#: At once; what is asked beyond it is not answered, and whoever asked hears so in time.
MOST_AT_ONCE = 16

Answer: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class Controller(Protocol):
    """Whom to tell."""

    async def answer(self, host: str, question: str, body: bytes, refused: str = "") -> None: ...


class Answerer:
    """By the question's name, who answers it."""

    def __init__(self, host: str, controller: Controller, answers: Mapping[str, Answer]) -> None:
        self._host = host
        self._controller = controller
        self._answers = answers
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, question: Asked) -> None:
        if len(self._tasks) >= MOST_AT_ONCE:
            _log.warning("too many questions at once", what=question.what)
            return
        task = asyncio.create_task(self._answer(question), name=f"answer {question.what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        tasks = list(self._tasks)
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
        try:
            await self._controller.answer(self._host, question.id, body, refused)
        except (Retry, ApiError) as fault:
            _log.info("the controller has not heard an answer", what=question.what, reason=str(fault))
