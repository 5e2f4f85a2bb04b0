"""What exporters of samples share. Holds values, and does nothing."""

from __future__ import annotations

from dataclasses import dataclass

from weft.contracts.dataplane import Traffic

#: The most that one datagram carries: with every header it fits an Ethernet frame, also over IPv6.
DATAGRAM_BYTES = 1400


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that is sampled. name: a port's name, or uplink:<interface>."""

    ifindex: int
    name: str
    traffic: Traffic
