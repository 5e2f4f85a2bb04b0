"""Probes between hosts on the wire: a UDP socket for each of this host's provider addresses. Decides nothing: paths.py.

A port of our own, not the encapsulations': NVGRE has none; a socket probes path MTU (DF, whatever the kernel believes,
and what routers say of it); and the kernel's routes and neighbours are those that encapsulated packets take. A guest
cannot send here: what a guest sends leaves its host encapsulated, or not at all. Only peers are answered, and an answer
is never larger than the question. An answer counts when it bears the number of a question that waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from weft.agent.paths import SMALLEST_BYTES, Paths, Probe
from weft.contracts.clock import Clock
from weft.contracts.dataplane import Way
from weft.kit import rtnetlink
from weft.policy.rows import Host, Peer

_log = structlog.get_logger("weft.agent")

PORT = 22342  # 0x5746

_MAGIC = b"Weft"
_VERSION = 1
_QUESTION, _ANSWER = 1, 2
_MESSAGE = struct.Struct("!4sBBHQ")  # magic, version, kind, zero, token

#: IP and UDP header.
HEADER_BYTES = {4: 28, 6: 48}

#: At most so many are read before others have their turn.
_TURN = 64
#: Of what comes no more is looked at: of a padded question the beginning is enough.
_MOST_BYTES = 1280
#: Timers are not finer than this.
_TICK_S = 0.002

# linux/in.h, linux/in6.h, linux/errqueue.h
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE, _IP_RECVERR, _IP_FREEBIND = 10, 3, 11, 15
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE, _IPV6_RECVERR, _IPV6_FREEBIND = 23, 3, 25, 78
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # errno, origin, type, code, pad, info, data


def question(token: int, payload_bytes: int) -> bytes:
    return _MESSAGE.pack(_MAGIC, _VERSION, _QUESTION, 0, token).ljust(payload_bytes, b"\0")


def answer(token: int) -> bytes:
    return _MESSAGE.pack(_MAGIC, _VERSION, _ANSWER, 0, token)


def read(data: bytes) -> tuple[bool, int] | None:
    """Whether it is a question, and its token; None: nothing of ours."""
    if len(data) < _MESSAGE.size:
        return None
    magic, version, kind, _, token = _MESSAGE.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or kind not in (_QUESTION, _ANSWER):
        return None
    return kind == _QUESTION, token


class Prober:
    """Sends what ``paths`` wants sent, tells it what came back, and ``told`` what follows. On a running event loop."""

    def __init__(self, paths: Paths, clock: Clock, told: Callable[[Mapping[str, tuple[Way, ...]]], None]) -> None:
        self.paths = paths
        self._clock = clock
        self._told = told
        #: What comes by these sockets and is no probe: to which of this host's addresses, from whom, what.
        self.other: Callable[[str, str, bytes], None] | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._routes = rtnetlink.Routes()
        self._awake = asyncio.Event()

    def follow(self, host: Host | None, peers: Iterable[Peer]) -> None:
        """Whom this host has to do with."""
        self.paths.follow(host, peers, self._clock.now_s())
        own = host.pas if host is not None else ()
        for pa in [pa for pa in self._sockets if pa not in own]:
            self._close(pa)
        for pa in own:
            if pa not in self._sockets:
                try:
                    self._open(pa)
                except OSError as fault:
                    _log.warning("no probes from this address", pa=pa, reason=str(fault))
        self._awake.set()

    def links(self, down: Collection[str]) -> None:
        """The uplinks without a carrier."""
        self.paths.links(down)
        self._awake.set()

    def repeat(self) -> None:
        """Tell all of it again."""
        self.paths.repeat()
        self._awake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                self._awake.clear()
                for probe in list(self.paths.due(self._clock.now_s())):
                    self._send(probe)
                if ways := self.paths.ways():
                    self._told(ways)
                next_s = self.paths.next_s
                wait_s = None if next_s is None else max(_TICK_S, next_s - self._clock.now_s())
                try:
                    async with asyncio.timeout(wait_s):
                        await self._awake.wait()
                except TimeoutError:
                    continue
        finally:
            for pa in list(self._sockets):
                self._close(pa)
            self._routes.close()

    def _open(self, pa: str) -> None:
        six = ":" in pa
        opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.setblocking(False)
            if six:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE)
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # the address may come later
            else:
                opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
                opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            opened.bind((pa, PORT))
            asyncio.get_running_loop().add_reader(opened, self._read, pa, opened)
        except BaseException:
            opened.close()
            raise
        self._sockets[pa] = opened

    def _close(self, pa: str) -> None:
        opened = self._sockets.pop(pa)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()

    def _send(self, probe: Probe) -> None:
        opened = self._sockets.get(probe.source)
        if opened is None:
            return
        if probe.packet_bytes > SMALLEST_BYTES:
            self.paths.locked(probe.source, probe.destination, self._routes.locked_mtu(probe.source, probe.destination))
        data = question(probe.token, probe.packet_bytes - HEADER_BYTES[6 if ":" in probe.source else 4])
        try:
            self._send_to(opened, data, probe.source, probe.destination)
        except OSError as fault:
            # Whatever else is wrong, no answer comes, and that is what counts.
            if fault.errno == errno.EMSGSIZE:
                self.paths.refused(probe.source, probe.destination, 0, self._clock.now_s())

    def send(self, source: str, destination: str, data: bytes) -> None:
        """What is no probe; whether it arrives nobody says."""
        opened = self._sockets.get(source)
        if opened is not None:
            with contextlib.suppress(OSError):  # who does not hear it asks again
                self._send_to(opened, data, source, destination)

    def _send_to(self, opened: socket.socket, data: bytes, pa: str, destination: str) -> None:
        """The socket reports an error about a former packet in place of sending this one: then once more."""
        try:
            opened.sendto(data, (destination, PORT))
        except OSError:
            if not self._read_errors(opened, pa):
                raise
            opened.sendto(data, (destination, PORT))

    def _read(self, pa: str, opened: socket.socket) -> None:
        self._read_errors(opened, pa)
        now_s = self._clock.now_s()
        for _ in range(_TURN):
            try:
                data, sender = opened.recvfrom(_MOST_BYTES)
            except OSError:  # nothing more; or what was just read of as an error
                break
            found = read(data)
            if sender[1] != PORT:
                continue
            if found is None:
                if self.other is not None:
                    self.other(pa, sender[0], data)
                continue
            asked, token = found
            if asked:
                self._answer(opened, token, pa, sender[0])
            else:
                self.paths.heard(pa, sender[0], token, now_s)
        self._awake.set()

    def _answer(self, opened: socket.socket, token: int, pa: str, asker: str) -> None:
        if self.paths.knows(asker):
            try:
                self._send_to(opened, answer(token), pa, asker)
            except OSError:
                return  # it asks again

    def _read_errors(self, opened: socket.socket, pa: str) -> bool:
        """What routers and this host's kernel say of what was sent. False: nothing."""
        some = False
        for _ in range(_TURN):
            try:
                _, control, _, sender = opened.recvmsg(64, 512, _MSG_ERRQUEUE)
            except OSError:
                break
            some = True
            for _level, _kind, value in control:
                if len(value) >= _EXTENDED_ERROR.size:
                    number, _, _, _, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
                    if number == errno.EMSGSIZE and sender:
                        self.paths.refused(pa, sender[0], info, self._clock.now_s())
        if some:
            self._awake.set()
        return some
