"""Fragments follow their datagram's first: what became of it becomes of them. Reassembles nothing, and keeps no byte.

Each port has, for each direction, SLOTS places for datagrams under way; which one follows from the identification, so a
guest that floods takes places from itself and from nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from weft.reference.flows import Flow, Piece

SLOTS = 64
PIECES = 8  # that a datagram may be in at once, with gaps between them
LIFE_NS = 30 * 10**9


class Fate(Enum):
    """What becomes of a fragment."""

    FOLLOWS = 0  # its first has passed
    UNKNOWN = 1  # its first has not come, or was dropped, or is too long ago
    OVERLAPS = 2  # so nothing of its datagram passes any more (RFC 5722), or there are too many gaps


@dataclass(slots=True)
class Datagram:
    """One under way. ports: as its first has them, for whoever counts; number: of TCP, that of offset 0."""

    identity: tuple[bytes, bytes, int, int]
    protocol: int  # of its first, behind extension headers
    expires_ns: int
    ports: tuple[int, int]
    code: int
    number: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    total: int = 0  # bytes, once its last has come
    spoilt: bool = False

    def put(self, piece: Piece) -> bool:
        """Whether the piece fits in."""
        begin, end = piece.begin, piece.end
        if any(begin < there_end and there_begin < end for there_begin, there_end in self.pieces):
            return False
        before = next((each for each in self.pieces if each[1] == begin), None)
        behind = next((each for each in self.pieces if each[0] == end), None)
        if before is None and behind is None and len(self.pieces) == PIECES:
            return False
        for joined in (before, behind):
            if joined is not None:
                self.pieces.remove(joined)
        self.pieces.append((begin if before is None else before[0], end if behind is None else behind[1]))
        if piece.last:
            self.total = end
        return True

    @property
    def whole(self) -> bool:
        return self.pieces == [(0, self.total)]


def slot(identity: int) -> int:
    return (identity ^ identity >> 8 ^ identity >> 16 ^ identity >> 24) % SLOTS


@dataclass(slots=True)
class Fragments:
    """Those of every port."""

    _places: dict[tuple[str, int, int], Datagram] = field(default_factory=dict)

    def of(self, port: str, side: int, flow: Flow, piece: Piece, now_ns: int) -> Datagram | None:
        """The datagram under way that the piece is of."""
        found = self._places.get((port, side, slot(piece.identity)))
        if found is None or found.identity != _identity(flow, piece) or now_ns >= found.expires_ns:
            return None
        return found

    def first(self, port: str, side: int, flow: Flow, piece: Piece, now_ns: int) -> None:
        """A first fragment has passed."""
        number = 0
        if flow.segment is not None:
            number = flow.segment.end - piece.end
        made = Datagram(_identity(flow, piece), flow.protocol, now_ns + LIFE_NS, flow.ports, flow.code, number % 2**32)
        made.put(piece)
        self._places[port, side, slot(piece.identity)] = made

    def follow(self, datagram: Datagram | None, piece: Piece) -> Fate:
        """What becomes of one whose datagram has begun, if it has."""
        if datagram is None or datagram.whole:
            return Fate.UNKNOWN
        if datagram.spoilt or not datagram.put(piece):
            datagram.spoilt = True
            return Fate.OVERLAPS
        return Fate.FOLLOWS

    def forget(self, port: str) -> None:
        for place in [place for place in self._places if place[0] == port]:
            del self._places[place]


def _identity(flow: Flow, piece: Piece) -> tuple[bytes, bytes, int, int]:
    return flow.source, flow.destination, piece.carries, piece.identity
