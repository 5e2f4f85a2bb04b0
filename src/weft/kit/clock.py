"""Real time, as ``weft.contracts.clock.Clock`` wants it. Never wall-clock time."""

from __future__ import annotations

import asyncio
import time


class MonotonicClock:
    """Seconds since some moment; they only grow."""

    def now_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
