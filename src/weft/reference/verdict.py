"""What can become of a packet on one host, as a closed union, and the words that explain how it came to that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from weft.policy.drop import DropReason
from weft.policy.upcall import UpcallKind


@dataclass(frozen=True, slots=True)
class ToPort:
    """Delivered to a local port."""

    port: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class ToUnderlay:
    """Given to the kernel's own routes. packet: from the outer IP header on."""

    pa: str
    packet: bytes


@dataclass(frozen=True, slots=True)
class ToWire:
    """Sent by an uplink as it is, in a VLAN: bridged. frame: with the tag."""

    interface: str
    frame: bytes


Delivery: TypeAlias = ToPort | ToUnderlay | ToWire


@dataclass(frozen=True, slots=True)
class Copies:
    """Delivered to several places, each once."""

    deliveries: tuple[Delivery, ...]

    @classmethod
    def of(cls, deliveries: Iterable[Delivery]) -> Copies:
        """Where their order tells nothing: broadcast and multicast."""
        return cls(tuple(sorted(deliveries, key=_order)))


def _order(delivery: Delivery) -> tuple[int, str, bytes]:
    match delivery:
        case ToPort(port, frame):
            return 0, port, frame
        case ToUnderlay(pa, packet):
            return 1, pa, packet
        case ToWire(interface, frame):
            return 2, interface, frame


@dataclass(frozen=True, slots=True)
class Answer:
    """A frame goes back to the port that the packet came from; dropped: and the packet itself is dropped for this."""

    frame: bytes
    dropped: DropReason | None = None


@dataclass(frozen=True, slots=True)
class ToStack:
    """Left to the host's own network stack, untouched."""


@dataclass(frozen=True, slots=True)
class ToAgent:
    """Handed to the agent of the host, which answers or decides; it goes nowhere else, but perhaps to the wire."""

    kind: UpcallKind
    frame: bytes
    besides: ToWire | None = None


@dataclass(frozen=True, slots=True)
class Announced:
    """What a guest says that it has, and may, or (PIM) that it is a router: the agent hears of it."""

    mac: bytes
    address: bytes
    kind: UpcallKind = UpcallKind.ANNOUNCEMENT


@dataclass(frozen=True, slots=True)
class Drop:
    reason: DropReason
    announced: Announced | None = None


@dataclass(frozen=True, slots=True)
class Announcing:
    """It goes on, and the agent hears of what it says."""

    verdict: ToPort | ToWire | Copies
    announced: Announced


Verdict: TypeAlias = ToPort | ToUnderlay | ToWire | Copies | Answer | ToStack | ToAgent | Announcing | Drop


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one packet, and each step to it as a sentence for an operator."""

    verdict: Verdict
    steps: tuple[str, ...]
