"""Traffic between guests, from sockets that live in their namespaces: who answers whom, and what a stream loses.

Starts no process: a socket stays in the namespace that it was made in, wherever it is used from.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from weft.lab import shell
from weft.lab.plan import Guest

QUESTION_PORT = 7007
STREAM_PORT = 7008
#: A question that nobody answered is asked again after this long: the first may have waited for a neighbour.
AGAIN_S = 0.2

_SO_RCVBUFFORCE = 33
#: By IP version: what makes a socket say which address a datagram was for. IP_PKTINFO; IPV6_RECVPKTINFO.
_TELL_ASKED = {4: (socket.IPPROTO_IP, 8), 6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)}


def udp(namespace: str, version: int, bound: int = 0) -> socket.socket:
    """A UDP socket of a namespace; bound: to that port, on every address."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if bound:
            made.bind(("" if version == 4 else "::", bound))
        made.setblocking(False)
        return made

    return shell.within(namespace, make)


class Responders:
    """In every guest something that answers with the name of the guest's port, on every address it has."""

    def __init__(self, guests: Iterable[Guest]) -> None:
        self._selector = selectors.DefaultSelector()
        for guest in guests:
            for version in (4, 6):
                bound = udp(guest.namespace, version, QUESTION_PORT)
                level, option = _TELL_ASKED[version]
                bound.setsockopt(level, option, 1)
                self._selector.register(bound, selectors.EVENT_READ, guest.port.encode())
        self._ends, self._end = socket.socketpair()
        self._selector.register(self._ends, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="responders")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                if isinstance(key.fileobj, socket.socket):
                    self._answer(key.fileobj, key.data)

    def _answer(self, bound: socket.socket, name: bytes) -> None:
        try:
            _, asked, _, asker = bound.recvmsg(64, 64)
            bound.sendmsg([name], [_from(level, kind, info) for level, kind, info in asked], 0, asker)
        except OSError:  # an ICMP error about a former answer; whoever asked asks again
            return


def _from(level: int, kind: int, info: bytes) -> tuple[int, int, bytes]:
    """That the answer leaves by the address that was asked, which need not be the guest's first: ip(7), ipv6(7)."""
    if level == socket.IPPROTO_IP:
        _, address, _ = struct.unpack("=I4s4s", info)
        return level, kind, struct.pack("=I4s4s", 0, address, bytes(4))
    address, _ = struct.unpack("=16sI", info)
    return level, kind, struct.pack("=16sI", address, 0)


@dataclass(frozen=True, slots=True)
class Question:
    """Who is at this address, seen from this guest? expected: the port that should say so, None for nobody."""

    namespace: str
    address: str
    expected: str | None = None


def who_answers(questions: Sequence[Question], *, patience_s: float = 3.0, silence_s: float = 0.6) -> list[str | None]:
    """The port that answered each. Those that should be silent are listened to for silence_s."""
    answers: list[str | None] = [None] * len(questions)
    waiting: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    try:
        for index, question in enumerate(questions):
            asker = udp(question.namespace, 6 if ":" in question.address else 4)
            waiting[index] = asker
            selector.register(asker, selectors.EVENT_READ, index)
        again_at = begun
        while waiting:
            now = time.monotonic()
            wanted = any(questions[index].expected is not None for index in waiting)
            if now - begun > (patience_s if wanted else silence_s):
                break
            if now >= again_at:
                again_at = now + AGAIN_S
                for index, asker in waiting.items():
                    _ask(asker, questions[index].address)
            for key, _ in selector.select(max(0.0, again_at - now)):
                if (answer := _heard(waiting[key.data])) is not None:
                    answers[key.data] = answer
                    selector.unregister(waiting[key.data])
                    waiting.pop(key.data).close()
    finally:
        for asker in waiting.values():
            asker.close()
        selector.close()
    return answers


def _ask(asker: socket.socket, address: str) -> None:
    try:
        asker.connect((address, QUESTION_PORT))
        asker.send(b"who are you?")
    except OSError:  # unreachable, said by an ICMP error: the same as silence
        return


def _heard(asker: socket.socket) -> str | None:
    try:
        return asker.recv(256).decode()
    except OSError:
        return None


def crowded_out() -> int:
    """Packets dropped since the machine started, as a queue was full that all network namespaces share: each CPU has
    one of net.core.netdev_max_backlog packets, for whatever crosses from namespace to namespace.
    """
    lines = Path("/proc/net/softnet_stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


class Stream:
    """Numbered datagrams from one guest to another at a steady rate, until it is stopped."""

    def __init__(
        self, source: Guest, target: Guest, address: str, per_second: int = 1000, port: int = STREAM_PORT
    ) -> None:
        self.sent = 0
        self.received: set[int] = set()
        self._per_second = per_second
        self._crowded_out = crowded_out()
        version = 6 if ":" in address else 4
        self._listener = udp(target.namespace, version, port)
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)  # what we are slow to read is not lost
        self._listener.settimeout(0.05)
        self._sender = udp(source.namespace, version)
        self._sender.connect((address, port))
        self._sent_all, self._heard_all = threading.Event(), threading.Event()
        self._threads = (threading.Thread(target=self._send), threading.Thread(target=self._receive))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, settle_s: float = 2.0) -> None:
        """No more are sent; those on their way are waited for, not longer than settle_s. Again: nothing happens."""
        if self._heard_all.is_set():
            return
        self._sent_all.set()
        self._threads[0].join()
        deadline = time.monotonic() + settle_s
        while self.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        self._heard_all.set()
        self._threads[1].join()
        self._listener.close()
        self._sender.close()

    @property
    def lost(self) -> int:
        return self.sent - len(self.received)

    @property
    def crowded_out(self) -> int:
        """How many packets of the machine's, whoever's, the kernel had no room for since this began: so many may be
        missing here through no fault of the network's.
        """
        return crowded_out() - self._crowded_out

    def _send(self) -> None:
        begun = time.monotonic()
        while not self._sent_all.wait(0.0005):
            for number in range(self.sent, int((time.monotonic() - begun) * self._per_second)):
                # An error is word of unreachability or of a full queue: not received, which is what counts.
                with suppress(OSError):
                    self._sender.send(struct.pack("!Q", number))
                self.sent = number + 1

    def _receive(self) -> None:
        while not self._heard_all.is_set():
            with suppress(OSError):  # its timeout
                self.received.add(struct.unpack("!Q", self._listener.recv(16))[0])
