"""The connection tracker: which packets of a port belong to a connection that rules have let begin. Reads no clock.

Each port has connections of its own, so that identical ones of two tenants never meet, and what goes from a port to
another of the same host is two. Rules are asked through a ``Judge``; the tracker knows none. Docs: conntrack.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from weft.policy.connections import ESTABLISHED_STATES, TIMEOUTS_S, State
from weft.policy.drop import DropReason
from weft.reference import flows, fragments, tcp
from weft.reference.flows import Chunk, Flow, Kind, Piece
from weft.reference.fragments import Fate, Fragments
from weft.reference.packet import Ip
from weft.reference.qos import Direction

SECOND_NS = 10**9
#: Where nobody sweeps, a table that is full is swept as a connection begins, once in so long.
SWEEP_NS = SECOND_NS
INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ACK, SHUTDOWN_COMPLETE = 1, 2, 6, 7, 8, 11, 14


@dataclass(frozen=True, slots=True)
class Question:
    """A packet that no connection explains. remote: the other end's address; number: the destination's port, or of ICMP
    type << 8 | code; None: the protocol has neither.
    """

    direction: Direction
    protocol: int
    remote: bytes
    number: int | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules say of a question. rule: the number of the one that decides; 0: none speaks of it."""

    allow: bool
    rule: int = 0


Judge: TypeAlias = Callable[[Question], Ruling]


class Key(NamedTuple):
    """A connection as its port sees it, the same for both directions. asked: in ICMP, the other end asks."""

    port: str
    protocol: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    asked: bool


@dataclass(slots=True)
class Connection:
    """One. opener: the side of its first packet; packets and bytes by side; rule: what admitted it, or
    what refuses it by now.
    """

    state: State
    opener: int
    expires_ns: int
    began_ns: int
    code: int
    epoch: int
    rule: int
    refused: bool = False
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    tcp: tcp.Tcp | None = None
    tags: list[int] = field(
        default_factory=lambda: [0, 0]
    )  # of SCTP: what each side must be written to with; 0: not known
    told: bool = False  # that it is established


@dataclass(frozen=True, slots=True)
class Limits:
    """most: connections in all; most_of_port: of one port; timeouts_s: by state."""

    most: int = 1 << 18
    most_of_port: int = 1 << 16
    timeouts_s: Mapping[State, int] = field(default_factory=lambda: TIMEOUTS_S)


