"""The queue of a tap that nobody reads yet holds the newest, while its port arrives."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns
from ebpf.rows import POLICY, PORT_A, PORT_B, A, B
from weft.dataplane.ebpf import waiting
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.dataplane.ebpf.waiting import FRESH_S, MOST, Waiting
from weft.kit import rtnetlink
from weft.policy.rows import Host

pytestmark = pytest.mark.root

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_TYPE = b"\x88\xb5"
#: What a test has sent is newer, however long it takes.
BEGAN_S = time.time()
NONE = bytes(10)  # struct virtio_net_hdr of a whole frame


@dataclass(frozen=True, slots=True)
class Tap:
    """As QEMU has it, and one end by which frames come to it."""

    fd: int
    wire: socket.socket
    place: Netns

    def send(self, *numbers: int, header: bytes = NONE, body: bytes = b"") -> None:
        for number in numbers:
            self.wire.send(header + bytes(12) + _TYPE + number.to_bytes(4, "big") + (body or bytes(42)))

    def read(self) -> list[bytes]:
        """All that is in the queue, of those that were sent, with their headers."""
        found = []
        while True:
            try:
                frame = os.read(self.fd, 70_000)
            except BlockingIOError:
                return found
            if frame[22:24] == _TYPE:
                found.append(frame)

    def numbers(self) -> list[int]:
        return [int.from_bytes(frame[24:28], "big") for frame in self.read()]

    @property
    def length(self) -> int:
        return int(self.place.ip("-o link show tapq").split("qlen ")[1].split()[0].rstrip("\\"))


@pytest.fixture
def tap(netns: Callable[[], Netns]) -> Iterator[Tap]:
    with _tap(netns()) as made:
        yield made


@contextmanager
def _tap(place: Netns, name: str = "tapq") -> Iterator[Tap]:
    with place.enter():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        place.ip(f"link set {name} txqueuelen 700 up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            wire.bind((name, 0))
            try:
                yield Tap(fd, wire, place)
            finally:
                os.close(fd)


@contextmanager
def _waiting() -> Iterator[Waiting]:
    made = Waiting("tapq")
    try:
        yield made
    finally:
        made.close()


def test_what_came_long_ago_gives_way_to_what_is_new(tap: Tap) -> None:
    with _waiting() as it:
        tap.send(*range(600))
        assert it.freshen(time.time() + 2 * FRESH_S)
        tap.send(*range(600, 640))
        assert it.freshen(BEGAN_S)
        assert it.freshen(BEGAN_S)  # again and again, in order
        found = tap.numbers()
    assert found[-40:] == list(range(600, 640))
    assert len(found) < 50  # a few of the oldest have stayed
    assert tap.length == 700


def test_without_a_round_the_queue_is_as_the_kernel_has_it(tap: Tap) -> None:
    with _waiting():
        tap.send(*range(600))
    assert tap.numbers() == list(range(600))


@pytest.mark.parametrize("sign", ["it speaks", "it reads"])
def test_the_queue_of_a_guest_that_is_there_is_let_be(tap: Tap, sign: str) -> None:
    with _waiting() as it:
        tap.send(*range(100))
        if sign == "it speaks":
            os.write(tap.fd, NONE + b"\xff" * 6 + bytes(6) + b"\x80\x35" + bytes(46))  # QEMU's RARP, when it runs on
        else:
            os.read(tap.fd, 2000)
        assert not it.freshen(time.time() + 2 * FRESH_S)
        assert tap.numbers()[-99:] == list(range(1, 100))


def test_what_was_taken_out_as_the_guest_began_to_speak_is_put_back(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the emptying: the kernel's own file of counters is read there."""

    def speaks(interface: str) -> int:
        os.write(tap.fd, NONE + b"\xff" * 6 + bytes(6) + b"\x80\x35" + bytes(46))
        return read(interface)

    read = waiting._frames_read
    with _waiting() as it:
        tap.send(*range(100))
        monkeypatch.setattr(waiting, "_frames_read", speaks)
        assert not it.freshen(BEGAN_S)
        assert tap.numbers()[-100:] == list(range(100))


def test_what_is_large_or_half_summed_is_put_back_as_it_was(tap: Tap) -> None:
    gso = struct.pack("=BBHHHH", 1, 1, 54, 1400, 34, 16)  # needs its checksum, TCPv4, in segments of 1400
    ip = bytes.fromhex("45000fa000004000400600000a0000010a000002") + bytes(2)
    with _waiting() as it, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        wire.bind(("tapq", 0))
        tcp = struct.pack(">HHIIBBHHH", 1000, 80, 1, 1, 0x50, 0x10, 1000, 0, 0)
        frame = bytes(12) + b"\x08\0" + ip[:20] + tcp + bytes(4000 - 40)
        assert wire.send(gso + frame) == len(gso + frame)
        first = _tcp(tap)
        assert first
        assert it.freshen(BEGAN_S) is False  # it was read: the guest is there
    with _waiting() as it:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            wire.bind(("tapq", 0))
            for _ in range(8):
                wire.send(gso + frame)
        assert it.freshen(BEGAN_S)
        again = _tcp(tap)
    assert len(again) >= 8 * len(first)
    assert set(again) == set(first)


