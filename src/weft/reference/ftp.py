"""What an FTP control connection says of data connections: PORT and EPRT, and the answers 227 and 229. Judges nothing.

RFC 959 section 4.1.2, RFC 1123 section 4.1.2.6 (there is no form of 227 that all servers keep), RFC 2428.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

#: How much of a segment's text is read, and of a line.
TEXT_BYTES = 512
#: Below it nothing is expected: those ports are other services' (RFC 2577 section 3).
FIRST_PORT = 1024

_NUMBER = rb"([0-9]{1,3})"
_SIX = b",".join([_NUMBER] * 6)
_DELIMITER = rb"([!-\-/;-@\[-`{-~])"  # RFC 2428 has 33 to 126: what an address cannot hold
_PORT = re.compile(rb"(?i:PORT) " + _SIX + rb"[\r\n]")
_EPRT4 = re.compile(
    rb"(?i:EPRT) " + _DELIMITER + rb"1\1" + rb"\.".join([_NUMBER] * 4) + rb"\1([0-9]{1,5})\1[\r\n]",
)
_EPRT6 = re.compile(rb"(?i:EPRT) " + _DELIMITER + rb"2\1([0-9A-Fa-f:]+)\1([0-9]{1,5})\1[\r\n]")
_PASSIVE = re.compile(rb"227 [^0-9\n]*" + _SIX + rb"[^0-9,]")
_EXTENDED = re.compile(rb"229 [^(\n]*\(" + _DELIMITER + rb"\1\1([0-9]{1,5})\1\)")


@dataclass(frozen=True, slots=True)
class Said:
    """Where the other end is to open a data connection to. address: None: the speaker's own."""

    address: bytes | None
    port: int


def heard(text: bytes, *, of_client: bool, before: bytes = b"") -> Said | None:
    """The last that a segment's text says. before: what came before it of the line that it goes on with, and may have
    said enough already. What is there in part says nothing.
    """
    hear = _of_client if of_client else _of_server
    first, *more = _lines(before + text[:TEXT_BYTES])
    found = None if before and hear(before) is not None else hear(first[:TEXT_BYTES])
    for line in more:
        found = hear(line) or found
    return found


def unfinished(text: bytes, before: bytes = b"") -> bytes:
    """The line that a segment's text ends in the midst of, as far as it is known and may go on."""
    if len(text) > TEXT_BYTES:
        return b""
    line = (before + text).rpartition(b"\n")[2]
    return line if len(line) <= TEXT_BYTES else b""


def _lines(text: bytes) -> list[bytes]:
    return [line + b"\n" for line in text.split(b"\n")[:-1]] + [text.rpartition(b"\n")[2]]


def _of_client(line: bytes) -> Said | None:
    if (match := _PORT.match(line)) is not None:
        return _six(match.groups())
    if (match := _EPRT4.match(line)) is not None:
        _, *address, port = match.groups()
        return _said(_bytes(address), int(port))
    if (match := _EPRT6.match(line)) is not None:
        try:
            address6 = ipaddress.IPv6Address(match[2].decode())
        except ValueError:
            return None
        return _said(address6.packed, int(match[3]))
    return None


def _of_server(line: bytes) -> Said | None:
    if (match := _PASSIVE.match(line)) is not None:
        return _six(match.groups())
    if (match := _EXTENDED.match(line)) is not None and int(match[2]) < 1 << 16:
        return Said(None, int(match[2]))
    return None


def _six(numbers: tuple[bytes, ...]) -> Said | None:
    """h1,h2,h3,h4,p1,p2"""
    found = _bytes(list(numbers))
    return None if found is None else Said(found[:4], int.from_bytes(found[4:], "big"))


def _said(address: bytes | None, port: int) -> Said | None:
    return None if address is None or port >= 1 << 16 else Said(address, port)


def _bytes(numbers: list[bytes]) -> bytes | None:
    found = [int(number) for number in numbers]
    return bytes(found) if max(found) < 256 else None
