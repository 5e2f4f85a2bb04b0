"""What a connection can be in, and for how long: the same in every data plane, in the CLI and in metrics.

Standard library only, and no import from Weft: the build of the eBPF programs reads this file to write its C header.
Numbers are part of the pinned maps' layout: append, never renumber.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Member name in lower case is the name that users see."""

    SYN_SENT = 1  #: TCP: one side has asked
    SYN_RECEIVED = 2  #: TCP: both have, and not both were heard
    ESTABLISHED = 3  #: TCP
    HALF_CLOSED = 4  #: TCP: one side has finished
    CLOSING = 5  #: TCP: both have finished, and not both were heard
    TIME_WAIT = 6  #: TCP: over, and late segments may come
    CLOSED = 7  #: TCP: reset
    UDP_UNREPLIED = 8
    UDP_REPLIED = 9
    ICMP_UNREPLIED = 10  #: a query
    ICMP_REPLIED = 11
    SCTP_OPENING = 12
    SCTP_ESTABLISHED = 13
    SCTP_CLOSING = 14
    OTHER_UNREPLIED = 15  #: any other protocol, by its pair of addresses
    OTHER_REPLIED = 16
    EXPECTED = 17  #: none yet: an FTP control connection has said that it will come

    @property
    def label(self) -> str:
        """The name that users see."""
        return self.name.lower()


class Expected(IntEnum):
    """What became of what FTP's control connections say. Member name in lower case is the name that users see."""

    MADE = 0  #: a data connection is expected
    ADMITTED = 1  #: one came that no rule spoke of, and passed
    OTHER_ADDRESS = 2  #: refused: the address is not the speaker's own (the bounce attack: RFC 2577)
    LOW_PORT = 3  #: refused: the port is below 1024
    NO_ROOM = 4  #: refused: the port expects as many as it may

    @property
    def label(self) -> str:
        """The name that users see."""
        return self.name.lower()


#: Data connections of FTP that a port may expect at a time. Small, since a host has room for as many of each of its
#: ports: whatever one port expects, another finds its own.
EXPECTED_OF_PORT = 64

#: Connections that a port is sure of, whatever others have: so many that its guest begins, and as many that others do.
OWN_OF_PORT = 96

#: Of what is no port's own, ports of one tenant have at most so many times what they leave to others.
TENANT_LEAVES = 3

#: How long a connection is remembered after its last sign of life, in seconds.
TIMEOUTS_S: dict[State, int] = {
    State.SYN_SENT: 30,
    State.SYN_RECEIVED: 60,
    State.ESTABLISHED: 432_000,
    State.HALF_CLOSED: 300,
    State.CLOSING: 60,
    State.TIME_WAIT: 120,
    State.CLOSED: 10,
    State.UDP_UNREPLIED: 30,
    State.UDP_REPLIED: 180,
    State.ICMP_UNREPLIED: 30,
    State.ICMP_REPLIED: 30,
    State.SCTP_OPENING: 30,
    State.SCTP_ESTABLISHED: 300,
    State.SCTP_CLOSING: 10,
    State.OTHER_UNREPLIED: 60,
    State.OTHER_REPLIED: 600,
    State.EXPECTED: 60,
}

_TCP, _SCTP = 6, 132
_DATAGRAMS = frozenset({17, 33, 136})  # UDP, DCCP, UDP-Lite
#: By the bytes of an address.
_ICMP = {4: 1, 16: 58}


def states_of(protocol: int, address_bytes: int) -> frozenset[State]:
    """What a connection of a protocol can be in."""
    if protocol == _TCP:
        return frozenset(map(State, range(State.SYN_SENT, State.CLOSED + 1)))
    if protocol == _SCTP:
        return frozenset({State.SCTP_OPENING, State.SCTP_ESTABLISHED, State.SCTP_CLOSING})
    if protocol in _DATAGRAMS:
        return frozenset({State.UDP_UNREPLIED, State.UDP_REPLIED})
    if protocol == _ICMP.get(address_bytes):
        return frozenset({State.ICMP_UNREPLIED, State.ICMP_REPLIED})
    return frozenset({State.OTHER_UNREPLIED, State.OTHER_REPLIED})


#: What of a connection's flags goes from host to host (maps.h: HEARD to CONTROL_SIDE); their bits are for good.
CARRIED_FLAGS = 0x1FFF

#: Those in which both sides have been heard.
ESTABLISHED_STATES = frozenset(
    {State.ESTABLISHED, State.UDP_REPLIED, State.ICMP_REPLIED, State.SCTP_ESTABLISHED, State.OTHER_REPLIED}
)
