"""The queue of a tap whose port is arriving: nobody reads it before the guest runs here, and it keeps what came first.

A virtual machine that migrates would be given the first 1000 frames of its migration, and none of its own pause. So
each round in which something came, or has become old, empties the queue, and puts what is no older than ``FRESH_S``
into it again, of all the newest that it holds: in it is what the machine missed, and little more. Never touches the
queue of a guest that is there: that has spoken, or reads.
Docs: datapath.md, Moving.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

#: A pause that is longer loses of its beginning. What is older than this and the time between two rounds is gone.
FRESH_S = 0.1
#: Frames of a round. Where more come the queue is full before the next one, and is only emptied.
MOST = 1024
#: And bytes of those that are kept, of each tap.
MOST_BYTES = 4 << 20
#: Taps whose queues are looked after at once: each takes a fraction of a millisecond a round. Others are as they were.
MOST_TAPS = 16
#: A round of all taps begins with no further one after so long: whoever else asks the data plane waits for it.
ROUND_S = 0.005

_MARK = 0x57454654  # WEFT_MARK: policy has let them pass, and they have been counted
#: Of a queue that is being emptied; a process that was killed in that moment leaves it. Nobody else makes one so long.
_EMPTYING = 3
_USUAL = 1000  # DEFAULT_TX_QUEUE_LEN: a tap's own
_ETH_P_ALL, _SOL_PACKET, _PACKET_VNET_HDR, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 3, 263, 15, 33, 35
_SIOCGIFTXQLEN, _SIOCSIFTXQLEN = 0x8942, 0x8943
_REQUEST = struct.Struct("16si20x")  # struct ifreq
_STAMP = struct.Struct("qq")
_LARGEST = 10 + 65_536 + 18  # with struct virtio_net_hdr


class Waiting:
    """One tap's. Raises OSError, also when the tap goes."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._name = os.fsencode(interface)
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0  # of these
        self._settled = False  # the queue holds what is kept, and what is left of an emptying
        self._read = _frames_read(self._name)
        self._spoken = False
        self._wire = self._opened()
        try:
            if self._length() == _EMPTYING:
                self._set_length(_USUAL)
        except BaseException:
            self._wire.close()
            raise

    def close(self) -> None:
        self._wire.close()

    def freshen(self, now_s: float) -> bool:
        """One round; False: the guest is there, and this is over. now_s: of the wall clock, as the kernel's stamps."""
        whole = self._take()
        if self._spoken or _frames_read(self._name) != self._read:
            return False
        oldest_s = now_s - FRESH_S
        if self._settled and not (self._frames and self._frames[0][0] < oldest_s):
            return True  # each change of a queue's length is told to all who listen to the host's links
        length = self._length()
        before = len(self._frames)
        self._set_length(_EMPTYING)
        self._set_length(length)
        whole = self._take() and whole
        late = len(self._frames) - before  # they are in the queue already
        if not whole:  # too many
            self._wire.close()
            self._wire = self._opened()
            self._frames.clear()
            self._bytes = 0
        room = max(length - _EMPTYING - late, 0)
        while self._frames and (len(self._frames) > room or self._bytes > MOST_BYTES or self._frames[0][0] < oldest_s):
            self._bytes -= len(self._frames.popleft()[1])
        for _, frame in self._frames:  # also where the guest has spoken meanwhile: it may not have read them before
            with suppress(OSError):  # there is no room for it
                self._wire.send(frame)
        self._settled = True
        return not self._spoken

    def _opened(self) -> socket.socket:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
            wire.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
            wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)  # large and half summed, as they are
            wire.bind((self._interface, _ETH_P_ALL))
        except BaseException:
            wire.close()
            raise
        return wire

    def _take(self) -> bool:
        """What has come to the queue, and whether the guest has spoken. Returns whether that was all."""
        for _ in range(MOST):
            try:
                frame, told, _, (_, _, kind, *_) = self._wire.recvmsg(_LARGEST, 64)
            except BlockingIOError:
                return True
            if kind != socket.PACKET_OUTGOING:
                self._spoken = True
                continue
            seconds, nanoseconds = _STAMP.unpack(told[0][2])
            self._frames.append((seconds + nanoseconds / 1e9, frame))
            self._bytes += len(frame)
            self._settled = False
        return False

    def _length(self) -> int:
        return int(_REQUEST.unpack(fcntl.ioctl(self._wire, _SIOCGIFTXQLEN, _REQUEST.pack(self._name, 0)))[1])

    def _set_length(self, frames: int) -> None:
        fcntl.ioctl(self._wire, _SIOCSIFTXQLEN, _REQUEST.pack(self._name, frames))


def _frames_read(interface: bytes) -> int:
    """By whoever holds the tap: so the kernel counts what a tap has sent."""
    for line in Path("/proc/thread-self/net/dev").read_bytes().splitlines():
        name, colon, counted = line.partition(b":")
        if colon and name.strip() == interface:
            return int(counted.split()[9])
    return 0


class Queues:
    """Those of all ports that are on their way to this host, by port."""

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting | None] = {}  # None: the guest is there
        self.looked_after: list[str] = []  # and taps that would not; the latest is last

    def freshen(self, arriving: Collection[str], tap_of: Callable[[str], str | None]) -> None:
        """One round, of as many as it has time for; ports that are not named are left alone. tap_of: the tap that a
        port is bound to, None when that is no tap.
        """
        for port in self.waiting.keys() - set(arriving):
            self._stop(port)
        # First those that are new, then those whose last round was longest ago.
        self.looked_after = [port for port in self.looked_after if port in arriving]
        rank = {port: at for at, port in enumerate(self.looked_after)}
        ends_s = time.monotonic() + ROUND_S
        for port in sorted(arriving, key=lambda port: rank.get(port, -1)):
            tap = tap_of(port)
            if tap is None:
                self._stop(port)
                continue
            if port not in self.waiting and len(self.waiting) >= MOST_TAPS:
                continue
            try:
                if port not in self.waiting:
                    self.waiting[port] = Waiting(tap)
                waiting = self.waiting[port]
                if waiting is not None and not waiting.freshen(time.time()):
                    waiting.close()
                    self.waiting[port] = None
            except (OSError, ValueError, IndexError, struct.error):  # best effort: mostly a tap that has gone
                self._stop(port)
            if port in rank:
                self.looked_after.remove(port)
            self.looked_after.append(port)
            if time.monotonic() >= ends_s:
                return

    def close(self) -> None:
        for port in tuple(self.waiting):
            self._stop(port)

    def _stop(self, port: str) -> None:
        waiting = self.waiting.pop(port, None)
        if waiting is not None:
            waiting.close()
