"""What carries packets on a host. Is told rows and interfaces, and says for each what came of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from weft.contracts.connections import Carried, Connection, ConnectionEvent, Logged, Mark
from weft.model.features import Feature
from weft.policy.connections import Expected
from weft.policy.drop import DropReason
from weft.policy.rows import Key, Row
from weft.policy.upcall import UpcallKind

__all__ = [
    "WAYS",
    "Announcement",
    "DataPlane",
    "Failure",
    "Feature",
    "Handed",
    "Heard",
    "Learned",
    "Routing",
    "Sample",
    "Samples",
    "Traffic",
    "Upcall",
    "UpcallKind",
    "Wanted",
    "Way",
]

#: Places of flows on their way to one peer; a flow has the one of its hash.
WAYS = 16
#: What denies a packet that no rule speaks of.
NO_RULE = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row, key or port that could not be carried out. permanent: trying again without a change is useless."""

    key: Key
    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of one interface, from the guest's side: received from the guest, sent to the guest.

    Of an uplink: received are the packets taken from the underlay, sent those given to it.
    """

    received_packets: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    drops: Mapping[DropReason, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a frame that came in by an interface, one of ``rate`` by chance. frame_bytes: of all of it."""

    ifindex: int
    rate: int
    frame_bytes: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Samples:
    """Those since the last time, in order; lost: how many there was no room for, ever. names: a port's, or
    ``uplink:<interface>``, by ifindex, of all that there are.
    """

    samples: Sequence[Sample] = ()
    lost: int = 0
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """How packets travel to a peer: from one of this host's PAs to one of the peer's, of the same family.

    mtu_bytes: the largest IP packet that is known to get through; 0: no less than the uplink takes.
    """

    source: str
    destination: str
    mtu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The multicast groups of a subnet that another host's guests listen to, as that host has said.

    for_s: how long that holds from now on.
    """

    groups: frozenset[str]
    for_s: float


@dataclass(frozen=True, slots=True)
class Learned:
    """One who was heard in a subnet's VLAN behind an uplink, and how long ago."""

    vsid: int
    mac: str
    interface: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """All of those; refused: for how many more, ever, there was no room, so that what is for them goes everywhere."""

    learned: Sequence[Learned] = ()
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Announcement:
    """A guest says that it has an address, one that it may use: a hint, not the truth (canonical text)."""

    port: str
    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class Handed:
    """A guest's frame that is the agent's to answer. It has passed anti-spoofing, and went nowhere else."""

    port: str
    kind: UpcallKind
    frame: bytes


@dataclass(frozen=True, slots=True)
class Routing:
    """A guest speaks PIM, so it is a multicast router; address: where from (canonical text). A hint, not the truth."""

    port: str
    mac: str
    address: str


Upcall: TypeAlias = Announcement | Handed | Routing


