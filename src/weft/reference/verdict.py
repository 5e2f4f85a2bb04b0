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
class Copies:
    """Delivered to several places, each once."""

    deliveries: tuple[ToPort | ToUnderlay, ...]

    @classmethod
    def of(cls, deliveries: Iterable[ToPort | ToUnderlay]) -> Copies:
        """Where their order tells nothing: broadcast and multicast."""
        return cls(tuple(sorted(deliveries, key=_order)))


def _order(delivery: ToPort | ToUnderlay) -> tuple[int, str, bytes]:
    match delivery:
        case ToPort(port, frame):
            return 0, port, frame
        case ToUnderlay(pa, packet):
            return 1, pa, packet


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
    """Handed to the agent of the host, which answers or decides; it goes nowhere else."""

    kind: UpcallKind
    frame: bytes


@dataclass(frozen=True, slots=True)
class Announced:
    """What a guest says that it has, and may: the agent hears of it."""

    mac: bytes
    address: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    reason: DropReason
    announced: Announced | None = None


Verdict: TypeAlias = ToPort | ToUnderlay | Copies | Answer | ToStack | ToAgent | Drop


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one packet, and each step to it as a sentence for an operator."""

    verdict: Verdict
    steps: tuple[str, ...]
