"""migration: a virtual machine goes from host to host while it answers pings and echoes a TCP stream.

What is counted is what the machine's peer sees: pings without an answer, and the longest time without one.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import virtual_machines
from bench.context import Context
from bench.processes import ROOT
from bench.report import AtMost, Figure, ReportOnly
from bench.virtual_machines import Image, Machine, Nic
from weft.client import moves
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest

PORT = "tenants/blue/ports/vm"
TAP, ADDRESS, ECHO_PORT = "tapvm", "10.0.0.20", 7
MTU_BYTES = 1458
PINGS_PER_S = 100
PATIENCE_S = 60.0
RUNS = 8
#: What is under way when a machine has moved is counted, and what the machine was given twice is answered.
SETTLE_S = 1.0

_REPLY = re.compile(r"\[(\d+\.\d+)\] .*icmp_seq=(\d+) ")


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one migration, by the peer. stall_ms: of the TCP stream; downtime_ms: QEMU's own."""

    sent: int
    lost: int
    gap_ms: float
    stall_ms: float
    downtime_ms: float
    total_ms: float


class Pings:
    """100 a second, until it is stopped."""

    def __init__(self, guest: Guest, address: str) -> None:
        command = ["ping", "-D", "-n", "-i", str(1 / PINGS_PER_S), "-W", "2", address]
        self._process = subprocess.Popen(shell.inside(guest.namespace, command), stdout=subprocess.PIPE, text=True)
        self._answers: dict[int, float] = {}
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def answered(self) -> int:
        return len(self._answers)

    def since(self, first: int) -> tuple[int, int, float]:
        """Of the pings from a number on: how many, those without an answer, the longest time without one (ms)."""
        answers = {number: at for number, at in dict(self._answers).items() if number >= first}
        last = max(answers)
        times = sorted(answers.values())
        gap_s = max(later - earlier for earlier, later in itertools.pairwise(times))
        return last - first + 1, last - first + 1 - len(answers), gap_s * 1000

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _REPLY.match(line):
                # Sequence numbers are of 16 bits: fewer are sent. The first answer counts.
                self._answers.setdefault(int(found[2]), float(found[1]))


class Echo:
    """A TCP stream: 1000 bytes each 10 ms, and back."""

    def __init__(self, guest: Guest, address: str) -> None:
        self._socket = shell.within(
            guest.namespace, lambda: socket.create_connection((address, ECHO_PORT), timeout=PATIENCE_S)
        )
        self._ended = threading.Event()
        self._threads = (threading.Thread(target=self._send), threading.Thread(target=self._receive))
        self.bytes = 0
        self.fault: str | None = None
        self._stalls: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._socket.shutdown(2)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def stall_ms_since(self, begun_s: float) -> float:
        return max((length for at, length in self._stalls if at >= begun_s), default=0.0) * 1000

    def _send(self) -> None:
        number = 0
        with suppress(OSError):
            while not self._ended.wait(0.01):
                self._socket.sendall(bytes([number % 256]) * 1000)
                number += 1

    def _receive(self) -> None:
        last_s = time.monotonic()
        try:
            while chunk := self._socket.recv(65_536):
                for at, byte in enumerate(chunk):
                    if byte != (self.bytes + at) // 1000 % 256:
                        self.fault = f"byte {self.bytes + at} came back wrong"
                        return
                self.bytes += len(chunk)
                now_s = time.monotonic()
                self._stalls.append((now_s, now_s - last_s))
                last_s = now_s
            if not self._ended.is_set():
                self.fault = "the machine ended the connection"
        except OSError as error:
            if not self._ended.is_set():
                self.fault = str(error)