class DataPlane(Protocol):
    """Synchronous: whoever calls it puts it on a thread of its own. One caller at a time.

    Every method may be called at any time and any number of times; state lives in the kernel and outlives the caller.
    """

    @property
    def features(self) -> frozenset[Feature]: ...

    def update(self, rows: Iterable[Row]) -> list[Failure]:
        """Make each row so. Idempotent. Rows come in the tables' order."""
        ...

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        """Make each row absent; absent already is success."""
        ...

    def prune(self, desired: Collection[Key]) -> list[Failure]:
        """Remove whatever is ours and not in ``desired``."""
        ...

    def read(self) -> Iterator[Row]:
        """What is really programmed, read back from the kernel (ports: those that are bound)."""
        ...

    def bind(self, bindings: Mapping[str, str]) -> list[Failure]:
        """All bindings of ports to interfaces there should be (port name -> interface name), replacing the former.

        An interface is closed (all of its packets dropped) from its binding on until its port's row is there, and
        again when the row goes. One that leaves the bindings is let go: our program comes off it. A sub-port (a Port
        row with a parent) is not named here: it is bound where and as long as its parent is.
        """
        ...

    def paths(self, ways: Mapping[str, Sequence[Way]]) -> list[Failure]:
        """By a peer's first PA, the ``WAYS`` ways to it, one for each of the places that flows have.

        All of the family of that PA. A peer that is not named keeps what it has; no ways: from this host's first PA of
        the family to the peer's first. They go with the last Peer row of their peer, and with a PA that is no more.
        """
        ...

    def listen(self, listeners: Mapping[str, Collection[str]]) -> list[Failure]:
        """All multicast groups that guests listen to (port name -> groups), replacing the former.

        Group 0.0.0.0 stands for all of IPv4's, :: for all of IPv6's: the port of a multicast router. Ports that are not
        bound are passed over. A port that is let go listens to nothing.
        """
        ...

    def listening(self) -> Mapping[str, Collection[str]]:
        """What is programmed of that, also by a former agent."""
        ...

    def heed(self, wanted: Mapping[tuple[int, str], Wanted | None]) -> list[Failure]:
        """By VSID and a member's PA, what it wants copies of; None: nothing is known of that. Others keep what they
        have; the first call of a process forgets what a former one has told.

        A member of which nothing is known, or not any more, is sent every group.
        """
        ...

    def repair(self) -> int:
        """Compare all that was told with what is programmed, and mend it; the number of entries mended."""
        ...

    def counters(self) -> Mapping[str, Traffic]:
        """Port name, or ``uplink:<interface>``, -> traffic."""
        ...

    def usage(self) -> Mapping[str, tuple[int, int]]:
        """Table -> (entries in use, capacity)."""
        ...

    @property
    def upcall_fd(self) -> int | None:
        """Readable when ``upcalls`` has something to give; None: nothing is ever handed up."""
        ...

    def upcalls(self) -> list[Upcall]:
        """What guests have announced and asked since the last time, in order; never waits for more.

        Bounded for each port and kind, and as a whole: what is beyond it was dropped, and counted.
        """
        ...

    @property
    def sample_fd(self) -> int | None:
        """Readable when ``samples`` has something to give; None: nothing is ever sampled."""
        ...

    def samples(self) -> Samples:
        """What was sampled; never waits for more."""
        ...

    def heard(self) -> Heard:
        """Who is in the VLANs behind the uplinks."""
        ...

    def hits(self) -> Mapping[str, int]:
        """Rules of security groups, by name -> how often each has decided. A rule that goes, and what it counted, is
        forgotten; a packet of a connection that is known asks none.
        """
        ...

    def denials(self) -> Mapping[str, Mapping[str, int]]:
        """Guarded ports, by name -> packets that rules have not let pass, by the name of the rule that denies them;
        ``NO_RULE``: none speaks of them. Only what was counted; forgotten with the port, and with the rule.
        """
        ...

    def unidentified(self) -> int:
        """Records of which there is no room to say whose they are: ports whose rules name groups deny them."""
        ...

    def send(self, port: str, frame: bytes) -> None:
        """A frame of the agent's own to a port's guest. Raises Missing when the port is not bound here; Retry."""
        ...

    def freshen(self, arriving: Collection[str]) -> None:
        """Ports that are on their way here: what waits for a guest that is not here yet is from now on the newest, and
        not the first that came. A round takes little, and wants to be repeated; those not named are left alone.
        """
        ...

    def connections(self) -> Iterator[Connection]:
        """Those that guarded ports have, also what has expired and was not swept yet; while others come and go. In
        state ``expected`` those of FTP that are still to come: of the side that will open one, the port is 0: any.
        """
        ...

    def expected(self) -> Mapping[Expected, int]:
        """How often what became of what FTP's control connections say of data connections."""
        ...

    def carried(self, port: str, connections: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Carried]]:
        """A port's connections by their keys, for another host to take; connections: those alone, as far as they are
        there. What has expired is none.
        """
        ...

    def marks(self, ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
        """Of the connections of some ports, in one walk, whose each is, its key, and what of it is worth telling. What
        has expired is none.
        """
        ...

    def take(self, port: str, connections: Iterable[Carried]) -> int:
        """A port's connections from the host that it comes from; how many were taken. Those that the guest has begun or
        spoken in here stay as they are. Held against the rules here with their next packet. Raises Rejected for what
        cannot be a connection.
        """
        ...

    def forget(self, connections: Collection[bytes]) -> int:
        """Connections by their keys; how many there were. What goes on of them is as if it were new."""
        ...

    def sweep(self, keep: Collection[str] = ()) -> int:
        """Forget the connections that have expired, and those of ports that are gone, but for some; how many."""
        ...

    def watch(self, *, on: bool) -> None:
        """Whether anybody wants to hear of connections."""
        ...

    @property
    def connection_fd(self) -> int | None:
        """Readable when ``connection_events`` has something to give; None: it never has."""
        ...

    def connection_events(self) -> list[ConnectionEvent | Logged]:
        """What became of connections, and what rules log, in order; never waits for more. What there was no room for is
        missing.
        """
        ...

    def close(self) -> None:
        """Let go of handles. What is programmed stays."""
        ...

    def remove(self) -> None:
        """Take everything that is ours off this host."""
        ...
