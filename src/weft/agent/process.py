"""What makes an agent one process of its host: one at a time, ended as a whole. Never outlived by what it started."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from weft.agent import server
from weft.agent.service import Agent
from weft.kit.errors import Conflict, Rejected


async def live(agent: Agent, socket: Path, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
    """The agent and its socket, until it is told to stop, or one of them fails.

    ready: called once what was on the disk is programmed, and the socket answers; no controller has to be there.
    """
    listening = asyncio.Event()

    async def tell() -> None:
        await agent.settled()
        await listening.wait()
        ready()

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(agent.run(), name="agent"),
                tasks.create_task(server.serve(agent, socket, listening.set), name="socket"),
                tasks.create_task(tell(), name="ready"),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group:
        # Whoever is refused at the start is told so in one line, not by a tree of tracebacks.
        refused, rest = group.split(Rejected)
        if refused is not None and rest is None:
            raise _first(refused) from None
        raise


def _first(group: BaseExceptionGroup[Rejected]) -> Rejected:
    found = group.exceptions[0]
    return found if isinstance(found, Rejected) else _first(found)


@contextlib.contextmanager
def locked(state: Path, host: str) -> Iterator[None]:
    """One agent a state directory. The lock goes with the process, however it ends."""
    path = state / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another agent"
            raise Conflict(f"{state} is in use by {holder}; give each agent its own --state directory") from fault
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"the agent of {host}, process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
