"""What makes an agent one process of its host: one at a time, ended as a whole. Never outlived by what it started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from weft.agent import joining, server
from weft.agent.service import Agent
from weft.kit.errors import Conflict, Rejected
from weft.tls import files

_log = structlog.get_logger("weft.agent")

#: Whose a state directory is, in it; its lock only says who has it now.
_OWNER = "owner"
#: A name of no file system: each network namespace has its own (unix(7)).
_NAME = "\0weft-agent"
#: For whoever has the name to say who it is: an agent that starts at the same moment, or one that is ending.
_PATIENCE_S = 1.0
_POLL_S = 0.02


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
        owner, told_by = _owner(state)
        if owner is not None and owner != host:
            mistaken = f"; if {host} is right, remove {told_by.name} alone" if told_by.name == _OWNER else ""
            raise Conflict(
                f"{state} is that of {owner}, not of {host}, as {told_by} says: give {host} a --state directory of its"
                f" own, or remove this one, and {owner}'s in /sys/fs/bpf/weft, if {owner} is gone from this"
                f" machine{mistaken}"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"the agent of {host}, process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def own(state: Path, host: str) -> None:
    """From now on the directory is that of the host: for whoever has the lock, has joined and has a data plane.

    Not before: a start with a host's name mistyped shall not keep the right one from its own directory.
    """
    if _owner(state)[1] == state / _OWNER:
        return
    try:
        files.write(state / _OWNER, f"{host}\n".encode())
    except Rejected as fault:  # a full disk ends no agent; the next start tries again
        _log.warning("whose the state directory is could not be kept", reason=str(fault))


def _owner(state: Path) -> tuple[str | None, Path]:
    """Whose it is, if that is known, and by which file: its own, or, where that is not written yet, a certificate."""
    path = state / _OWNER
    with contextlib.suppress(OSError):
        if said := path.read_text(errors="replace").strip():
            return said, path
    return joining.holder(state / "tls")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One agent a network namespace: two would both take the uplink's packets. By a name that ends with the process.

    A name that is another user's keeps nobody from anything, nor one that nobody answers by.
    """
    with socket.socket(socket.AF_UNIX) as named:
        if not _take(named):
            yield
            return
        answering = threading.Thread(target=_answer, args=(named,), name="one agent", daemon=True)
        answering.start()
        try:
            yield
        finally:
            named.shutdown(socket.SHUT_RDWR)  # accept() returns
            answering.join()


def _take(named: socket.socket) -> bool:
    """Whether the name is this socket's now. Raises Conflict where an agent of this user has it."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            named.bind(_NAME)
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise
        else:
            named.listen()
            return True
        if (holder := _holder()) is not None:
            pid, uid = holder
            if uid != os.geteuid():
                return False
            who = f"process {pid}" if pid else "a process of another PID namespace, such as a container's,"
            raise Conflict(
                f"{who} is an agent in this network namespace already; a host has one agent, and each other host a"
                " network namespace of its own"
            )
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)


def _answer(named: socket.socket) -> None:
    """Whoever connects knows who has the name, and needs no more. One that is not accepted would wait here for ever,
    though it has gone again, and in the end keep others from being told.
    """
    while True:
        try:
            asking, _ = named.accept()
        except OSError as fault:
            if fault.errno in _LATER:
                time.sleep(_POLL_S)
                continue
            return
        asking.close()


# What accept() says of descriptors and memory, not of the socket.
_LATER = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


def _holder() -> tuple[int, int] | None:
    """The process that has the name, 0 if it is of no PID namespace that is seen from here, and its user.

    None: nobody answers by it.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_NAME)
        except OSError:
            return None
        pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
