"""IPFIX (RFC 7011) with elements of PSAMP (RFC 5477): samples and counters as messages. Sends nothing, reads no clock.

Samples are data records of one template: when, by which interface, how long the frame was, its Ethernet header, and how
the IP packet in it begins. How they were chosen, and what interfaces are called, is told by options with the templates.
The IP packet's section and not the frame's: what collectors decode, tshark among them, is then known to be cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from weft.agent.samples import DATAGRAM_BYTES, Interface
from weft.contracts.dataplane import Sample

_VERSION = 10
_TEMPLATES, _OPTIONS_TEMPLATES = 2, 3
_SAMPLE, _COUNTERS, _SELECTOR, _INTERFACE = 256, 257, 258, 259
_VARIABLE = 0xFFFF
_IP = (b"\x08\x00", b"\x86\xdd")
_UNIFORM_PROBABILISTIC = 4  # IANA, PSAMP selector algorithms

# Information elements (IANA): number, bytes.
_INGRESS_INTERFACE, _INTERFACE_NAME = (10, 4), (82, _VARIABLE)
_OBSERVATION_TIME_MS, _SELECTOR_ID = (323, 8), (302, 8)
_FRAME_SIZE, _IP_SECTION = (312, 2), (313, _VARIABLE)
_SOURCE_MAC, _DESTINATION_MAC, _ETHERTYPE = (56, 6), (80, 6), (256, 2)
_ALGORITHM, _PROBABILITY = (304, 2), (311, 8)
_OCTETS, _PACKETS, _SENT_OCTETS, _SENT_PACKETS, _DROPPED = (85, 8), (86, 8), (171, 8), (172, 8), (135, 8)

_TEMPLATE = {
    _SAMPLE: (
        _OBSERVATION_TIME_MS,
        _INGRESS_INTERFACE,
        _SELECTOR_ID,
        _FRAME_SIZE,
        _SOURCE_MAC,
        _DESTINATION_MAC,
        _ETHERTYPE,
        _IP_SECTION,
    ),
    _COUNTERS: (_INGRESS_INTERFACE, _PACKETS, _OCTETS, _SENT_PACKETS, _SENT_OCTETS, _DROPPED),
}
#: The first element is the scope.
_OPTIONS = {
    _SELECTOR: (_SELECTOR_ID, _ALGORITHM, _PROBABILITY),
    _INTERFACE: (_INGRESS_INTERFACE, _INTERFACE_NAME),
}


class Ipfix:
    """One exporter's messages, numbered by their data records. domain: the observation domain, this host's."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._records = 0

    def templates(self, rates: Iterable[int], interfaces: Iterable[Interface], now_ms: int) -> Iterator[bytes]:
        """What a collector needs before it understands the rest; over UDP it is told again and again (RFC 7011 8.4)."""
        sets = [
            _set(_TEMPLATES, b"".join(_template(number, fields) for number, fields in _TEMPLATE.items())),
            _set(_OPTIONS_TEMPLATES, b"".join(_template(number, fields, 1) for number, fields in _OPTIONS.items())),
        ]
        yield self._message(sets, 0, now_ms)
        selectors = (struct.pack("!QHd", rate, _UNIFORM_PROBABILISTIC, 1 / rate) for rate in sorted(set(rates)))
        yield from self._messages(_SELECTOR, selectors, now_ms)
        named = (struct.pack("!I", each.ifindex) + _variable(each.name.encode()) for each in interfaces)
        yield from self._messages(_INTERFACE, named, now_ms)

    def samples(self, samples: Iterable[Sample], now_ms: int) -> Iterator[bytes]:
        """A selector's id is its rate."""
        return self._messages(_SAMPLE, (_sample(each, now_ms) for each in samples), now_ms)

    def counters(self, interfaces: Iterable[Interface], now_ms: int) -> Iterator[bytes]:
        records = (
            struct.pack(
                "!I5Q",
                each.ifindex,
                each.traffic.received_packets,
                each.traffic.received_bytes,
                each.traffic.sent_packets,
                each.traffic.sent_bytes,
                sum(each.traffic.drops.values()),
            )
            for each in interfaces
        )
        return self._messages(_COUNTERS, records, now_ms)

    def _messages(self, template: int, records: Iterable[bytes], now_ms: int) -> Iterator[bytes]:
        """As many records in each as fit."""
        found: list[bytes] = []
        size = 0
        for record in records:
            if found and size + len(record) > DATAGRAM_BYTES - 20:
                yield self._message([_set(template, b"".join(found))], len(found), now_ms)
                found, size = [], 0
            found.append(record)
            size += len(record)
        if found:
            yield self._message([_set(template, b"".join(found))], len(found), now_ms)

    def _message(self, sets: list[bytes], records: int, now_ms: int) -> bytes:
        body = b"".join(sets)
        head = struct.pack("!HHIII", _VERSION, 16 + len(body), now_ms // 1000 & 0xFFFFFFFF, self._records, self._domain)
        self._records = (self._records + records) & 0xFFFFFFFF
        return head + body


def _sample(of: Sample, now_ms: int) -> bytes:
    numbers = struct.pack("!QIQH", now_ms, of.ifindex, of.rate, min(of.frame_bytes, 0xFFFF))
    destination, source, ethertype = of.header[:6], of.header[6:12], of.header[12:14]
    packet = of.header[14:] if ethertype in _IP else b""
    return numbers + source + destination + ethertype + _variable(packet)


def _set(number: int, body: bytes) -> bytes:
    return struct.pack("!HH", number, 4 + len(body)) + body


def _template(number: int, fields: tuple[tuple[int, int], ...], scopes: int = 0) -> bytes:
    head = struct.pack("!HH", number, len(fields)) + (struct.pack("!H", scopes) if scopes else b"")
    return head + b"".join(struct.pack("!HH", *field) for field in fields)


def _variable(data: bytes) -> bytes:
    """RFC 7011 section 7."""
    return (bytes((len(data),)) if len(data) < 255 else b"\xff" + struct.pack("!H", len(data))) + data
