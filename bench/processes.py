"""Weft's own processes, as an operator starts them, for as long as a bench needs them. Measures nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIRECTORIES = Path("/var/tmp")

#: Everything that a bench makes is named so, then by its process's id, so that what one that was killed has left is
#: found by the next. No dots: a BPF file system takes none.
PREFIX = "weftbench-"


def alive(name: str) -> bool:
    """Whether the bench that made something of this name is still there."""
    pid = name.removeprefix(PREFIX).split("-")[0]
    if not pid.isdigit():
        return True
    try:
        state = Path("/proc", pid, "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # killed, and nobody has asked how it ended


@contextmanager
def directory() -> Iterator[Path]:
    """On the disk, not in memory: what is durable is to pay for it. Short, since a unix socket's path is."""
    for left in DIRECTORIES.glob(f"{PREFIX}*"):
        if not alive(left.name):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=DIRECTORIES) as name:
        yield Path(name)


@contextmanager
def weft(log: Path, words: Sequence[str], inside: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """``weft WORDS``. inside: what it is run by, such as nsenter; it must become the process itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "WEFT_LOG": "WARNING"}
    command = [*inside, sys.executable, "-m", "weft.apps.cli", *words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]))
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def controller(at: Path) -> Iterator[str]:
    """Up and answering; its URL."""
    url = f"unix://{at / 'controller.sock'}"
    words = ["controller", "--listen", url, "--store", str(at / "controller.db")]
    with weft(at / "controller.log", words) as process:
        await_answer(process, at / "controller.sock")
        yield url


def await_answer(process: subprocess.Popen[bytes], path: Path, patience_s: float = 30.0) -> None:
    """Until the controller that listens at this socket is healthy."""

    def healthy() -> bool:
        if process.poll() is not None:
            raise RuntimeError("the controller has ended")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                return False
            probe.settimeout(patience_s)
            probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(100)

    wait(healthy, "the controller answers", patience_s)


@contextmanager
def running(
    log: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of others, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(done: Callable[[], bool], what: str, patience_s: float = 30.0, every_s: float = 0.02) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"in {patience_s:g} s it did not come about that {what}")
        time.sleep(every_s)


def memory_peak_bytes(pid: int) -> int:
    """The most that was ever resident (VmHWM)."""
    return _status_bytes(pid, "VmHWM")


def memory_bytes(pid: int) -> int:
    """What is resident now (VmRSS)."""
    return _status_bytes(pid, "VmRSS")


def cpu_seconds(pid: int) -> float:
    """The CPU's time that it has used so far, its own and the kernel's for it."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): to the nanosecond, where /proc has ticks


def _status_bytes(pid: int, field: str) -> int:
    for line in Path("/proc", str(pid), "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no {field}")
