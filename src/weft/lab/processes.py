"""A lab's processes: started apart from whoever starts them, found again by a mark in their environment.

Never signals a process without that mark: a pid may be another's by now, so it is held by a pidfd and looked at again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "WEFT_LAB"
NAME = "WEFT_LAB_PROCESS"


@dataclass(frozen=True, slots=True)
class Found:
    pid: int
    name: str  # "" for a command that a user runs in the lab


def start(command: Sequence[str], name: str, directory: Path, log: Path) -> int:
    """In a session of its own, its output in a file, its mark the lab's directory. Returns the pid."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(directory, name),
        )
    # It is to outlive us; its exit is for whoever waits for it (find() looks at zombies, too), not for a finaliser.
    process.returncode = 0
    return process.pid


def environment(directory: Path, name: str = "") -> dict[str, str]:
    """What marks a process as the lab's."""
    return {**os.environ, MARK: str(directory), NAME: name, "PYTHONUNBUFFERED": "1"}


def find(directory: Path) -> list[Found]:
    """Every living process with the lab's mark, this one and its ancestors left out."""
    ours = _ancestors()
    others = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) not in ours)
    marked = sorted(((int(entry.name), _marks(entry)) for entry in others), key=lambda each: each[0])
    return [Found(pid, marks.get(NAME, "")) for pid, marks in marked if marks.get(MARK) == str(directory)]


def end(directory: Path, pids: Iterable[int], grace_s: float = 3.0) -> None:
    """SIGTERM; SIGKILL for those that do not follow it in time. Returns when they are gone."""
    with ExitStack() as stack:
        descriptors = []
        for pid in pids:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                if _marks(Path("/proc") / str(pid)).get(MARK) == str(directory):  # held now: it is the very one
                    descriptors.append(descriptor)
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            for descriptor in descriptors:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            descriptors = _still_there(descriptors, wait_s)


def signal_one(directory: Path, pid: int, number: signal.Signals) -> None:
    """A signal to one process of the lab, and, for SIGKILL, until it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        if _marks(Path("/proc") / str(pid)).get(MARK) != str(directory):
            raise ProcessLookupError(pid)
        signal.pidfd_send_signal(descriptor, number)
        if number == signal.SIGKILL:
            _still_there([descriptor], 10.0)
    finally:
        os.close(descriptor)


def _still_there(descriptors: list[int], wait_s: float) -> list[int]:
    """A pidfd is readable once its process has ended."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left, deadline = set(descriptors), time.monotonic() + wait_s
    while left and (remaining_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(remaining_s * 1000):
            poll.unregister(descriptor)
            left.discard(descriptor)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)  # our own child: no zombie is left
    return list(left)


def _environ(entry: Path) -> bytes:
    """In the middle of an execve it reads as empty for a moment; so it does for good of kernel threads and zombies."""
    for _ in range(20):
        try:
            if found := (entry / "environ").read_bytes():
                return found
            (entry / "exe").readlink()
        except OSError:  # gone, or a process without a program
            return b""
        time.sleep(0.001)
    return b""


def _marks(entry: Path) -> Mapping[str, str]:
    words = _environ(entry).split(b"\0")
    wanted = (f"{MARK}=".encode(), f"{NAME}=".encode())
    return {
        key.decode(): value.decode(errors="replace")
        for key, _, value in (word.partition(b"=") for word in words if word.startswith(wanted))
    }


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 0:
        found.add(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
    return found
