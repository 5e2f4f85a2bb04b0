"""sFlow version 5 (sflow.org/sflow_version_5.txt): samples and counters as datagrams. Sends nothing, reads no clock."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from weft.agent.samples import DATAGRAM_BYTES, Interface
from weft.contracts.dataplane import Sample

_VERSION, _IPV4, _IPV6 = 5, 1, 2
_FLOW, _COUNTERS = 1, 2  # formats of samples
_RAW_HEADER, _GENERIC_INTERFACE = 1, 1  # formats of their records
_ETHERNET = 1  # header_protocol
_ETHERNET_CSMACD, _FULL_DUPLEX, _UP = 6, 1, 3
_UNKNOWN = 0  # an output interface that is not known

_FLOW_SAMPLE = struct.Struct("!8I")
_RECORD = struct.Struct("!II")
_HEADER = struct.Struct("!4I")
_GENERIC = struct.Struct("!IIQIIQ6IQ6I")
_MASK32 = 0xFFFFFFFF


class Sflow:
    """One agent's datagrams, numbered. agent: the address that collectors know the host by."""

    def __init__(self, agent: str) -> None:
        family = socket.AF_INET6 if ":" in agent else socket.AF_INET
        self._agent = struct.pack("!I", _IPV6 if ":" in agent else _IPV4) + socket.inet_pton(family, agent)
        self._datagrams = 0
        self._of: dict[tuple[int, int], int] = {}  # numbers of samples by format and interface

    def samples(
        self, samples: Iterable[Sample], received: Mapping[int, int], lost: int, uptime_ms: int
    ) -> Iterator[bytes]:
        """received: packets, by interface, of which these are samples; lost: samples that nobody could take."""
        return self._datagrams_of(
            (self._flow(each, received.get(each.ifindex, 0), lost) for each in samples), uptime_ms
        )

    def counters(self, interfaces: Iterable[Interface], uptime_ms: int) -> Iterator[bytes]:
        return self._datagrams_of(map(self._counters, interfaces), uptime_ms)

    def _datagrams_of(self, samples: Iterable[bytes], uptime_ms: int) -> Iterator[bytes]:
        """As many in each as fit."""
        found: list[bytes] = []
        size = 0
        for sample in samples:
            if found and size + len(sample) > DATAGRAM_BYTES - 64:
                yield self._datagram(found, uptime_ms)
                found, size = [], 0
            found.append(sample)
            size += len(sample)
        if found:
            yield self._datagram(found, uptime_ms)

    def _datagram(self, samples: list[bytes], uptime_ms: int) -> bytes:
        self._datagrams += 1
        numbers = struct.pack("!4I", 0, self._datagrams & _MASK32, uptime_ms & _MASK32, len(samples))
        return struct.pack("!I", _VERSION) + self._agent + numbers + b"".join(samples)

    def _number(self, kind: int, ifindex: int) -> int:
        number = self._of[kind, ifindex] = self._of.get((kind, ifindex), 0) + 1
        return number & _MASK32

    def _flow(self, sample: Sample, received: int, lost: int) -> bytes:
        header = sample.header + bytes(-len(sample.header) % 4)
        record = _HEADER.pack(_ETHERNET, sample.frame_bytes, 0, len(sample.header)) + header
        body = _FLOW_SAMPLE.pack(
            self._number(_FLOW, sample.ifindex),
            sample.ifindex,  # source: type 0, an ifIndex
            sample.rate,
            received & _MASK32,
            lost & _MASK32,
            sample.ifindex,
            _UNKNOWN,
            1,
        )
        return _record(_FLOW, body + _record(_RAW_HEADER, record))

    def _counters(self, of: Interface) -> bytes:
        traffic = of.traffic
        dropped = sum(traffic.drops.values()) & _MASK32
        generic = _GENERIC.pack(
            of.ifindex, _ETHERNET_CSMACD, 0, _FULL_DUPLEX, _UP,
            traffic.received_bytes, traffic.received_packets & _MASK32, 0, 0, dropped, 0, 0,
            traffic.sent_bytes, traffic.sent_packets & _MASK32, 0, 0, 0, 0, 0,
        )  # fmt: skip
        numbers = struct.pack("!III", self._number(_COUNTERS, of.ifindex), of.ifindex, 1)
        return _record(_COUNTERS, numbers + _record(_GENERIC_INTERFACE, generic))


def _record(kind: int, body: bytes) -> bytes:
    return _RECORD.pack(kind, len(body)) + body