def _tcp(tap: Tap) -> list[bytes]:
    """What is in the queue of it."""
    found = []
    while True:
        try:
            frame = os.read(tap.fd, 70_000)
        except BlockingIOError:
            return found
        if frame[22:24] == b"\x08\0":
            found.append(frame)


def test_what_a_process_left_that_was_killed_while_it_emptied_the_queue_is_mended(tap: Tap) -> None:
    tap.place.ip(f"link set tapq txqueuelen {waiting._EMPTYING}")
    with _waiting() as it:
        assert it.freshen(BEGAN_S)
        assert tap.length == waiting._USUAL


def test_more_than_can_be_kept_new_is_let_go_and_what_comes_next_is_kept(tap: Tap) -> None:
    with _waiting() as it:
        tap.send(*range(MOST + 100))
        assert it.freshen(BEGAN_S)
        tap.send(*range(9000, 9020))
        assert it.freshen(BEGAN_S)
        assert tap.numbers()[-20:] == list(range(9000, 9020))


def test_of_more_than_the_queue_holds_the_newest_is_kept(tap: Tap) -> None:
    with _waiting() as it:
        for some in (range(600), range(600, 1000)):
            tap.send(*some)
            assert it.freshen(BEGAN_S)
        assert tap.numbers()[-600:] == list(range(400, 1000))


def test_of_more_bytes_than_a_tap_may_have_kept_the_newest_are(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_BYTES", 30 * 1000)
    with _waiting() as it:
        tap.send(*range(100), body=bytes(970))  # 1000 bytes, with its headers
        assert it.freshen(BEGAN_S)
        assert tap.numbers() == [0, 1, 2, *range(70, 100)]


def test_a_round_in_which_nothing_came_and_nothing_is_old_tells_nobody_of_a_change(tap: Tap) -> None:
    with _waiting() as it, rtnetlink.subscribe() as heard:

        def told() -> int:
            count = 0
            with suppress(BlockingIOError):
                while True:
                    count += len(list(rtnetlink.link_messages(heard.recv(rtnetlink.RECEIVE_BYTES))))
            return count

        tap.send(*range(10))
        assert it.freshen(BEGAN_S)
        assert told() > 0
        assert it.freshen(BEGAN_S)
        assert told() == 0
        assert it.freshen(time.time() + 2 * FRESH_S)  # they are old by now
        assert told() > 0
        assert it.freshen(time.time() + 2 * FRESH_S)
        assert told() == 0
        assert tap.numbers() == [0, 1, 2]


def test_an_interface_may_have_a_name_of_any_letters(tap: Tap) -> None:
    tap.place.ip("link add büro0 type veth peer name büro1")
    with _waiting() as it:
        tap.send(7)
        assert it.freshen(BEGAN_S)
        assert tap.numbers()[-1:] == [7]


def test_taps_that_a_round_had_no_time_for_come_first_in_the_next(
    tap: Tap, weft_object: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "ROUND_S", 0.0)  # one tap of each
    with _tap(tap.place, "tapr"):
        plane = EbpfDataPlane(pins, SMALL, source=weft_object)
        try:
            plane.bind({A: "tapq", B: "tapr"})
            plane.freshen([A, B])
            assert plane._queues.looked_after == list(plane._queues.waiting) == [A]
            for first, last in ((A, B), (B, A), (A, B)):
                plane.freshen([A, B])
                assert plane._queues.looked_after == [first, last]
                assert set(plane._queues.waiting) == {A, B}
        finally:
            plane.close()


def test_a_tap_that_goes_is_said(tap: Tap) -> None:
    with _waiting() as it:
        assert it.freshen(BEGAN_S)
        tap.place.ip("link delete tapq")
        with pytest.raises(OSError, match=r"."):
            it.freshen(BEGAN_S)


def test_a_tap_that_is_not_there_is_said(netns: Callable[[], Netns]) -> None:
    with netns().enter(), pytest.raises(OSError, match=r"."):
        Waiting("tapq")


def test_what_is_put_back_passes_the_program_at_the_tap_and_is_counted_once(
    tap: Tap, weft_object: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FRESH_S", 60.0)  # however long this takes
    rows = (*POLICY[:-2], replace(PORT_A, arriving=True), replace(PORT_B, arriving=True))
    tap.place.veth("port1", "peer1")
    plane = EbpfDataPlane(pins, SMALL, source=weft_object)
    try:
        plane.freshen([A, B])  # neither row nor binding is there yet
        plane.update([Host("hosts/h1", ("192.0.2.1",), ()), *rows])
        plane.bind({A: "tapq", B: "port1"})
        plane.freshen([A, B])
        for number in range(50):
            plane.send(A, bytes(12) + _TYPE + number.to_bytes(4, "big") + bytes(42))
        for _ in range(3):
            plane.freshen([A, B])
        assert tap.numbers()[-50:] == list(range(50))
        assert plane.counters()[A].sent_packets == 50
        plane.send(A, bytes(12) + _TYPE + bytes(46))
        plane.freshen([A, B])  # it has been read from: from now on nothing is
        plane.freshen([])
        assert tap.numbers() == [0]
    finally:
        plane.close()