class Scene:
    """A lab, and a machine on one of its hosts."""

    def __init__(self, lab: Lab, of: Image) -> None:
        self._lab, self._image = lab, of
        self.host = "h1"
        with lab.client() as client:
            client.put(PORT, {"virtual_subnet": "prod/web", "host": self.host, "addresses": [ADDRESS]})
            spec = client.get(PORT).spec
            gateway = client.get(spec["virtual_subnet"]).spec["gateways"][0]
        self._nic = Nic(TAP, spec["mac"], f"{ADDRESS}/24", gateway, MTU_BYTES)
        self._machine = self._made(self.host, incoming=False)
        self.peer = lab.guest("blue/peer")

    def _made(self, host: str, *, incoming: bool) -> Machine:
        namespace = plan.host_namespace(self._lab.spec.name, host)
        shell.ip_batch([f"tuntap add {TAP} mode tap vnet_hdr", f"link set {TAP} mtu {MTU_BYTES} up"], namespace)
        return Machine(namespace, self._image, self._nic, self._lab.paths.directory / f"vm-{host}", incoming=incoming)

    def await_up(self) -> None:
        """Until the machine answers."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._lab.exec("blue/peer", "ping", "-c", "1", "-W", "1", ADDRESS).returncode:
            assert time.monotonic() < deadline_s, "the machine does not answer"
        with self._lab.client() as client:
            moves.await_arrived(client, PORT)

    def migrate(self, to: str) -> dict[str, Any]:
        """As an operator does: both hosts ready, then QEMU's migration, then the end of the move."""
        old, left = self._machine, self.host
        new = self._made(to, incoming=True)
        with self._lab.client() as client:
            moves.begin(client, PORT, f"hosts/{to}")
            moves.await_ready(client, PORT)
            said = old.migrate(new, self._lab.paths.directory / "migration.sock")
            moves.finish(client, PORT)
        self._machine, self.host = new, to
        old.end()
        shell.ip_batch([f"link delete {TAP}"], plan.host_namespace(self._lab.spec.name, left))
        return said

    def measured(self, pings: Pings, echo: Echo, to: str) -> Seen:
        first, begun_s = pings.answered + 1, time.monotonic()
        said = self.migrate(to)
        before = pings.answered
        deadline_s = time.monotonic() + PATIENCE_S
        while pings.answered < before + SETTLE_S * PINGS_PER_S:
            assert time.monotonic() < deadline_s, "the machine answers no more"
            time.sleep(0.01)
        assert echo.fault is None, echo.fault
        sent, lost, gap_ms = pings.since(first)
        return Seen(sent, lost, gap_ms, echo.stall_ms_since(begun_s), said["downtime"], said["total-time"])

    def end(self) -> None:
        self._machine.end()


@contextmanager
def scene(name: str, images: Path = ROOT / "build" / "vm") -> Iterator[Scene]:
    """A lab of its own, with a machine that is up."""
    of = virtual_machines.image(images)
    lab = Lab.up(Path(__file__).with_name("migration.yaml"), name=name)
    with ExitStack() as left:
        left.callback(Lab.down, name)
        made = Scene(lab, of)
        left.callback(made.end)
        made.await_up()
        yield made


def migrations(name: str, count: int) -> list[Seen]:
    """There and back, so often."""
    with scene(name) as one, Pings(one.peer, ADDRESS) as pings, Echo(one.peer, ADDRESS) as echo:
        while pings.answered < PINGS_PER_S or echo.bytes == 0:
            assert echo.fault is None, echo.fault
            time.sleep(0.01)
        return [one.measured(pings, echo, "h2" if one.host == "h1" else "h1") for _ in range(count)]


def run(_context: Context) -> list[Figure]:
    seen = migrations(f"bench-migration-{os.getpid()}", RUNS)
    gaps, stalls = sorted(each.gap_ms for each in seen), sorted(each.stall_ms for each in seen)
    sent = sum(each.sent for each in seen)
    detail = f"{RUNS} migrations; each: {', '.join(f'{gap:.0f}' for gap in gaps)}"
    return [
        Figure("migration_gap", statistics.median(gaps), "ms", AtMost(99), detail),
        Figure("migration_gap_worst", gaps[-1], "ms", AtMost(400), detail),
        Figure("migration_pings_lost", sum(each.lost for each in seen), "pings", AtMost(0), f"of {sent}"),
        Figure(
            "migration_tcp_stall", statistics.median(stalls), "ms",
            ReportOnly("over a Linux bridge and VXLAN on this machine: 213 to 241"), f"the worst: {stalls[-1]:.0f}",
        ),
    ]  # fmt: skip
