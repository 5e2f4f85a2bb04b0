"""A port's connections as they go from host to host: msgpack, compressed. Looks at their shape only.

They pass through the controller, which does not look inside.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from weft.contracts.connections import Carried
from weft.kit.errors import Rejected

#: Of one piece: a port's 65,536 are sixteen pieces.
MOST = 4096
#: What a piece of so many is at most, before and after it is compressed.
MOST_PLAIN_BYTES = 2 << 20
MOST_BYTES = 1 << 20

CONTENT_TYPE = "application/vnd.weft.connections"


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """rank: which it is, from 1 on. more: further ones are waiting; else what comes is what changes. host: whose."""

    rank: int
    more: bool
    connections: list[Carried]
    host: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Piece).decode


def encode(rank: int, connections: Sequence[Carried], *, more: bool, host: str = "") -> bytes:
    return zlib.compress(_encode(Piece(rank, more, list(connections), host)), 1)


def decode(data: bytes) -> Piece:
    """Raises Rejected for what is no such piece, or more than one may be."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(data, MOST_PLAIN_BYTES)
        if not reader.eof or reader.unconsumed_tail or reader.unused_data:
            raise Rejected(f"connections of more than {MOST_PLAIN_BYTES} bytes, or cut off", "connections")
        piece = _decode(plain)
    except (zlib.error, msgspec.DecodeError) as fault:
        raise Rejected(f"these are no connections: {fault}", "connections") from fault
    if len(piece.connections) > MOST:
        raise Rejected(f"{len(piece.connections)} connections are more than the {MOST} of a piece", "connections")
    return piece
