"""What makes an agent one process of its host: one at a time, ended as a whole. Never outlived by what it started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from weft.agent import server
from weft.agent.service import Agent
from weft.kit.errors import Conflict, Rejected

# What the lock of a state directory says, and a name of no file system: each network namespace has its own (unix(7)).
_OWNER = re.compile(r"the agent of (hosts/\S+), process \d+")
_NAME = "\0weft-agent"


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
    """One agent a state directory, and one host. The lock goes with the process, however it ends."""
    path = state / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another agent"
            raise Conflict(f"{state} is in use by {holder}; give each agent its own --state directory") from fault
        # Its policy and its certificate are in there: nobody else shall program the one, or show the other.
        former = _OWNER.match(os.pread(descriptor, 200, 0).decode(errors="replace"))
        if former is not None and former[1] != host:
            raise Conflict(
                f"{state} is that of {former[1]}, not of {host}: give {host} a --state directory of its own, or remove"
                f" this one, and {former[1]}'s in /sys/fs/bpf/weft, if it is gone from this machine"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"the agent of {host}, process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One agent a network namespace: two would both take the uplink's packets. By a name that ends with the process.

    A name that is another user's keeps nobody from anything.
    """
    with socket.socket(socket.AF_UNIX) as named:
        try:
            named.bind(_NAME)
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise
            if (holder := _holder()) is not None:
                raise Conflict(
                    f"process {holder} is an agent in this network namespace already; a host has one agent, and each"
                    " other host a network namespace of its own"
                ) from fault
        else:
            named.listen(1)
        yield


def _holder() -> int | None:
    """The process that has the name, if it is of this user."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_NAME)
        except OSError:
            return None
        pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid if uid == os.geteuid() else None
