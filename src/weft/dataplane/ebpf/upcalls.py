"""What the programs hand to the agent through rings, and frames of the agent's own to guests. Decides no answer."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from weft.contracts.dataplane import Announcement, Handed, Routing, Samples, Upcall, UpcallKind
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.libbpf import Map, Ring
from weft.kit.errors import Retry

_AGENT_MARK = 0x57454641  # WEFT_AGENT_MARK


class Upcalls:
    """The ring upcalls: what guests announce and ask."""

    def __init__(self, of: Map) -> None:
        self._ring = Ring(of)

    @property
    def fd(self) -> int | None:
        """Readable when there is something to read."""
        return self._ring.fd

    def read(self, ports: Mapping[layout.Seat, str]) -> list[Upcall]:
        """Those since the last time, in order; of whom no port is known any more is passed over."""
        found: list[Upcall] = []
        for data in self._ring.read():
            up = layout.read_upcall(data)
            port = ports.get(up.seat)
            if port is None:  # let go since
                continue
            if up.kind is UpcallKind.ANNOUNCEMENT:
                found.append(Announcement(port, up.mac, up.address))
            elif up.kind is UpcallKind.PIM:
                found.append(Routing(port, up.mac, up.address))
            else:
                found.append(Handed(port, up.kind, up.frame))
        return found

    def close(self) -> None:
        self._ring.close()


class Sampled:
    """The ring samples, and how many there was no room for in it."""

    def __init__(self, of: Map, lost: Map) -> None:
        self._ring, self._lost = Ring(of), lost

    @property
    def fd(self) -> int | None:
        """Readable when there is something to read."""
        return self._ring.fd

    def read(self, names: Mapping[int, str]) -> Samples:
        """Those since the last time. names: of interfaces, by ifindex."""
        (lost,) = layout.COUNT.unpack(self._lost.lookup(layout.NUMBER.pack(0)) or bytes(8))
        return Samples([layout.read_sample(data) for data in self._ring.read()], lost, names)

    def close(self) -> None:
        self._ring.close()


def send(interface: str, frame: bytes, vlan: int) -> None:
    """A frame to the guest behind an interface. vlan: of its tag, 0 for none. Raises Retry when the kernel refuses."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _AGENT_MARK)
            wire.bind((interface, 0))
            wire.send(layout.tagged(frame, vlan))
    except OSError as error:
        raise Retry(f"{interface}: {error.strerror}") from error
