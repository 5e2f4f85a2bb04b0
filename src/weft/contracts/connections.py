"""Connections as an operator sees them, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from weft.policy.connections import State, states_of
from weft.policy.rows import Direction


@dataclass(frozen=True, slots=True)
class Connection:
    """One that a port's guest has, from its side. Pairs: what the guest has sent, what was sent to it.

    key: names it to its data plane; port: its name, empty while this host has no such port; local_port and remote_port:
    of an ICMP query identifier and type; rule: the number of the one that admitted it, 0: none speaks of it; refused:
    no rule would let it begin by now; expires_s: in so long, if nothing more is heard of it.
    """

    key: bytes
    port: str
    protocol: int
    local: str
    remote: str
    local_port: int
    remote_port: int
    state: State
    outward: bool  # the guest has begun it
    rule: int
    refused: bool
    packets: tuple[int, int]
    bytes: tuple[int, int]
    age_s: float
    expires_s: float


class Half(NamedTuple):
    """A side of a connection. Of SCTP only end, the tag that it is written to with, and edge, one that waits."""

    end: int
    edge: int
    window: int
    acked: int


class Awaited(NamedTuple):
    """A data connection of FTP that a control connection has said last will come. port: of the side that did not open
    it; opener: who will: 0 the guest, 1 the other end; age_ms: how long ago that was said.
    """

    port: int
    opener: int
    age_ms: int


#: State, flags as in Carried, and the port and the opener of what is awaited.
Mark: TypeAlias = tuple[int, int, tuple[int, int] | None]


class Carried(NamedTuple):
    """A connection of one port, all that there is of it, on its way to the host that the port is moving to.

    Times are what is left and what has gone: two hosts' clocks have nothing to do with each other. flags: as in maps.h,
    those up to CARRIED_FLAGS. Pairs are by side: the guest, the other end.
    """

    protocol: int
    local: bytes  # 4 or 16
    remote: bytes
    local_port: int
    remote_port: int
    asked: bool
    state: int
    opener: int
    flags: int
    left_ms: int
    age_ms: int
    packets: tuple[int, int]
    octets: tuple[int, int]
    halves: tuple[Half, Half]
    rule: int
    pending: tuple[int, int, int]  # of a SYN that waits: its end, window and scale
    code: int
    scale: tuple[int, int]
    control: int = 0  # of a data connection of FTP: the server's port of its control connection
    awaited: Awaited | None = None  # of a control connection of FTP

    @property
    def mark(self) -> Mark:
        """What of it is worth telling when it changes: what only counts is not."""
        return self.state, self.flags, self.awaited and self.awaited[:2]

    def held(self, ftp_port: int) -> Carried:
        """As this host may take it, which asks its own rules of it by what is in it: another host has said it, who may
        have made it up. ftp_port: of this host's setting; 0: it listens to no FTP. Raises ValueError.
        """
        if {len(self.local), len(self.remote)} not in ({4}, {16}):
            raise ValueError("addresses have 4 or 16 bytes, both the same")
        state, opener = State(self.state), bool(self.opener)
        if state not in states_of(self.protocol, len(self.local)):
            raise ValueError(f"protocol {self.protocol} has no state {state.label}")
        if state in _QUERIES and (self.remote_port > 255 or opener != bool(self.asked)):
            raise ValueError("who asks opens a query, and its type is below 256")
        opened = self.local_port if opener else self.remote_port
        if self.flags & RELATED and (
            self.protocol != _TCP or not ftp_port or self.control != ftp_port or opened < FIRST_FTP_PORT
        ):
            return self._replace(flags=self.flags & ~(RELATED | CONTROL_SIDE), control=0, awaited=None)
        if self.awaited is not None and not self._may_await(self.awaited, ftp_port):
            return self._replace(awaited=None)
        return self

    def _may_await(self, awaited: Awaited, ftp_port: int) -> bool:
        server_port = self.local_port if self.opener else self.remote_port
        return (
            self.protocol == _TCP
            and bool(ftp_port)
            and server_port == ftp_port
            and not self.flags & RELATED
            and FIRST_FTP_PORT <= awaited.port < 1 << 16
            and awaited.opener in (0, 1)
            and awaited.age_ms >= 0
        )


#: Of flags: it is an FTP data connection; its control connection was begun by the other end.
RELATED, CONTROL_SIDE = 2048, 4096
#: FTP's data connections are to no port below it.
FIRST_FTP_PORT = 1024
_TCP = 6
_QUERIES = frozenset({State.ICMP_UNREPLIED, State.ICMP_REPLIED})


@dataclass(frozen=True, slots=True)
class Logged:
    """A rule that logs has decided of a packet that belonged to no connection: one of many, at most 100 a second of a
    rule. rule: its name, empty when it is gone; the rest as in Connection.
    """

    port: str
    rule: str
    direction: Direction
    allowed: bool
    protocol: int
    local: str
    remote: str
    local_port: int
    remote_port: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """what: new, established or destroyed; expects: a control connection of FTP has said that another will come."""

    what: str
    connection: Connection
