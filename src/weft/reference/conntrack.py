"""The connection tracker: which packets of a port belong to a connection that rules have let begin. Reads no clock.

Each port has connections of its own, so that identical ones of two tenants never meet, and what goes from a port to
another of the same host is two. Rules are asked through a ``Judge``; the tracker knows none. Docs: conntrack.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from weft.policy.connections import (
    ESTABLISHED_STATES,
    EXPECTED_OF_PORT,
    OWN_OF_PORT,
    TENANT_LEAVES,
    TIMEOUTS_S,
    Expected,
    State,
)
from weft.policy.drop import DropReason
from weft.policy.rows import tenant_of_port
from weft.reference import flows, fragments, ftp, tcp
from weft.reference.flows import Chunk, Flow, Kind, Piece
from weft.reference.fragments import Fate, Fragments
from weft.reference.packet import Ip
from weft.reference.qos import Direction

SECOND_NS = 10**9
#: Where nobody sweeps, a table that is full is swept as a connection begins, once in so long.
SWEEP_NS = SECOND_NS
#: The epoch of what another host has told of: rules are asked of it once, also where connections outlive them.
TAKEN = -1
INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 1, 2, 6, 7, 8, 10, 11, 14


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


@dataclass(frozen=True, slots=True)
class Control:
    """How the FTP control connection of a data connection began, which rules are asked of in its place."""

    opener: int
    number: int  # the server's port


@dataclass(slots=True)
class Expectation:
    """A data connection that a control connection has said will come. It is found by its ends, where the opener's port
    is 0: any. rule: the control connection's.
    """

    control: Key
    opener: int
    began_ns: int
    expires_ns: int
    rule: int


#: Of a port, for each side, there are as many places for lines of control connections that are not whole yet.
LINE_PLACES = 16
#: Such a line is forgotten so long after its last byte.
LINE_LIFE_NS = 60 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Line:
    """What a side has said of a line. next: the sequence number that it goes on at."""

    key: Key
    next: int
    text: bytes
    expires_ns: int


@dataclass(slots=True)
class Connection:
    """One. opener: the side of its first packet; packets and bytes by side; rule: what admitted it, or
    what refuses it by now; related: of a data connection that no rule of its own has let begin; expected: what it has
    said last that will come, if it is a control connection.
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
    waiting: list[int] = field(
        default_factory=lambda: [0, 0]
    )  # of SCTP: tags that may take their place, if both ends come to use them
    told: bool = False  # that it is established
    charged: int = 0  # whose connection it was when it took its place, by side: either end may open it anew
    peer: Hashable = None  # who that was, if not the port's guest
    related: Control | None = None
    expected: Key | None = None
    moved: bool = False  # another host may know more of it, as long as the guest has not spoken here


@dataclass(frozen=True, slots=True)
class Limits:
    """most: connections in all beyond ports' own; own_of_port: that each port is sure of, of those that its guest
    begins and of those that others do; most_of_port: that one port's guest has begun, and that one other end has begun
    with whichever ports are here; all others of one port twice as many; timeouts_s: by state; ftp_port: of FTP servers,
    0: none is listened to; most_expected: data connections that a port may expect.
    """

    most: int = 1 << 18
    most_of_port: int = 1 << 16
    timeouts_s: Mapping[State, int] = field(default_factory=lambda: TIMEOUTS_S)
    ftp_port: int = 21
    most_expected: int = EXPECTED_OF_PORT
    own_of_port: int = OWN_OF_PORT