class Event(NamedTuple):
    """what: new, established or destroyed."""

    what: str
    key: Key
    connection: Connection


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a packet passes (reason None), why, and the rule that says so (0: none)."""

    reason: DropReason | None
    why: str
    rule: int = 0


@dataclass(slots=True)
class Tracker:
    """The connections of one host. epoch: of the rules; a connection of another is held against them anew."""

    limits: Limits = field(default_factory=Limits)
    epoch: int = 1
    events: list[Event] = field(default_factory=list)
    _table: dict[Key, Connection] = field(default_factory=dict)
    _of_port: Counter[str] = field(default_factory=Counter)
    _fragments: Fragments = field(default_factory=Fragments)
    _swept_ns: int = 0

    def check(
        self,
        port: str,
        direction: Direction,
        ip: Ip,
        now_ns: int,
        judge: Judge,
        *,
        stateful: bool = True,
        keep: bool = False,
    ) -> Decision:
        """Whether a port's packet passes. Not stateful: each packet by itself, but for later fragments. keep:
        connections outlive the rule that admitted them.
        """
        flow = flows.read(ip)
        if flow is None:
            return Decision(DropReason.CONNECTION_INVALID, "no connection has such headers")
        side = direction.value
        if flow.piece is None:
            return self._judge(port, direction, flow, len(ip.frame), now_ns, judge, stateful, keep)
        datagram = self._fragments.of(port, side, flow, flow.piece, now_ns)
        if flow.kind is Kind.LATER:
            return self._later(port, side, flow, flow.piece, datagram, len(ip.frame))
        if datagram is not None and not datagram.whole:
            datagram.spoilt = True
            return Decision(DropReason.FRAGMENT_OVERLAP, "the datagram's first fragment has come before")
        decision = self._judge(port, direction, flow, len(ip.frame), now_ns, judge, stateful, keep)
        if decision.reason is None:
            self._fragments.first(port, side, flow, flow.piece, now_ns)
        return decision

    def _later(
        self, port: str, side: int, flow: Flow, piece: Piece, datagram: fragments.Datagram | None, frame_bytes: int
    ) -> Decision:
        fate = self._fragments.follow(datagram, piece)
        if fate is Fate.UNKNOWN or datagram is None:
            return Decision(DropReason.UNKNOWN_FRAGMENT, "its datagram's first fragment has not passed")
        if fate is Fate.OVERLAPS:
            return Decision(DropReason.FRAGMENT_OVERLAP, "fragments of its datagram overlap, or have too many gaps")
        # A query is in one datagram only with its header, so of ICMP nothing is counted.
        found = self._table.get(_key(port, side, replace(flow, ports=datagram.ports)))
        if found is not None:
            self._count(found, side, frame_bytes)
            if found.tcp is not None:
                found.tcp.stretch(side, (datagram.number + piece.end) % 2**32)
        return Decision(None, "its datagram's first fragment has passed")

    def _judge(
        self,
        port: str,
        direction: Direction,
        flow: Flow,
        frame_bytes: int,
        now_ns: int,
        judge: Judge,
        stateful: bool,
        keep: bool,
    ) -> Decision:
        question = _question(direction, flow)
        if flow.kind is Kind.MESSAGE or not stateful:
            ruling = judge(question)
            return _ruled(ruling) or Decision(None, "a packet by itself", ruling.rule)
        if flow.kind is Kind.ERROR:
            if flow.quoted is not None and self._is_of_connection(port, direction, flow.quoted, now_ns):
                return Decision(None, "it tells of a packet of a connection")
            return Decision(DropReason.CONNECTION_INVALID, "it tells of no connection's packet")
        key = _key(port, direction.value, flow)
        found = self._table.get(key)
        if found is None or now_ns >= found.expires_ns:
            return self._begin(key, direction, flow, frame_bytes, now_ns, judge)
        if found.epoch != self.epoch and (found.refused or not keep):
            self._ask_again(key, found, judge)
        if found.refused:
            return Decision(DropReason.SECURITY_GROUP, "the rule that let its connection begin is no more", found.rule)
        step = self._step(found, direction.value, flow)
        rule = found.rule
        if step is tcp.Step.ASK:
            ruling = judge(question)
            if (refused := _ruled(ruling)) is not None:
                return refused
            if found.tcp is None or flow.segment is None or found.state in (State.TIME_WAIT, State.CLOSED):
                return self._insert(key, direction, flow, frame_bytes, now_ns, ruling.rule)
            found.tcp.wait(direction.value, flow.segment)
            step, rule = tcp.Step.QUIET, ruling.rule
        if step is tcp.Step.INVALID:
            return Decision(DropReason.CONNECTION_INVALID, f"its connection ({found.state.label}) has no such packet")
        self._count(found, direction.value, frame_bytes)
        if step is tcp.Step.PASS:
            found.expires_ns = now_ns + self.limits.timeouts_s[found.state] * SECOND_NS
        if found.state in ESTABLISHED_STATES and not found.told:
            found.told = True
            self.events.append(Event("established", key, found))
        return Decision(None, f"connection ({found.state.label})", rule)

    def _begin(
        self, key: Key, direction: Direction, flow: Flow, frame_bytes: int, now_ns: int, judge: Judge
    ) -> Decision:
        ruling = judge(_question(direction, flow))
        if (refused := _ruled(ruling)) is not None:
            return refused
        if not _opens(flow):
            return Decision(DropReason.CONNECTION_INVALID, "there is no connection that it could be of")
        return self._insert(key, direction, flow, frame_bytes, now_ns, ruling.rule)

    def _insert(self, key: Key, direction: Direction, flow: Flow, frame_bytes: int, now_ns: int, rule: int) -> Decision:
        """In place of an expired one with its key, or of one that is over; or where there is room."""
        former = self._table.get(key)
        if former is None and (reason := self._no_room(key.port, now_ns)) is not None:
            return Decision(reason, "there is no room for another connection", rule)
        if former is not None:
            self.events.append(Event("destroyed", key, former))
        else:
            self._of_port[key.port] += 1
        side = direction.value
        made = Connection(_FIRST[flow.kind], side, 0, now_ns, flow.code, self.epoch, rule)
        if flow.segment is not None:
            made.tcp = tcp.Tcp()
            made.tcp.begin(side, flow.segment)
        elif flow.chunk is not None:
            made.tags[side] = flow.chunk.initiate
        made.expires_ns = now_ns + self.limits.timeouts_s[made.state] * SECOND_NS
        self._table[key] = made
        self._count(made, side, frame_bytes)
        self.events.append(Event("new", key, made))
        return Decision(None, "a new connection", rule)

    def _no_room(self, port: str, now_ns: int) -> DropReason | None:
        """Why not; what has expired, and nobody has swept away, is swept once in a while."""
        reason = self._full(port)
        if reason is not None and now_ns >= self._swept_ns + SWEEP_NS:
            self.sweep(now_ns)
            reason = self._full(port)
        return reason

    def _full(self, port: str) -> DropReason | None:
        if self._of_port[port] >= self.limits.most_of_port:
            return DropReason.CONNECTION_LIMIT
        return DropReason.CONNECTION_TABLE_FULL if len(self._table) >= self.limits.most else None

    def _step(self, found: Connection, side: int, flow: Flow) -> tcp.Step:
        if found.tcp is not None and flow.segment is not None:
            step = found.tcp.step(side, flow.segment)
            found.state, found.opener = found.tcp.state, found.tcp.opener  # either end may have opened it anew
            return step
        if flow.chunk is not None:
            return _sctp(found, side, flow.chunk)
        if flow.kind is Kind.ANSWER and side == found.opener:
            return tcp.Step.INVALID
        if flow.kind is not Kind.QUERY and side != found.opener:
            found.state = _REPLIED.get(found.state, found.state)
        return tcp.Step.PASS

    def _is_of_connection(self, port: str, direction: Direction, quoted: Flow, now_ns: int) -> bool:
        """Whether a packet that somebody tells of was of a connection: it went the other way."""
        side = 1 - direction.value
        found = self._table.get(_key(port, side, quoted))
        if found is None or now_ns >= found.expires_ns or found.refused:
            return False
        if found.tcp is None or quoted.segment is None:
            return True
        # RFC 5927 section 4.1: of what is under way, and nothing else.
        sent, number = found.tcp.end[side], quoted.segment.seq
        reach = max(found.tcp.window[1 - side], tcp.LATE_BYTES)
        return not tcp.after(number, sent) and not tcp.before(number, (sent - reach) % 2**32)

    def _ask_again(self, key: Key, found: Connection, judge: Judge) -> None:
        """Rules have changed since: may it still begin as it did."""
        number: int | None = key.remote_port if found.opener == 0 else key.local_port
        if found.state in (State.ICMP_UNREPLIED, State.ICMP_REPLIED):
            number = key.remote_port << 8 | found.code
        elif found.state in (State.OTHER_UNREPLIED, State.OTHER_REPLIED):
            number = None
        ruling = judge(Question(Direction(found.opener), key.protocol, key.remote, number))
        found.rule, found.refused = ruling.rule, not ruling.allow
        found.epoch = self.epoch

    def _count(self, found: Connection, side: int, frame_bytes: int) -> None:
        found.packets[side] += 1
        found.bytes[side] += frame_bytes

    # What an operator sees, and does

    def connections(self) -> Mapping[Key, Connection]:
        return self._table

    def sweep(self, now_ns: int) -> None:
        """Forget what has expired."""
        self._swept_ns = now_ns
        self.flush([key for key, found in self._table.items() if now_ns >= found.expires_ns])

    def flush(self, keys: Iterable[Key]) -> None:
        for key in keys:
            gone = self._table.pop(key, None)
            if gone is not None:
                self._of_port[key.port] -= 1
                self.events.append(Event("destroyed", key, gone))

    def forget(self, port: str) -> None:
        """All of a port."""
        self.flush([key for key in self._table if key.port == port])
        self._fragments.forget(port)


_FIRST = {
    Kind.TCP: State.SYN_SENT,
    Kind.UDP: State.UDP_UNREPLIED,
    Kind.SCTP: State.SCTP_OPENING,
    Kind.QUERY: State.ICMP_UNREPLIED,
    Kind.OTHER: State.OTHER_UNREPLIED,
}
_REPLIED = {
    State.UDP_UNREPLIED: State.UDP_REPLIED,
    State.ICMP_UNREPLIED: State.ICMP_REPLIED,
    State.OTHER_UNREPLIED: State.OTHER_REPLIED,
}


def _key(port: str, side: int, flow: Flow) -> Key:
    """side: whose packet it is."""
    if flow.kind in (Kind.QUERY, Kind.ANSWER):
        asker = side if flow.kind is Kind.QUERY else 1 - side
        ends = (flow.source, flow.destination) if side == 0 else (flow.destination, flow.source)
        return Key(port, flow.protocol, *ends, *flow.ports, bool(asker))
    if side == 0:
        return Key(port, flow.protocol, flow.source, flow.destination, *flow.ports, False)
    return Key(port, flow.protocol, flow.destination, flow.source, flow.ports[1], flow.ports[0], False)


def _question(direction: Direction, flow: Flow) -> Question:
    remote = flow.destination if direction is Direction.FROM_GUEST else flow.source
    number: int | None = flow.ports[1]
    match flow.kind:
        case Kind.OTHER:
            number = None
        case Kind.ANSWER:
            number = flows.QUERIES[4 if len(flow.source) == 4 else 6][flow.ports[1]] << 8 | flow.code
        case Kind.QUERY | Kind.ERROR | Kind.MESSAGE:
            number = flow.ports[1] << 8 | flow.code
        case _:
            pass
    return Question(direction, flow.protocol, remote, number)


def _ruled(ruling: Ruling) -> Decision | None:
    """How rules refuse a packet; None: they do not."""
    if ruling.allow:
        return None
    return Decision(
        DropReason.SECURITY_GROUP, "no rule lets it pass" if not ruling.rule else "a rule denies it", ruling.rule
    )


def _opens(flow: Flow) -> bool:
    """Whether a packet can be a connection's first."""
    match flow.kind:
        case Kind.TCP:
            return flow.segment is not None and flow.segment.opens
        case Kind.SCTP:
            return flow.chunk is not None and flow.chunk.kind == INIT and flow.chunk.tag == 0
        case Kind.ANSWER:
            return False
        case _:
            return True


