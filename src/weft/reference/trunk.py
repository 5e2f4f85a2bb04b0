"""IEEE 802.1Q tags between a guest and its sub-ports: taken off before anybody looks at a frame, put on at the end."""

from __future__ import annotations

import struct

from weft.reference import packet

ETH_8021Q = 0x8100
TAG_BYTES = 4
_TAG = struct.Struct("!HHH")  # its type, its control, the type behind it


def vlan_of(frame: bytes) -> int:
    """The VLAN of a frame's tag; 0: none that a sub-port can have, or another tag behind it."""
    if len(frame) < packet.ETHERNET_BYTES + TAG_BYTES:
        return 0
    kind, control, behind = _TAG.unpack_from(frame, 12)
    return control & 0x0FFF if kind == ETH_8021Q and behind not in packet.ETH_TAGS else 0


def untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:]


def tagged(frame: bytes, vlan: int) -> bytes:
    """Priority 0. vlan 0: as it is."""
    return frame[:12] + struct.pack("!HH", ETH_8021Q, vlan) + frame[12:] if vlan else frame
