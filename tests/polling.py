"""Waits for what is to come, with a deadline: the only wait that tests know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How long a test waits for what is to come, unless how soon it comes is what the test shows. Where all is well nobody
#: waits so long; a machine may have ten times as much to do as its processors can.
PATIENCE_S = 60.0


def eventually(look: Callable[[], T], what: str = "", within_s: float = PATIENCE_S, every_s: float = 0.01) -> T:
    """The first true thing that look gives. An AssertionError of its own is a no, too."""
    deadline = time.monotonic() + within_s
    fault: object = "false"
    while True:
        try:
            if found := look():
                return found
        except AssertionError as error:
            fault = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or look}: {fault}")
        time.sleep(every_s)


async def becomes(
    look: Callable[[], object], what: str = "", within_s: float = PATIENCE_S, every_s: float = 0.01
) -> None:
    """The same, in a loop that others need meanwhile."""
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() <= deadline, f"not within {within_s} s: {what or look}"
        await asyncio.sleep(every_s)