def _sctp(found: Connection, side: int, chunk: Chunk) -> tcp.Step:
    """Tags are all that is looked at: who does not know them can neither open nor close (RFC 9260 section 8.5)."""
    other = 1 - side
    if chunk.kind == INIT:
        if chunk.tag or (side != found.opener and found.state is not State.SCTP_CLOSING):
            return tcp.Step.INVALID
        if found.state is not State.SCTP_OPENING:
            return tcp.Step.ASK
        found.tags = [0, 0]
        found.tags[side] = chunk.initiate
        return tcp.Step.PASS
    expected = found.tags[other]
    if chunk.kind in (ABORT, SHUTDOWN_COMPLETE) and chunk.tag == found.tags[side] != 0:
        expected = chunk.tag  # the T bit: who does not know the other's tag gives its own back
    if chunk.tag != expected or not expected:
        return tcp.Step.INVALID
    if chunk.kind == INIT_ACK:
        if side == found.opener or found.state is not State.SCTP_OPENING:
            return tcp.Step.INVALID
        found.tags[side] = chunk.initiate
    elif chunk.kind in (ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE):
        found.state = State.SCTP_CLOSING
    elif chunk.kind == COOKIE_ACK and found.state is State.SCTP_OPENING:
        found.state = State.SCTP_ESTABLISHED
    return tcp.Step.PASS
