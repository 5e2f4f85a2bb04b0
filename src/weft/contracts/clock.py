"""Time comes in by argument."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Seconds, monotonic; and a wait that a test can end at once."""

    def now_s(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...