class Event(NamedTuple):
    """what: new, established or destroyed; expects: a control connection has said that another will come."""

    what: str
    key: Key
    connection: Connection


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a packet passes (reason None), why, and the rule that says so (0: none)."""

    reason: DropReason | None
    why: str
    rule: int = 0


@dataclass(frozen=True, slots=True)
class _Terms:
    """Of a port, as its groups and its host say: see ``Tracker.check``."""

    stateful: bool
    keep: bool
    arriving: bool
    peer: Callable[[bytes], Hashable]


def _by_address(address: bytes) -> Hashable:
    return address


#: Of a copy for a guest that is on the other host, these say only that this host does not know as much.
_OF_NOTHING_KNOWN = frozenset({DropReason.SECURITY_GROUP, DropReason.CONNECTION_INVALID, DropReason.UNKNOWN_FRAGMENT})


@dataclass(slots=True)
class Tracker:
    """The connections of one host. epoch: of the rules; a connection of another is held against them anew."""

    limits: Limits = field(default_factory=Limits)
    epoch: int = 1
    events: list[Event] = field(default_factory=list)
    _table: dict[Key, Connection] = field(default_factory=dict)
    _of_port: Counter[tuple[str, int]] = field(default_factory=Counter)
    _of_peer: Counter[Hashable] = field(default_factory=Counter)
    _of_tenant: Counter[str] = field(default_factory=Counter)  # beyond its ports' own
    expectations: dict[Key, Expectation] = field(default_factory=dict)
    expected: Counter[Expected] = field(default_factory=Counter)
    _expecting: Counter[str] = field(default_factory=Counter)  # by port
    _fragments: Fragments = field(default_factory=Fragments)
    _lines: dict[tuple[str, int, int], Line] = field(default_factory=dict)  # by port, side and place
    _swept_ns: int = 0
    _swept_expected_ns: int = 0

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
        arriving: bool = False,
        leaving: bool = False,
        peer: Callable[[bytes], Hashable] = _by_address,
    ) -> Decision:
        """Whether a port's packet passes. Not stateful: each packet by itself, but for later fragments. keep:
        connections outlive the rule that admitted them. arriving, leaving: the port is on its way to this host, or
        from it.
        """
        decision = self._check(port, direction, ip, now_ns, judge, _Terms(stateful, keep, arriving, peer))
        if (arriving or leaving) and direction is Direction.TO_GUEST and decision.reason in _OF_NOTHING_KNOWN:
            return replace(decision, reason=DropReason.MOVING)
        return decision

    def _check(self, port: str, direction: Direction, ip: Ip, now_ns: int, judge: Judge, terms: _Terms) -> Decision:
        flow = flows.read(ip)
        if flow is None:
            return Decision(DropReason.CONNECTION_INVALID, "no connection has such headers")
        side = direction.value
        if flow.piece is None:
            return self._judge(port, direction, flow, len(ip.frame), now_ns, judge, terms)
        datagram = self._fragments.of(port, side, flow, flow.piece, now_ns)
        if flow.kind is Kind.LATER:
            return self._later(port, side, flow, flow.piece, datagram, len(ip.frame))
        if datagram is not None and not datagram.whole:
            datagram.spoilt = True
            return Decision(DropReason.FRAGMENT_OVERLAP, "the datagram's first fragment has come before")
        decision = self._judge(port, direction, flow, len(ip.frame), now_ns, judge, terms)
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
        found = self._table.get(_key(port, side, replace(flow, protocol=datagram.protocol, ports=datagram.ports)))
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
        terms: _Terms,
    ) -> Decision:
        question = _question(direction, flow)
        if flow.kind is Kind.MESSAGE or not terms.stateful:
            ruling = judge(question)
            return _ruled(ruling) or Decision(None, "a packet by itself", ruling.rule)
        if flow.kind is Kind.ERROR:
            if flow.quoted is not None and self._is_of_connection(port, direction, flow.quoted, now_ns, judge, terms):
                return Decision(None, "it tells of a packet of a connection")
            return Decision(DropReason.CONNECTION_INVALID, "it tells of no connection's packet")
        key = _key(port, direction.value, flow)
        found = self._table.get(key)
        if found is None or now_ns >= found.expires_ns:
            begun = self._begin(key, direction, flow, frame_bytes, now_ns, judge, terms)
            if begun.reason is not None or _opens(flow):
                return begun
            found = self._table[key]
        self._hold(key, found, judge, terms)
        if found.refused:
            return Decision(DropReason.SECURITY_GROUP, "the rule that let its connection begin is no more", found.rule)
        end = 0 if found.tcp is None else found.tcp.end[direction.value]
        step = self._step(found, direction.value, flow)
        rule = found.rule
        if step is tcp.Step.ASK:
            if found.state in (State.TIME_WAIT, State.CLOSED, State.SCTP_CLOSING):
                return self._begin(key, direction, flow, frame_bytes, now_ns, judge, terms)
            ruling = judge(question)
            if (refused := _ruled(ruling)) is not None:
                return refused
            if found.tcp is not None and flow.segment is not None:
                found.tcp.wait(direction.value, flow.segment)
            elif flow.chunk is not None:
                found.waiting = [0, 0]
                found.waiting[direction.value] = flow.chunk.initiate
            step, rule = tcp.Step.QUIET, ruling.rule
        if step is tcp.Step.INVALID:
            return Decision(DropReason.CONNECTION_INVALID, f"its connection ({found.state.label}) has no such packet")
        self._count(found, direction.value, frame_bytes)
        if step is tcp.Step.PASS:
            found.expires_ns = now_ns + self.limits.timeouts_s[found.state] * SECOND_NS
        if found.state in ESTABLISHED_STATES and not found.told:
            found.told = True
            self.events.append(Event("established", key, found))
        if step is tcp.Step.PASS and found.tcp is not None and flow.segment is not None:
            self._listen(key, found, found.tcp, direction.value, flow, flow.segment, end, now_ns)
        return Decision(None, f"connection ({found.state.label})", rule)

    def _begin(
        self,
        key: Key,
        direction: Direction,
        flow: Flow,
        frame_bytes: int,
        now_ns: int,
        judge: Judge,
        terms: _Terms,
    ) -> Decision:
        ruling = judge(_question(direction, flow))
        related = None
        if (refused := _ruled(ruling)) is not None:
            # What rules deny, nobody expects.
            if ruling.rule or (found := self._expected(key, direction, flow, now_ns, judge, terms)) is None:
                return refused
            ruling, related = found
        if not _opens(flow) and not (terms.arriving and _goes_on(flow)):
            return Decision(DropReason.CONNECTION_INVALID, "there is no connection that it could be of")
        return self._insert(key, direction, flow, frame_bytes, now_ns, ruling.rule, related, terms)

    def _insert(
        self,
        key: Key,
        direction: Direction,
        flow: Flow,
        frame_bytes: int,
        now_ns: int,
        rule: int,
        related: Control | None,
        terms: _Terms,
    ) -> Decision:
        """In place of an expired one with its key, or of one that is over; or where there is room."""
        former = self._table.get(key)
        peer = terms.peer(key.remote) if direction is Direction.TO_GUEST else None
        if former is None and (reason := self._no_room(key.port, direction.value, peer, now_ns)) is not None:
            return Decision(reason, "there is no room for another connection", rule)
        if former is not None:
            self._unexpect(key, former)
            self.events.append(Event("destroyed", key, former))
        side = direction.value
        made = Connection(_FIRST[flow.kind], side, 0, now_ns, flow.code, self.epoch, rule, related=related)
        # What the guest begins here, while it is on its way here, is known from its beginning.
        made.moved = terms.arriving and (direction is Direction.TO_GUEST or not _opens(flow))
        if flow.segment is not None:
            made.tcp = tcp.Tcp()
            made.tcp.begin(side, flow.segment)
            made.tcp.moved = made.moved
        elif flow.chunk is not None:
            made.tags[side] = flow.chunk.initiate
        if former is None:
            made.charged, made.peer = side, peer
            self._charge(key.port, made, 1)
        else:
            made.charged, made.peer = former.charged, former.peer
        made.expires_ns = now_ns + self.limits.timeouts_s[made.state] * SECOND_NS
        self._table[key] = made
        if _opens(flow):
            self._count(made, side, frame_bytes)  # else it is as if it came upon it
        self.events.append(Event("new", key, made))
        return Decision(None, "a new connection" if related is None else "a data connection that FTP expects", rule)

    def _charge(self, port: str, of: Connection, places: int) -> None:
        held = self._of_port[port, of.charged]
        self._of_port[port, of.charged] += places
        own = self.limits.own_of_port
        self._of_tenant[tenant_of_port(port)] += max(held + places - own, 0) - max(held - own, 0)
        if of.peer is not None:
            self._of_peer[of.peer] += places

    def _no_room(self, port: str, side: int, peer: Hashable, now_ns: int) -> DropReason | None:
        """Why not; what has expired, and nobody has swept away, is swept once in a while."""
        reason = self._full(port, side, peer)
        if reason is not None and now_ns >= self._swept_ns + SWEEP_NS:
            self._sweep_connections(now_ns)
            reason = self._full(port, side, peer)
        return reason

    def _full(self, port: str, side: int, peer: Hashable) -> DropReason | None:
        # So whatever one guest begins, with however many ports here, each has room for others'.
        if self._of_port[port, side] >= self.limits.most_of_port << side:
            return DropReason.CONNECTION_LIMIT
        if peer is not None and self._of_peer[peer] >= self.limits.most_of_port:
            return DropReason.CONNECTION_LIMIT
        if self._of_port[port, side] < self.limits.own_of_port:
            return None
        left = self.limits.most - self._of_tenant.total()
        if left <= 0:
            return DropReason.CONNECTION_TABLE_FULL
        return DropReason.CONNECTION_LIMIT if self._of_tenant[tenant_of_port(port)] >= TENANT_LEAVES * left else None

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

    def _is_of_connection(
        self, port: str, direction: Direction, quoted: Flow, now_ns: int, judge: Judge, terms: _Terms
    ) -> bool:
        """Whether a packet that somebody tells of was of a connection that rules let be: it went the other way."""
        side = 1 - direction.value
        key = _key(port, side, quoted)
        found = self._table.get(key)
        if found is None or now_ns >= found.expires_ns:
            return False
        self._hold(key, found, judge, terms)
        if found.refused:
            return False
        if quoted.chunk is not None:
            # RFC 9260 section 10: with the other's tag in it; an INIT has none.
            tag = quoted.chunk.tag
            return tag == found.tags[1 - side] or (not tag and found.state is State.SCTP_OPENING)
        if found.tcp is None or quoted.segment is None:
            return True
        # RFC 5927 section 4.1: of what is under way, and nothing else.
        sent, number = found.tcp.end[side], quoted.segment.seq
        reach = max(found.tcp.window[1 - side], tcp.LATE_BYTES)
        return not tcp.after(number, sent) and not tcp.before(number, (sent - reach) % 2**32)

    def _hold(self, key: Key, found: Connection, judge: Judge, terms: _Terms) -> None:
        """A connection against the rules that are in force."""
        if found.epoch == self.epoch:
            return
        if found.refused or found.epoch == TAKEN or not terms.keep:
            self._ask_again(key, found, judge)
        else:
            found.epoch = self.epoch

    def _ask_again(self, key: Key, found: Connection, judge: Judge) -> None:
        """Rules have changed since: may it still begin as it did."""
        number: int | None = key.remote_port if found.opener == 0 else key.local_port
        if found.state in (State.ICMP_UNREPLIED, State.ICMP_REPLIED):
            number = (key.remote_port << 8 | found.code) & 0xFFFF
        elif found.state in (State.OTHER_UNREPLIED, State.OTHER_REPLIED):
            number = None
        ruling = judge(Question(Direction(found.opener), key.protocol, key.remote, number))
        if not ruling.allow and not ruling.rule and found.related is not None:
            control = found.related
            ruling = judge(Question(Direction(control.opener), key.protocol, key.remote, control.number))
        found.rule, found.refused = ruling.rule, not ruling.allow
        found.epoch = self.epoch

    def _count(self, found: Connection, side: int, frame_bytes: int) -> None:
        found.packets[side] += 1
        found.bytes[side] += frame_bytes

    # Data connections of FTP

    def _listen(
        self,
        key: Key,
        found: Connection,
        of: tcp.Tcp,
        side: int,
        flow: Flow,
        segment: tcp.Segment,
        end: int,
        now_ns: int,
    ) -> None:
        """What a segment of a control connection says, if it comes next, and begins where a line does or goes on with
        one. end: what its side had sent before it.
        """
        server_port = key.remote_port if found.opener == 0 else key.local_port
        if not self.limits.ftp_port or server_port != self.limits.ftp_port or found.related is not None:
            return
        if not segment.data_bytes or segment.flags & (tcp.SYN | tcp.RST):
            return
        begins = of.line[side]
        if tcp.after((segment.seq + segment.data_bytes) % 2**32, end):
            of.line[side] = flow.text[-1:] == b"\n"
        if segment.seq != end or found.state not in _SPEAKING or flow.piece is not None:
            return
        place = (key.port, side, (key.local_port + key.remote_port) % LINE_PLACES)
        before = b""
        if not begins:
            line = self._lines.get(place)
            if line is None or line.key != key or line.next != segment.seq or now_ns >= line.expires_ns:
                return
            before = line.text
        if rest := ftp.unfinished(flow.text, before):
            next_seq = (segment.seq + segment.data_bytes) % 2**32
            self._lines[place] = Line(key, next_seq, rest, now_ns + LINE_LIFE_NS)
        said = ftp.heard(flow.text, of_client=side == found.opener, before=before)
        if said is not None:
            self._expect(key, found, side, said, now_ns)

    def _expect(self, key: Key, found: Connection, side: int, said: ftp.Said, now_ns: int) -> None:
        """A data connection, in place of the one that its control connection spoke of before."""
        if said.address is not None and said.address != (key.local if side == 0 else key.remote):
            self.expected[Expected.OTHER_ADDRESS] += 1
            return
        if said.port < ftp.FIRST_PORT:
            self.expected[Expected.LOW_PORT] += 1
            return
        expires_ns = now_ns + self.limits.timeouts_s[State.EXPECTED] * SECOND_NS
        if self._await(found, said.port, Expectation(key, 1 - side, now_ns, expires_ns, found.rule), now_ns):
            self.expected[Expected.MADE] += 1
            self.events.append(Event("expects", key, found))

    def _await(self, found: Connection, port: int, expectation: Expectation, now_ns: int | None = None) -> bool:
        """What a control connection has spoken of, if there is room; now_ns: what is late by then makes some."""
        key = expectation.control
        self._unexpect(key, found)
        awaited = _awaited(key, expectation.opener, port)
        if awaited not in self.expectations:
            most = self.limits.most_expected
            if (
                self._expecting[key.port] >= most
                and now_ns is not None
                and now_ns >= self._swept_expected_ns + SWEEP_NS
            ):
                self._sweep_expected(now_ns)
            if self._expecting[key.port] >= most:
                self.expected[Expected.NO_ROOM] += 1
                return False
            self._expecting[key.port] += 1
        self.expectations[awaited] = expectation
        found.expected = awaited
        return True

    def awaited_by(self, key: Key) -> tuple[int, Expectation] | None:
        """What a control connection has spoken of last and is still to come, and the port that it is of."""
        awaited = None if (found := self._table.get(key)) is None else found.expected
        expectation = None if awaited is None else self.expectations.get(awaited)
        if awaited is None or expectation is None or expectation.control != key:
            return None
        return awaited.remote_port if expectation.opener == 0 else awaited.local_port, expectation

    def _expected(
        self, key: Key, direction: Direction, flow: Flow, now_ns: int, judge: Judge, terms: _Terms
    ) -> tuple[Ruling, Control] | None:
        """By which rule what opens a connection is let in that a control connection has spoken of: once. A port that
        keeps connections keeps that one, but none begins by it without its rule.
        """
        if flow.segment is None or not flow.segment.opens:
            return None
        awaited = key._replace(local_port=0) if direction.value == 0 else key._replace(remote_port=0)
        expectation = self.expectations.get(awaited)
        if expectation is None or now_ns >= expectation.expires_ns:
            return None
        control = self._table.get(expectation.control)
        if control is None or now_ns >= control.expires_ns or control.refused or control.state not in _SPEAKING:
            return None
        of = expectation.control
        began = Control(control.opener, of.remote_port if control.opener == 0 else of.local_port)
        ruling = Ruling(allow=True, rule=control.rule)
        if control.epoch != self.epoch or terms.keep:
            ruling = judge(Question(Direction(began.opener), key.protocol, key.remote, began.number))
            if not ruling.allow:
                return None
        self._drop_expectation(awaited)
        self.expected[Expected.ADMITTED] += 1
        return ruling, began

    def _unexpect(self, key: Key, control: Connection) -> None:
        """What a control connection has spoken of, if nobody else has since."""
        awaited = control.expected
        if awaited is not None and awaited in self.expectations and self.expectations[awaited].control == key:
            self._drop_expectation(awaited)
        control.expected = None

    def _drop_expectation(self, awaited: Key) -> None:
        del self.expectations[awaited]
        self._expecting[awaited.port] -= 1

    def _sweep_expected(self, now_ns: int) -> None:
        self._swept_expected_ns = now_ns
        for awaited in [awaited for awaited, of in self.expectations.items() if now_ns >= of.expires_ns]:
            self._drop_expectation(awaited)

    # What an operator sees, and does

    def connections(self) -> Mapping[Key, Connection]:
        return self._table

    def sweep(self, now_ns: int) -> None:
        """Forget what has expired."""
        self._sweep_connections(now_ns)
        self._sweep_expected(now_ns)

    def _sweep_connections(self, now_ns: int) -> None:
        self._swept_ns = now_ns
        self.flush([key for key, found in self._table.items() if now_ns >= found.expires_ns])

    def flush(self, keys: Iterable[Key]) -> None:
        """Forget connections, and expectations."""
        for key in keys:
            if key in self.expectations:
                self._drop_expectation(key)
            gone = self._table.pop(key, None)
            if gone is not None:
                self._charge(key.port, gone, -1)
                self._unexpect(key, gone)
                self.events.append(Event("destroyed", key, gone))

    def take(self, entries: Mapping[Key, Connection], awaited: Iterable[tuple[int, Expectation]] = ()) -> int:
        """Connections as the host had them that a port comes from; how many were taken. Those that the guest has
        spoken in here, or has begun here, are left as they are. awaited: what their control connections have spoken
        of, by port: in place of what is older, as long as they are moved.
        """
        taken = 0
        for key, entry in entries.items():
            former = self._table.get(key)
            if former is None:
                entry.charged, entry.peer = entry.opener, None  # what another host had counted says nothing here
                if self._full(key.port, entry.charged, entry.peer) is not None:
                    continue
                self._charge(key.port, entry, 1)
            elif not former.moved or (former.tcp is not None and (former.tcp.spoken or not former.tcp.moved)):
                continue
            else:
                entry.charged, entry.peer, entry.expected = former.charged, former.peer, former.expected
            entry.moved, entry.epoch = True, TAKEN  # held against the rules of this host with its next packet
            if entry.tcp is not None:
                entry.tcp.moved, entry.tcp.spoken = True, False
            self._table[key] = entry
            taken += 1
        for port, told in awaited:
            self._take_expected(port, told)
        return taken

    def _take_expected(self, port: int, told: Expectation) -> None:
        control = self._table.get(told.control)
        if control is None or control.tcp is None or not control.tcp.moved:
            return
        known = self.awaited_by(told.control)
        if known is None or known[1].began_ns < told.began_ns:
            self._await(control, port, replace(told, rule=control.rule))

    def forget(self, port: str) -> None:
        """All of a port."""
        self.flush([key for key in (*self._table, *self.expectations) if key.port == port])
        self._fragments.forget(port)
        self._lines = {place: line for place, line in self._lines.items() if place[0] != port}


#: In these a control connection is listened to.
_SPEAKING = frozenset({State.ESTABLISHED, State.HALF_CLOSED})
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


def _awaited(control: Key, opener: int, port: int) -> Key:
    """Of a data connection to a port, the opener's being any."""
    ends = (0, port) if opener == 0 else (port, 0)
    return Key(control.port, control.protocol, control.local, control.remote, *ends, False)


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
    return Decision(DropReason.SECURITY_GROUP, "refused", ruling.rule)


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


