"""What surrounds a spec on /v1: items, lists, changes, events, statuses. Knows no spec's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from weft.wire.cuts import Cuts

#: Headers. An answer says which revision it is of, and of which store and compiler: ``<revision>@<history>``. A request
#: says so of what its client has seen: a controller that is behind that waits, or says that it cannot answer (503).
SEEN = "weft-revision"
AT_LEAST = "weft-at-least"


def store_of(history: str) -> str:
    """Whose revisions they are, whatever compiles it: two releases at one store count alike."""
    return history.rpartition(".")[0] or history


#: A header of whoever asks for a feed: it answers what it is asked in it. An agent that does not say so is not asked.
ANSWERS = "weft-answers"


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One object as a client sees it."""

    name: str
    kind: str
    revision: int
    spec: dict[str, Any]
    status: dict[str, Any] = {}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a list. next: what to give as ``continue`` for the following part; None at the end."""

    items: list[Item]
    revision: int
    next: str | None = msgspec.field(name="continue", default=None)


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PUT and PATCH."""

    spec: msgspec.Raw


class PutEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One put of an apply. The spec stays bytes until its kind is known."""

    name: str
    spec: msgspec.Raw


class ApplyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of an apply."""

    puts: list[PutEntry] = []
    deletes: list[str] = []


Action = Literal["create", "update", "delete"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply did, or would do, to one object."""

    name: str
    action: Action
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of an apply. revision: of the state that holds the changes (dry run: that they were worked out on).

    cut: of a dry run that was to say so, which connections that are there now would be cut.
    """

    revision: int
    changes: list[Change]
    cut: Cuts | msgspec.UnsetType = msgspec.UNSET


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a watch. A bookmark has neither puts nor deletes: nothing else happened up to its revision."""

    revision: int
    puts: list[Item] = []
    deletes: list[str] = []


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a trace: an address to reach, or a whole Ethernet frame in hex. Exactly one of the two.

    protocol (icmp, tcp, udp) and port: of the packet that is made to reach the address.
    """

    source: str = msgspec.field(name="from")
    to: str | None = None
    frame: str | None = None
    protocol: Literal["icmp", "tcp", "udp"] | None = None
    port: int | None = None


class TraceStep(msgspec.Struct, frozen=True):
    host: str
    text: str


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of the packet, step by step."""

    steps: list[TraceStep]
    outcome: dict[str, Any]


PortState = Literal["active", "down", "failed"]


class PortReport(msgspec.Struct, frozen=True):
    """What a host says of one of its ports."""

    state: PortState
    reason: str = ""


class FailureReport(msgspec.Struct, frozen=True):
    """A row that a host could not carry out."""

    key: list[str | int]
    reason: str


class StatusReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a host's status. complete: replaces all that the host said before; else ports are merged into it.

    What a newer agent says beside it is passed over.
    """

    revision: int
    ports: dict[str, PortReport] = {}
    failures: list[FailureReport] = []
    drops: dict[str, int] = {}  # packets, by reason, of all ports and uplinks since they were bound
    complete: bool = False

    def as_at_first(self) -> StatusReport:
        """As the first release said it, which refuses what it does not know."""
        return msgspec.structs.replace(self, drops={})


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of what one controller tells another of its hosts. An empty one: it is still there.

    connected: whether the host's feed is open there; report: what it has said; synced: all that was known was told.
    """

    host: str = ""
    connected: bool | None = None
    report: StatusReport | None = None
    synced: bool = False

    def as_at_first(self) -> Told:
        return self if self.report is None else msgspec.structs.replace(self, report=self.report.as_at_first())


class PassedOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question of one controller's to a host that is connected to another."""

    host: str
    what: str
    body: msgspec.Raw
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)]


class MoveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a port is on its way. state, reason: as its destination sees it; "failed" also of what goes with it.

    ready: whatever is sent to the port reaches both hosts, so the guest may change over with nothing lost.
    waiting_for: whom that takes, each with the reason; absent: those among them that have no agent with the feed open.
    """

    destination: str
    ready: bool
    state: Literal["active", "down", "failed", "unknown"]
    reason: str = ""
    waiting_for: list[str] = []
    absent: list[str] = []


#: In one request.
MOST_ANNOUNCED = 1000


class Announced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest has said at a port that it has an address, at a MAC."""

    port: str
    mac: str
    address: str


class Announcements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of what a host's guests have announced, in the order in which they did."""

    announcements: Annotated[list[Announced], msgspec.Meta(max_length=MOST_ANNOUNCED)]


class PortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a port. host: who said so, or should; None for a port that is nowhere. move: while it moves.

    mirror: why its mirror copies nothing, while it does not.
    """

    state: Literal["active", "down", "failed", "unknown"]
    reason: str = ""
    host: str | None = None
    move: MoveStatus | msgspec.UnsetType = msgspec.UNSET
    mirror: str | msgspec.UnsetType = msgspec.UNSET


class SubnetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a virtual subnet: how far its hosts are on the way to its rule.

    receivers: they learn to take it; senders: they begin to send by it; settled: they do, and take no other.
    waiting_for: the hosts that are not as far, and why.
    """

    rule_phase: Literal["settled", "receivers", "senders"]
    waiting_for: list[str] = []


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of a host. connected: an agent of it has the feed open."""

    state: Literal["connected", "absent"]
    applied_revision: int | None = None
    failures: list[FailureReport] = []
    drops: dict[str, int] = {}  # packets, by reason, as it last said
