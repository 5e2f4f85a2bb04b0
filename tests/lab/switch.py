"""A physical switch: ports that carry VLANs, and ports that are in one. It learns, and forgets nothing.

In plain Python, since not every kernel has VLANs for its bridges. What a network card would still have to do to a frame
(sum it up, cut it into segments) goes along with it, as from one virtual machine to another.
"""

from __future__ import annotations

import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from weft.lab import plan, shell
from weft.lab.lab import Lab

_ETH_P_ALL = 3
_SOL_PACKET, _AUXDATA, _VNET_HDR, _IGNORE_OUTGOING = 263, 8, 15, 23
_AUX = struct.Struct("=IIIHHHH")  # status, length, captured, network header, …, VLAN's TCI, its protocol
_VLAN_VALID = 1 << 4
_VNET = struct.Struct("=BBHHHH")  # struct virtio_net_hdr; its fifth is where the checksum starts
NATIVE = 1  # the VLAN of what has no tag


@dataclass(frozen=True)
class _Port:
    name: str
    wire: socket.socket
    access: int  # the one VLAN that it is in, without a tag; 0: it carries all, NATIVE without a tag

    def receive(self) -> tuple[int, bytes, bytes] | None:
        """The VLAN, what is still to be done to the frame, and the frame without a tag."""
        data, ancillary, _, _ = self.wire.recvmsg(1 << 17, 256)
        todo, frame = data[: _VNET.size], data[_VNET.size :]
        vlan = 0
        for _, _, told in ancillary:
            status, _, _, _, _, control, _ = _AUX.unpack_from(told)
            vlan = control & 0xFFF if status & _VLAN_VALID else 0
        if self.access:
            return None if vlan else (self.access, todo, frame)
        return vlan or NATIVE, todo, frame

    def send(self, vlan: int, todo: bytes, frame: bytes) -> None:
        if self.access not in (0, vlan):
            return
        if not self.access and vlan != NATIVE:
            flags, kind, headers, size, start, offset = _VNET.unpack(todo)
            more = 4 if flags else 0
            todo = _VNET.pack(flags, kind, headers + more if kind else headers, size, start + more, offset)
            frame = frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]
        with suppress(OSError):  # a wire that is down, or a frame that is too long for it
            self.wire.send(todo + frame)


@dataclass
class Switch:
    """In a namespace, until ``close``. known: (VLAN, MAC) -> the port."""

    namespace: str
    known: dict[tuple[int, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ports: dict[str, _Port] = {}
        self._selector = selectors.DefaultSelector()
        self._bell, self._ring = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def plug(self, interface: str, access: int = 0) -> None:
        """access: a VLAN; 0: the port carries all."""

        def opened() -> socket.socket:
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            wire.setsockopt(_SOL_PACKET, _AUXDATA, 1)
            wire.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            wire.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            wire.bind((interface, _ETH_P_ALL))
            return wire

        port = _Port(interface, shell.within(self.namespace, opened), access)
        with self._lock:
            self._ports[interface] = port
            self._selector.register(port.wire, selectors.EVENT_READ, port)
        self._ring.send(b"!")

    def unplug(self, interface: str) -> None:
        with self._lock:
            port = self._ports.pop(interface)
            self._selector.unregister(port.wire)
            port.wire.close()

    def close(self) -> None:
        self._ring.close()
        self._thread.join(10)
        for name in list(self._ports):
            self.unplug(name)
        self._selector.close()
        self._bell.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._bell.recv(64):
                        return
                    continue
                with self._lock:
                    if self._ports.get(key.data.name) is key.data:
                        self._forward(key.data)

    def _forward(self, port: _Port) -> None:
        try:
            found = port.receive()
        except OSError:
            return
        if found is None or len(found[2]) < 14:
            return
        vlan, todo, frame = found
        self.known[vlan, frame[6:12].hex(":")] = port.name
        there = None if frame[0] & 1 else self.known.get((vlan, frame[:6].hex(":")))
        for other in list(self._ports.values()):
            if other is not port and there in (None, other.name):
                other.send(vlan, todo, frame)


def ip(namespace: str, words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words.split()], capture_output=True, text=True, check=True)


@contextmanager
def switched(lab: Lab, vlan: int = NATIVE) -> Iterator[Switch]:
    """A switch between all hosts of a lab and its fabric's router, which is at a port of it, too, in a VLAN."""
    fabric = plan.fabric_namespace(lab.spec.name)
    ip(fabric, "link add router type veth peer name routerp")
    ip(fabric, "link set router up")
    ip(fabric, "link set routerp up")
    switch = Switch(fabric)
    try:
        switch.plug("routerp", vlan)
        for number, host in enumerate(lab.spec.hosts, 1):
            wire = f"host{number}"
            ip(fabric, f"addr flush dev {wire}")
            nodad = " nodad" if ":" in host.gateway else ""
            ip(fabric, f"addr add {host.gateway}/{host.subnet.rpartition('/')[2]} dev router{nodad}")
            switch.plug(wire)
            # The router has another MAC there, and IPv6 would go on with the one that it knows for half a minute.
            ip(plan.host_namespace(lab.spec.name, host.name), "neigh flush all")
        yield switch
    finally:
        switch.close()