def _goes_on(flow: Flow) -> bool:
    """Whether a connection that is under way can be made out of a packet."""
    return flow.segment is not None and not flow.segment.flags & (tcp.SYN | tcp.RST)


def _sctp(found: Connection, side: int, chunk: Chunk) -> tcp.Step:
    """Tags are all that is looked at: who does not know them can neither open nor close (RFC 9260 section 8.5)."""
    other = 1 - side
    if chunk.kind == INIT:
        if chunk.tag or (side != found.opener and found.state is not State.SCTP_CLOSING):
            return tcp.Step.INVALID
        if found.state is not State.SCTP_OPENING:
            return tcp.Step.ASK
        if (
            found.tags[side] != chunk.initiate
        ):  # said again, it changes nothing: an answer to the first may be under way
            found.tags[other] = found.waiting[other] = 0
        found.tags[side] = chunk.initiate
        return tcp.Step.PASS
    if chunk.tag and chunk.tag == found.waiting[other] != found.tags[other]:
        return _sctp_anew(found, side, chunk)
    expected = found.tags[other]
    if chunk.kind in (ABORT, SHUTDOWN_COMPLETE) and chunk.tag == found.tags[side] != 0:
        expected = chunk.tag  # the T bit: who does not know the other's tag gives its own back
    if chunk.tag != expected or not expected:
        return tcp.Step.INVALID
    if chunk.kind == INIT_ACK:
        if side == found.opener or found.state is not State.SCTP_OPENING:
            return tcp.Step.INVALID
        (found.waiting if found.tags[side] else found.tags)[side] = chunk.initiate
    elif chunk.kind in (ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE):
        found.state = State.SCTP_CLOSING
    elif chunk.kind == COOKIE_ACK and found.state is State.SCTP_OPENING:
        found.state = State.SCTP_ESTABLISHED
    return tcp.Step.PASS


def _sctp_anew(found: Connection, side: int, chunk: Chunk) -> tcp.Step:
    """By a tag that waits: an end that has forgotten begins anew. Only who knows both its tags ends what there is."""
    other = 1 - side
    if side == found.opener:
        if chunk.kind != COOKIE_ECHO:
            return tcp.Step.INVALID
        if found.state is not State.SCTP_OPENING:
            return tcp.Step.QUIET
        found.tags[other] = chunk.tag  # of two answers to an INIT that was said twice it takes the second
        return tcp.Step.PASS
    if chunk.kind == INIT_ACK:
        found.waiting[side] = chunk.initiate
        return tcp.Step.QUIET
    if chunk.kind == ABORT:
        return tcp.Step.QUIET
    if chunk.kind != COOKIE_ACK or not found.waiting[side]:
        return tcp.Step.INVALID
    found.tags[other], found.tags[side] = chunk.tag, found.waiting[side]
    found.waiting = [0, 0]
    found.state = State.SCTP_ESTABLISHED
    return tcp.Step.PASS
