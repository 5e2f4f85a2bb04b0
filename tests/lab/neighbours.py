"""Whether neighbours come to harm while somebody attacks: what they lose of a paced stream, and what gets through."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.scenes import address, connected
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.lab.traffic import Stream

PER_SECOND = 1000
#: Of the paced stream, while an attack goes on.
PACED = 300
ROUND_S = 0.3
ROUNDS = 6
#: Of what gets through while somebody burns as much of this machine for nothing.
SHARE = 0.5

#: As fast as its socket takes them, until it is ended.
FLOOD = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
frame = bytes.fromhex(sys.argv[2])
while True:
    try:
        wire.send(frame)
    except OSError:
        pass
"""

#: Sends back whatever it receives, as a bridge of the guest's own with a loop in it would.
REFLECT = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 3))
wire.send(bytes.fromhex(sys.argv[2]))
while True:
    frame, where = wire.recvfrom(65535)
    if where[2] != socket.PACKET_OUTGOING:
        wire.send(frame)
"""

Attack = contextlib.AbstractContextManager[None]


@contextlib.contextmanager
def attack(namespace: str, program: str, frame: bytes, interface: str = plan.GUEST_INTERFACE) -> Iterator[None]:
    words = [sys.executable, "-c", program, interface, frame.hex()]
    with subprocess.Popen(shell.inside(namespace, words)) as running:
        try:
            yield
        finally:
            running.kill()


@dataclass(frozen=True)
class Neighbours:
    """Two guests that want nothing but to talk with each other."""

    lab: Lab
    client: str
    server: str
    version: int = 4

    def _way(self) -> tuple[Guest, Guest, str]:
        source, target = self.lab.guest(self.client), self.lab.guest(self.server)
        return source, target, address(target, self.version)

    def throughput(self, seconds: float = ROUND_S) -> float:
        """Bytes a second of one TCP stream."""
        source, target, to = self._way()
        block, came = bytes(65_536), 0
        with connected(self.lab, source.namespace, target.namespace, to) as (client, server):
            client.setblocking(False)
            server.setblocking(False)
            end = (start := time.monotonic()) + seconds
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    client.send(block)
                with contextlib.suppress(BlockingIOError):
                    came += len(server.recv(1 << 20))
            return came / (time.monotonic() - start)

    def lose_nothing(self) -> None:
        with Stream(*self._way(), PER_SECOND) as stream:
            eventually(lambda: stream.sent >= PACED, "so many are sent")
            stream.stop()
            assert stream.lost == 0, f"of {stream.sent}"

    def unharmed(self, namespace: str, attacking: Callable[[], Attack], felt: Callable[[], object]) -> None:
        """While the attack goes on, and is felt: not a packet of a paced stream is lost, and a greedy one has at least
        half of what it has while the same program sends as fast into a wire with nobody at its end. What an attacker
        takes of this machine's two CPUs by sending alone is no harm that a data plane does.
        """
        under = beside = 0.0
        with nobody(namespace) as wire:
            for number in range(ROUNDS):
                with attack(namespace, FLOOD, bytes(60), wire):
                    beside += self.throughput()
                with attacking():
                    if number == 0:
                        felt()
                        self.lose_nothing()
                    under += self.throughput()
                # The machine may be busy elsewhere in one round, and not in the next.
                if under > SHARE * beside and number:
                    return
        raise AssertionError(f"{under / ROUNDS:,.0f} bytes/s, and {beside / ROUNDS:,.0f} beside a load that is none")


@contextlib.contextmanager
def nobody(namespace: str) -> Iterator[str]:
    """A wire of the namespace's with nobody at its end."""
    wire, end = "idle", "nowhere"
    shell.ip_batch(
        [f"link add {wire} type veth peer name {end}", f"link set {wire} up", f"link set {end} up"], namespace
    )
    try:
        yield wire
    finally:
        shell.ip_batch([f"link delete {wire}"], namespace)
