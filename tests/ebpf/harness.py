"""Network namespaces, and the eBPF programs run on single frames: what tests of the data plane share."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from polling import PATIENCE_S
from weft.dataplane.ebpf import attach, bpffs, layout, libbpf, plane
from weft.dataplane.ebpf.interfaces import interfaces
from weft.dataplane.ebpf.maps import Sizes

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_libc = ctypes.CDLL(None, use_errno=True)

#: Small, so that a hundred of them fit a test run.
SMALL = Sizes(subnets=64, records=512, macs=512, routes=128, ports=64, sources=512, wanted=1024)


def run(*words: str) -> str:
    """A command's output; its own words when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Netns:
    """A named network namespace. ``enter`` takes this thread in; the file system stays as it is."""

    name: str

    @contextmanager
    def enter(self) -> Iterator[None]:
        with Path("/proc/thread-self/ns/net").open("rb") as home, Path("/run/netns", self.name).open("rb") as there:
            assert _libc.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert _libc.setns(home.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def ip(self, words: str) -> str:
        return run("ip", "-n", self.name, *words.split())

    def veth(self, name: str, peer: str, *, into: Netns | None = None, mtu_bytes: int = 1500) -> int:
        """A pair, both ends up; returns the ifindex of ``name``."""
        self.ip(f"link add {name} mtu {mtu_bytes} type veth peer name {peer} mtu {mtu_bytes}")
        if into is not None:
            self.ip(f"link set {peer} netns {into.name}")
        (into or self).ip(f"link set {peer} up")
        self.ip(f"link set {name} up")
        return self.ifindex(name)

    def ifindex(self, name: str) -> int:
        with self.enter():
            return interfaces()[name].ifindex


@contextmanager
def netns(label: str = "") -> Iterator[Netns]:
    """A namespace of its own, with loopback up; gone afterwards with all that is in it."""
    there = Netns(f"weft-{label}{secrets.token_hex(4)}")
    run("ip", "netns", "add", there.name)
    try:
        with there.enter():
            # The kernel's own neighbour discovery would be counted with what a test sends.
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        there.ip("link set lo up")
        yield there
    finally:
        run("ip", "netns", "del", there.name)


@contextmanager
def pin_directory() -> Iterator[Path]:
    """A place on the BPF file system for one test."""
    pins = bpffs.MOUNT_POINT / f"weft-test-{secrets.token_hex(6)}"
    try:
        yield pins
    finally:
        bpffs.remove(pins)


@contextmanager
def emptied(pins: Path, source: Path, attacher: attach.Attacher | None = None) -> Iterator[Path]:
    """The same place again, for the next test: maps are emptied afterwards, programs stay."""
    try:
        yield pins
        of = plane.EbpfDataPlane(pins, SMALL, source=source, attacher=attacher)
        of.bind({})
        of.prune([])
        of.upcalls()
        for name in layout.LAYOUTS:
            one = of._loaded.maps[name]
            for key, value in list(one.items()):
                if name in ("connections", "quotas", "tenants", "datagrams", "hits", "denials", "hearing"):
                    one.delete(key)
                elif name in ("counters", "tracking", "tracked", "peers", "learning", "samples_lost"):
                    if any(value):
                        one.update(key, bytes(len(value)))
                elif name == "changes":
                    pass  # goes on: programs remember what they were asked before
                else:
                    assert name == "host", f"{name} has {key.hex()}"
                    assert not any(value)
        assert not list(bpffs.entries(pins / "links"))
        of.close()
    except BaseException:
        bpffs.remove(pins)
        raise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did to a frame. verdict, target, vlan, besides: skb->cb[0] to cb[3], as in c/drop.h."""

    retval: int
    data: bytes
    verdict: int
    target: int
    mark: int
    vlan: int
    besides: int = 0


@dataclass(slots=True)
class Harness:
    """A data plane whose programs are run on frames by hand. Give it rows and bindings through ``plane``."""

    plane: plane.EbpfDataPlane
    netns: Netns
    _runs: dict[str, libbpf.TestRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loaded = self.plane._loaded
        self._runs = {name: libbpf.TestRun(program) for name, program in loaded.programs.items()}

    @property
    def maps(self) -> Mapping[str, libbpf.Map]:
        return self.plane._loaded.maps

    @property
    def programs(self) -> Mapping[str, libbpf.Program]:
        return self.plane._loaded.programs

    def run(self, program: str, frame: bytes, ifindex: int, *, mark: int = 0, gso_size: int = 0) -> Outcome:
        """``weft_from_port``, ``weft_from_uplink`` or ``weft_to_port`` on a frame of at least 14 bytes. ``ifindex``: an
        interface of the harness's namespace, which this thread is in (inside ``with harness(...)``).
        """
        ran = self._runs[program](frame, ifindex, mark=mark, gso_size=gso_size)
        context = ran.context
        return Outcome(ran.retval, ran.data, context.cb[0], context.cb[1], context.mark, context.cb[2], context.cb[3])


@contextmanager
def harness(source: Path, sizes: Sizes = SMALL, *, uplink_mtu_bytes: int = 1500) -> Iterator[Harness]:
    """A data plane in a namespace of its own, with interfaces ``port0``..``port3`` and an uplink ``up0``.

    The calling thread is in the namespace until the end. The ports' other ends are in the same namespace (``peer0``…),
    so there is no bpf_redirect_peer; the uplink has 192.0.2.1/24 and a neighbour 192.0.2.254, the default gateway.
    """
    with netns("run-") as there, pin_directory() as pins:
        for number in range(4):
            there.veth(f"port{number}", f"peer{number}")
        there.veth("up0", "wire0", mtu_bytes=uplink_mtu_bytes)
        there.ip("addr add 192.0.2.1/24 dev up0")
        there.ip("neigh add 192.0.2.254 lladdr 02:00:00:00:ff:fe dev up0 nud permanent")
        there.ip("route add default via 192.0.2.254")
        with there.enter():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            of = plane.EbpfDataPlane(pins, sizes, source=source)
            try:
                yield Harness(of, there)
            finally:
                of.remove()


_SOL_PACKET, _PACKET_AUXDATA, _TP_STATUS_VLAN_VALID = 263, 8, 1 << 4


def _vlan_beside(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Of struct tpacket_auxdata."""
    for _, _, data in ancillary:
        status, _, _, _, _, control, _ = struct.unpack_from("=IIIHHHH", data)
        if status & _TP_STATUS_VLAN_VALID:
            return int(control) & 0x0FFF
    return 0


class Wires:
    """What comes in by interfaces of this thread's namespace (name -> the name to say it was at), by one socket."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setblocking(False)
        # Hundreds of frames at once.
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)

    def frames(self) -> list[tuple[str, int, bytes]]:
        """What has come since the last time: where, in which VLAN (whose tag is beside the frame), and the frame. What
        this namespace itself sends is passed over.
        """
        found = []
        while True:
            try:
                frame, ancillary, _, (interface, _, kind, *_) = self._socket.recvmsg(65_536, 256)
            except BlockingIOError:
                return found
            if interface in self._names and kind != socket.PACKET_OUTGOING:
                found.append((self._names[interface], _vlan_beside(ancillary), frame))

    def close(self) -> None:
        self._socket.close()


def send(interface: str, frame: bytes, count: int = 1) -> None:
    """Frames out of an interface of this thread's namespace: what they meet is the other end of its veth."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        for _ in range(count):
            try:
                wire.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # what a sender hears of a packet that is dropped at egress
                    raise


def eventually(question: Callable[[], bool], what: str, deadline_s: float = PATIENCE_S) -> None:
    """Ask until the answer is yes."""
    end = time.monotonic() + deadline_s
    while not question():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)
