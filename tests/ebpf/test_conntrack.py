"""The programs' connection tracker: on the conversations that every tracker runs, and against the reference."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from packets import conversations, edges, ftp
from packets.conversations import ADMITTED, GUEST, OTHER, RED, Conversation
from weft.dataplane.ebpf import build, conntrack, layout, libbpf, security
from weft.policy.connections import Expected, State
from weft.policy.drop import DropReason
from weft.policy.rows import Direction, SecurityGroup, SecurityRule
from weft.policy.security import compile_policy
from weft.reference import packet
from weft.reference.conntrack import Limits, Question, Ruling, Tracker
from weft.reference.qos import Direction as GuestDirection

SECOND_NS = 10**9
CONVERSATIONS = (*conversations.CONVERSATIONS, *edges.conversations(), *ftp.conversations())
SOURCE = Path(__file__).with_name("conntrack.bpf.c")
LOOPBACK = 1
PORTS = ("a", "b", "c", *RED)


def groups(
    admitted: Collection[tuple[int, int | None]], *, open_out: bool, open_port: int | None = None
) -> SecurityGroup:
    """The guest may open anything, or TCP to a port only, and to it may come what is admitted."""
    found = [
        SecurityRule(
            rank, f"in-{rank}", Direction.INGRESS, version, protocol, *(() if number is None else (number, number))
        )
        for rank, (protocol, number) in enumerate(sorted(admitted, key=str), 10)
        for version in (4, 6)
    ]
    service = () if open_out else (6, open_port, open_port)
    out = [
        SecurityRule(version, f"out-{version}", Direction.EGRESS, version, *service)
        for version in (4, 6)
        if open_out or open_port
    ]
    return SecurityGroup(1, "group", rules=(*found, *out))


class Asking:
    """The compiled tracker, with ports that have one security group."""

    def __init__(self, source: Path) -> None:
        with libbpf.Object(source) as opened:
            self.maps, self.programs = opened.load()
        self._run = libbpf.TestRun(self.programs["ask"])
        self.connections = conntrack.Connections(
            *(self.maps[name] for name in ("connections", "expectations", "tracked")), self.programs["asked"]
        )
        self._next = 2
        self.settings = conntrack.Settings()
        self.epoch = 0
        self.start_ns = 0
        self.fast = False  # the last packet went the fast way

    def begin(self, settings: conntrack.Settings, *, keep: bool) -> None:
        for name in ("connections", "quotas", "tenants", "expectations", "expecting", "lines"):
            for key, _ in list(self.maps[name].items()):
                self.maps[name].delete(key)
        self.maps["tracked"].update(layout.NUMBER.pack(0), bytes(layout.TRACKED.size))
        for key, value in list(self.maps["peers"].items()):
            if any(value):
                self.maps["peers"].update(key, bytes(4))
        self.settings, self.keep, self.arriving, self.leaving = settings, keep, False, False
        self.start_ns += 10**6 * SECOND_NS  # datagrams under way are forgotten

    def admit(self, group: SecurityGroup) -> None:
        policies = {}
        for direction, version in security.LOOKS:
            policy = compile_policy([group], {}, direction, version)
            policies[direction, version] = self._next
            for name, entries in (
                ("classes", security.classes(self._next, policy)),
                ("rules", security.rules(self._next, policy.rules)),
            ):
                for key, value in entries.items():
                    self.maps[name].update(key, value)
            self._next += 1
        for rank, port in enumerate(PORTS):
            flags = security.Flag.KEEP if self.keep else security.Flag(0)
            flags |= security.Flag.ARRIVING if self.arriving else security.Flag(0)
            flags |= security.Flag.LEAVING if self.leaving else security.Flag(0)
            self.maps["guards"].update(layout.Seat(rank).key, security.guard(port, 4096, policies, flags))
        self.epoch += 1

    def at(self, now_ns: int) -> None:
        value = conntrack.tracking(self.settings, self.epoch, clock_ns=now_ns)
        self.maps["tracking"].update(layout.NUMBER.pack(0), value)

    def table(self) -> dict[tuple[object, ...], tuple[object, ...]]:
        """As the reference has it: by key, state, opener, expiry, packets and bytes of each side, refused."""
        names = {layout.port_number(port): port for port in PORTS}
        found = {}
        for key, value in self.maps["connections"].items():
            port, local, remote, *ends, protocol, asked, _ = layout.CONNECTION_KEY.unpack(key)
            numbers = (int.from_bytes(end, "big") for end in ends)
            state, opener, flags, expires_ns, _, p0, p1, b0, b1, *_ = layout.CONNECTION.unpack(value)
            name = (names[port], protocol, _short(local), _short(remote), *numbers, bool(asked))
            found[name] = (State(state), opener, expires_ns, p0, p1, b0, b1, bool(flags & 128))
        return found

    def awaited(self) -> dict[tuple[object, ...], tuple[object, ...]]:
        """What FTP expects, as the reference has it: by key, opener, expiry, rule."""
        names = {layout.port_number(port): port for port in PORTS}
        found = {}
        for key, value in self.maps["expectations"].items():
            port, local, remote, *ends, protocol, asked, _ = layout.CONNECTION_KEY.unpack(key)
            expires_ns, _, _, rule, opener = layout.EXPECTATION.unpack(value)
            numbers = (int.from_bytes(end, "big") for end in ends)
            name = (names[port], protocol, _short(local), _short(remote), *numbers, bool(asked))
            found[name] = (opener, expires_ns, rule)
        return found

    def left(self) -> bytes:
        """What the last packet on this CPU has left behind of itself."""
        ran = libbpf.TestRun(self.programs["left"])(bytes(3000), LOOPBACK)
        assert ran.retval > 0
        return bytes(ran.data[14 : 14 + ran.retval])

    def ask(self, port: str, side: int, frame: bytes) -> DropReason | None:
        ran = self._run(frame, LOOPBACK, mark=PORTS.index(port) << 1 | side)
        assert ran.retval >= 0
        self.fast = bool(ran.context.cb[0])
        return DropReason(ran.retval) if ran.retval else None


def _short(address: bytes) -> bytes:
    return address[12:] if address.startswith(bytes(10) + b"\xff\xff") else address


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    made = Asking(build.compile_programs(tmp_path_factory.mktemp("conntrack") / "conntrack.bpf.o", SOURCE))
    yield made
    libbpf.close_all(made.maps, made.programs)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """All of a test runs on one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.mark.root
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_a_conversation(asking: Asking, conversation: Conversation) -> None:
    asking.begin(conntrack.Settings(**conversation.limits), keep=conversation.keep)
    asking.arriving, asking.leaving = conversation.arriving > 0, conversation.leaving
    asking.admit(groups(ADMITTED, open_out=True))
    now_ns = asking.start_ns
    for rank, turn in enumerate(conversation.turns):
        now_ns += turn.after_s * SECOND_NS
        if rank and rank == conversation.arriving:
            asking.arriving = False
            asking.admit(groups(ADMITTED, open_out=True))
        if turn.admitted is not None:
            asking.admit(groups(turn.admitted, open_out=turn.open, open_port=turn.open_port))
        asking.at(now_ns)
        assert asking.ask(turn.port, turn.side, turn.frame) == turn.dropped, rank


def _tcp(side: int, flags: int, seq: int, ack: int, data: int = 0, number: int = 80) -> bytes:
    ports = (40000, number) if side == 0 else (number, 40000)
    segment = struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 1000, 0, 0) + bytes(data)
    ends = (LOCAL4, REMOTE4) if side == 0 else (REMOTE4, LOCAL4)
    return MAC_PAIR + b"\x08\0" + packet.ipv4(*ends, 6, segment)


@pytest.mark.root
def test_what_one_tenants_guests_begin_leaves_room_to_what_is_told_of_others(asking: Asking) -> None:
    ring = libbpf.Ring(asking.maps[layout.CONNECTION_EVENTS])
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(SecurityGroup(1, "group", rules=(SecurityRule(4, "out", Direction.EGRESS, 4),)))
    told = conntrack.tracking(asking.settings, asking.epoch, events=True, clock_ns=asking.start_ns)
    asking.maps["tracking"].update(layout.NUMBER.pack(0), told)
    room = (1 << 20) // (layout.CONNECTION_EVENT.size + 8)
    try:
        ring.read()
        for port, count in (("a", room // 2 + 100), ("b", 1)):
            for number in range(1, count + 1):
                assert asking.ask(port, GUEST, _tcp(GUEST, SYN, 1000, 0, number=number)) is None
        ports = [layout.CONNECTION_KEY.unpack(layout.CONNECTION_EVENT.unpack(each)[0])[0] for each in ring.read()]
        assert abs(ports.count(layout.port_number("a")) - room // 2) <= 1
        assert ports[-1] == layout.port_number("b")
        asking.connections.forget([key for key, _ in list(asking.connections.entries())])
        assert abs(len(ring.read()) - room // 2) <= 1, "nor does a sweep take what is others'"
    finally:
        ring.close()


@pytest.mark.root
def test_where_an_agent_sweeps_no_packet_looks_through_the_table_and_where_none_does_one_makes_room(
    asking: Asking,
) -> None:
    asking.begin(conntrack.Settings(most_of_port=2), keep=False)
    asking.admit(SecurityGroup(1, "group", rules=(SecurityRule(4, "out", Direction.EGRESS, 4),)))

    def opens(at_s: int, number: int) -> DropReason | None:
        asking.at(asking.start_ns + at_s * SECOND_NS)
        return asking.ask("a", GUEST, _tcp(GUEST, SYN, 1000, 0, number=number))

    def sweep(at_s: int) -> int:
        asking.at(asking.start_ns + at_s * SECOND_NS)
        return asking.connections.sweep(asking.start_ns + at_s * SECOND_NS)

    for begun_s in (0, 100):
        assert [opens(begun_s, number) for number in (1, 2, 3)] == [None, None, DropReason.CONNECTION_LIMIT]
        assert sweep(begun_s + 29) == 0
        assert opens(begun_s + 31, 3) == DropReason.CONNECTION_LIMIT  # the agent will see to it
        assert len(asking.table()) == 2
        if begun_s:
            assert opens(begun_s + 43, 3) == DropReason.CONNECTION_LIMIT
            assert opens(begun_s + 44, 3) is None  # it does not any more
        else:
            assert sweep(begun_s + 32) == 2
            assert opens(begun_s + 32, 3) is None
            assert sweep(begun_s + 62) == 1


@pytest.mark.root
def test_what_one_tenants_rules_log_leaves_as_much_room_to_others(asking: Asking) -> None:
    ring = libbpf.Ring(asking.maps[layout.CONNECTION_EVENTS])
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(SecurityGroup(1, "group", rules=(SecurityRule(4, "out", Direction.EGRESS, 4, log=True),)))
    room = (1 << 20) // (layout.CONNECTION_EVENT.size + 8)
    gap_ns = 11 * 10**6  # of one rule no more is logged than every 10 ms
    try:
        ring.read()
        for _ in range(2):
            ends_ns = asking.start_ns + (room // 2 + 100) * gap_ns
            for rank, now_ns in enumerate(range(asking.start_ns, ends_ns, gap_ns)):
                asking.at(now_ns)
                asking.ask("a", GUEST, _tcp(GUEST, SYN, 1000, 0, number=1 + rank))
            asking.at(ends_ns)
            asking.ask("b", GUEST, _tcp(GUEST, SYN, 1000, 0))
            ports = [layout.CONNECTION_KEY.unpack(layout.CONNECTION_EVENT.unpack(each)[0])[0] for each in ring.read()]
            assert abs(ports.count(layout.port_number("a")) - room // 2) <= 1
            assert ports[-1] == layout.port_number("b")
            asking.begin(conntrack.Settings(), keep=False)
            asking.admit(SecurityGroup(1, "group", rules=(SecurityRule(4, "out", Direction.EGRESS, 4, log=True),)))
    finally:
        ring.close()


@pytest.mark.root
def test_the_fast_way_is_for_what_is_under_way_and_for_nothing_else(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)

    def fast(side: int, flags: int, seq: int, ack: int, data: int = 0, dropped: DropReason | None = None) -> bool:
        assert asking.ask("a", side, _tcp(side, flags, seq, ack, data)) == dropped
        return asking.fast

    assert not any((fast(0, SYN, 1000, 0), fast(1, SYN | ACK, 5000, 1001), fast(0, ACK, 1001, 5001)))
    assert all((fast(0, ACK, 1001, 5001, 100), fast(1, ACK, 5001, 1101), fast(1, ACK, 5001, 1101, 200)))
    assert not fast(0, ACK, 4001, 5201, 10, DropReason.CONNECTION_INVALID)  # outside the window
    assert not fast(0, ACK, 2050, 5201, 100)  # beyond its edge
    assert not fast(0, RST | ACK, 9000, 5201, 0, DropReason.CONNECTION_INVALID)
    asking.at(asking.start_ns + 1)
    assert not fast(0, ACK, 2150, 5201)  # the first of its tick
    assert fast(0, ACK, 2150, 5201)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns + 1)
    assert not fast(0, ACK, 2150, 5201)  # the first under new rules
    assert fast(0, ACK, 2150, 5201)
    asking.admit(groups(ADMITTED, open_out=False))
    asking.at(asking.start_ns + 1)
    assert not fast(0, ACK, 2150, 5201, 0, DropReason.SECURITY_GROUP)
    assert not fast(1, ACK, 5201, 2150, 0, DropReason.SECURITY_GROUP)


@pytest.mark.root
def test_what_outlives_its_rules_goes_the_fast_way_again_until_that_is_taken_back(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=True)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)

    def fast(side: int, seq: int, ack: int, dropped: DropReason | None = None) -> bool:
        assert asking.ask("a", side, _tcp(side, ACK, seq, ack)) == dropped
        return asking.fast

    for side, flags, seq, ack in ((0, SYN, 1000, 0), (1, SYN | ACK, 5000, 1001), (0, ACK, 1001, 5001)):
        assert asking.ask("a", side, _tcp(side, flags, seq, ack)) is None
    assert fast(0, 1001, 5001)
    for open_out in (True, False):  # and twice: each change of rules costs one packet
        asking.admit(groups(ADMITTED, open_out=open_out))
        asking.at(asking.start_ns)
        assert not fast(0, 1001, 5001)
        assert fast(0, 1001, 5001)
        assert fast(1, 5001, 1001)
    asking.keep = False
    asking.admit(groups(ADMITTED, open_out=False))
    asking.at(asking.start_ns)
    assert not fast(0, 1001, 5001, DropReason.SECURITY_GROUP)
    asking.keep = True
    asking.admit(groups(ADMITTED, open_out=False))
    asking.at(asking.start_ns)
    assert not fast(1, 5001, 1001, DropReason.SECURITY_GROUP)  # what was cut stays so
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)
    assert not fast(0, 1001, 5001)
    assert fast(1, 5001, 1001)


@pytest.mark.root
def test_what_ftp_says_does_not_go_the_fast_way(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)
    for side, flags, seq, ack in ((0, SYN, 1000, 0), (1, SYN | ACK, 5000, 1001), (0, ACK, 1001, 5001)):
        asking.ask("a", side, _tcp(side, flags, seq, ack, number=21))
    asking.ask("a", 1, _tcp(1, ACK, 5001, 1001, number=21))
    assert asking.fast
    asking.ask("a", 1, _tcp(1, ACK, 5001, 1001, 30, number=21))
    assert not asking.fast


def entry(flags: int, pending: tuple[int, int, int], expires_ns: int, number: int = 80) -> dict[bytes, bytes]:
    """An established connection of port a, as the agent hands it over."""
    ends = (40000).to_bytes(2, "big"), number.to_bytes(2, "big")
    addresses = (bytes(10) + b"\xff\xff" + of for of in (LOCAL4, REMOTE4))
    key = layout.CONNECTION_KEY.pack(layout.port_number("a"), *addresses, *ends, 6, 0, 0)
    return {key: layout.CONNECTION.pack(
        State.ESTABLISHED, 0, flags | MOVED, expires_ns, 0, 1, 1, 60, 60, *bytes(8), 7, 1, *pending, 0, 0, 0
    )}  # fmt: skip


MOVED, PENDING, REFUSED, TOLD = 16384, 32, 128, 256
SYN, RST, ACK = 2, 4, 16


@pytest.mark.root
@pytest.mark.parametrize("flags", [ACK, ACK | RST], ids=["goes on", "ends it"])
def test_a_packet_is_never_of_the_connection_that_has_its_ones_element(asking: Asking, flags: int) -> None:
    """One of port a that is refused, and one of port b that is as the packet would have it, are there by turns, as fast
    as a CPU can, while another CPU has the packet.
    """
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)
    ends = (40000).to_bytes(2, "big"), (80).to_bytes(2, "big")
    addresses = (bytes(10) + b"\xff\xff" + of for of in (LOCAL4, REMOTE4))
    place = layout.CONNECTION_KEY.pack(0, *addresses, *ends, 6, 0, 0)
    expires_ns = asking.start_ns + conntrack.TIMEOUTS_S[State.ESTABLISHED] * SECOND_NS
    halves = (1001, 60000, 1000, 1001, 5001, 60000, 1000, 5001)
    both = b"".join(
        layout.COUNT.pack(layout.port_number(port))
        + place[8:]
        + layout.CONNECTION.pack(
            State.ESTABLISHED, 0, TOLD | 3 | refused, expires_ns, 0, 1, 1, 60, 60, *halves, asking.epoch, 1, *bytes(6)
        )[: layout.CONNECTION_TAG_AT]
        for port, refused in (("a", REFUSED), ("b", 0))
    )
    turns = libbpf.TestRun(asking.programs["take_turns"])
    passed = 0
    with ThreadPoolExecutor(1) as thread:
        turning = thread.submit(turns, bytes(14) + both, LOOPBACK)
        while not turning.done():
            ran = asking._run(_tcp(0, flags, 1001, 5001), LOOPBACK, mark=0, repeat=10_000)
            passed += ran.context.cb[1]
    assert (passed, turning.result().retval) == (0, 0)


@pytest.mark.root
def test_news_of_a_connection_that_moves_tells_of_the_syn_that_waits_in_it(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=False)
    asking.at(asking.start_ns)
    later_ns = asking.start_ns + SECOND_NS
    assert asking.connections.take(entry(0, (0, 0, 0), later_ns)) == 1
    assert asking.connections.take(entry(PENDING, (1001, 500, 7), later_ns)) == 1
    ((_, value),) = asking.connections.entries()
    *_, pending_end, pending_window, pending_scale, _, _, _ = layout.CONNECTION.unpack(value)
    assert (pending_end, pending_window, pending_scale) == (1001, 500, 7)


@pytest.mark.root
def test_what_is_handed_over_has_been_held_against_no_rules(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=False)
    asking.at(asking.start_ns)
    later_ns = asking.start_ns + SECOND_NS
    assert asking.connections.insert(entry(0, (0, 0, 0), later_ns)) == 1
    assert asking.connections.take(entry(0, (0, 0, 0), later_ns, number=81)) == 1
    assert asking.connections.take(entry(0, (0, 0, 0), later_ns)) == 1  # again
    assert [layout.CONNECTION.unpack(value)[-8] for _, value in asking.connections.entries()] == [0, 0]


@pytest.mark.root
def test_what_is_handed_over_is_charged_to_those_who_began_it(asking: Asking) -> None:
    asking.begin(conntrack.Settings(), keep=False)
    asking.at(asking.start_ns)
    later_ns = asking.start_ns + SECOND_NS
    ((key, value),) = entry(0, (0, 0, 0), later_ns, number=81).items()
    by_others = value[:5] + b"\1" + value[6:]
    assert asking.connections.take(entry(0, (0, 0, 0), later_ns) | {key: by_others}) == 2
    number = layout.port_number("a") & ~1
    counts = {of: layout.QUOTA.unpack(count)[0] for of, count in asking.maps["quotas"].items()}
    assert counts == {layout.COUNT.pack(number): 1, layout.COUNT.pack(number | 1): 1}
    assert asking.connections.forget([key]) == 1
    assert layout.QUOTA.unpack(asking.maps["quotas"].lookup(layout.COUNT.pack(number | 1)) or b"") == (0, 0)


@pytest.mark.root
def test_what_the_agent_asks_does_not_touch_what_a_packet_is_read_into(asking: Asking, one_cpu: None) -> None:
    """Up to Linux 6.2 packets come in the midst of a test run: what either reads must not be the other's."""
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(groups(ADMITTED, open_out=True))
    asking.at(asking.start_ns)
    for turn in ftp.Ftp(OTHER).opened():
        asking.ask("a", turn.side, turn.frame)
    left = asking.left()
    assert any(left)
    keys = [key for key, _ in asking.connections.entries()]
    later_ns = asking.start_ns + SECOND_NS
    asking.at(later_ns)
    assert asking.connections.insert(entry(0, (0, 0, 0), later_ns)) == 1
    assert asking.connections.sweep(later_ns) == 1
    assert asking.connections.forget(keys) == len(keys) == 1
    assert asking.left() == left


TIMES_S = (0,) * 60 + (1, 9, 29, 61, 180)
ADMITTED_FTP = ADMITTED | {(6, 21)}
RULES = tuple(sorted(ADMITTED_FTP, key=str))
FLAGS = (2, 18, 16, 16, 16, 24, 17, 4, 20, 3, 0)
LOCAL6, REMOTE6 = (bytes.fromhex(f"20010db800010000000000000000000{n}") for n in (4, 5))
LOCAL4, REMOTE4 = b"\x0a\0\1\4", b"\x0a\0\1\5"
MAC_PAIR = bytes(5) + b"\2" + bytes(5) + b"\4"


class Talks:
    """Makes up what guests and others say: mostly what would come next, now and then anything."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.ftp = random.choice((0, 0, 6, 60))  # of so many frames
        self.server = random.random() < 0.5  # the guest is it
        self._next: dict[tuple[int, int, str], list[int]] = {}  # (version, port, of) -> what each side sends next
        self._left: dict[tuple[int, int, str, int], bytes] = {}  # what each side says next
        self._opener: dict[tuple[int, int, str], int] = {}  # who has sent a SYN; 2: it is answered

    def frame(self, of: str, side: int) -> bytes:
        random = self.random
        version = random.choice((4, 4, 6)) if self.ftp < 60 else 4 + 2 * self.server
        kind = random.choice(
            ("tcp",) * 6
            + ("ftp",) * self.ftp
            + ("udp", "icmp", "sctp", "sctp", "other", "error", "error", "piece", "piece")
        )
        protocol, body = getattr(self, f"_{kind}")(version, of, side)
        return self._around(version, side, protocol, body)

    def _around(self, version: int, side: int, protocol: int, body: bytes) -> bytes:
        mine, theirs = ((LOCAL4, REMOTE4), (LOCAL6, REMOTE6))[version == 6]
        ends = (mine, theirs) if side == 0 else (theirs, mine)
        if isinstance(body, tuple):
            identity, offset, more, data = body
            return self._fragment(version, ends, protocol, identity, offset, more, data)
        if version == 4:
            return MAC_PAIR + b"\x08\0" + packet.ipv4(*ends, protocol, body)
        return MAC_PAIR + b"\x86\xdd" + packet.ipv6(*ends, *self._extended(protocol, body))

    def _extended(self, protocol: int, body: bytes) -> tuple[int, bytes]:
        """Now and then behind headers of IPv6 that may be as they should be."""
        while self.random.random() < 0.1:
            more = self.random.choice((0, 0, 0, 1, 5))
            body = (bytes([protocol, more]) + bytes(6 + 8 * self.random.choice((0, more, more)))) + body
            protocol = self.random.choice((0, 43, 60, 60))
        return protocol, body

    def _fragment(
        self,
        version: int,
        ends: tuple[bytes, bytes],
        protocol: int,
        identity: int,
        offset: int,
        more: bool,
        data: bytes,
    ) -> bytes:
        if version == 4:
            made = bytearray(packet.ipv4(*ends, protocol, data))
            made[4:8] = struct.pack("!HH", identity, (0x2000 if more else 0) | offset // 8)
            return MAC_PAIR + b"\x08\0" + bytes(made)
        if not offset:
            protocol, data = self._extended(protocol, data)
            data = data[: len(data) & ~7] if more else data
        header = struct.pack("!BBHI", protocol, 0, offset | more, identity)
        return MAC_PAIR + b"\x86\xdd" + packet.ipv6(*ends, *self._extended(packet.IPV6_FRAGMENT, header + data))

    def _ports(self, side: int, number: int) -> bytes:
        local, remote = ((40000, 80), (22, 40000), (53, 53))[number]
        return struct.pack("!HH", *((local, remote) if side == 0 else (remote, local)))

    def _tcp(self, version: int, of: str, side: int) -> tuple[int, bytes]:
        random = self.random
        number = random.randrange(2)
        known = self._next.setdefault((version, number, of), [1000, 2**32 - 50])
        flags = random.choice(FLAGS) if random.random() < 0.15 else self._flags((version, number, of), side)
        seq, ack = known[side], known[1 - side]
        if flags & 2 and random.random() < 0.3:
            seq = known[side] = random.choice((1000, 90_000, 2**31))
        size = random.choice((0, 0, 1, 100, 1400)) if not flags & 2 else random.choice((0, 0, 0, 20))
        if random.random() < 0.2:
            seq += random.choice((-70_000, -1000, -1, 1, 500, 1000, 5000, 70_000))
        elif not flags & 4:
            known[side] = (seq + size + bool(flags & 2) + (flags & 1)) % 2**32
        if random.random() < 0.15:
            ack += random.choice((-70_000, -10, -1, 1, 10, 1000))
        options = (
            random.choice((b"", b"", b"\1\3\3\7", b"\3\3\2\0", b"\2\4\5\xb4\1\3\3\x0f", b"\3\0\0\0"))
            if flags & 2
            else b""
        )
        header = struct.pack(
            "!4sIIBBHHH", self._ports(side, number), seq % 2**32, ack % 2**32, (20 + len(options)) << 2,
            flags, random.choice((0, 1, 1000, 65535)), 0, 0,
        )  # fmt: skip
        return 6, header + options + bytes(size)

    def _flags(self, talk: tuple[int, int, str], side: int) -> int:
        """What would come next."""
        opener = self._opener.get(talk)
        if opener is None:
            self._opener[talk] = side
            return 2
        if not 0 <= opener < 2:
            if self.random.random() < 0.03:
                del self._opener[talk]
            return self.random.choice((16, 16, 16, 24, 24, 24, 24, 17, 4))
        if side == opener:
            return 2
        self._opener[talk] = 2
        return 18

    def _ftp(self, version: int, of: str, side: int) -> tuple[int, bytes]:
        """A control connection, of one or two clients, or what could be a data connection of theirs."""
        random = self.random
        server = self.server
        if random.random() < 0.3:
            far, port = 40_300 + random.randrange(8), random.choice((50_000, 50_000, 50_001, 1023))
            ends = (far, port) if random.random() < 0.9 else (port, far)
            flags, seq = random.choice((2, 2, 2, 18, 4)), random.choice((1000, 1001))
            return 6, struct.pack("!HHIIBBHHH", *ends, seq, 0, 80, flags, 1000, 0, 0)
        client = 41_000 + random.choice((0,) * 18 + (1, 16))
        ends = (21, client) if server else (client, 21)
        known = self._next.setdefault((version, ends[0] * 65536 + ends[1], of), [1000, 2**32 - 50])
        flags = self._flags((version, ends[0] * 65536 + ends[1], of), side)
        if random.random() < 0.9 and flags & 5:
            flags = 24
        seq, ack = known[side], known[1 - side]
        said = (version, ends[0] * 65536 + ends[1], of, side)
        text = (
            b""
            if flags & 6
            else self._left.pop(said, b"") or self._line(version, of_client=(side == 0) is not server, side=side)
        )
        if random.random() < 0.5 and len(text) > 1:  # the rest comes with the next
            cut = random.randrange(1, len(text))
            text, self._left[said] = text[:cut], text[cut:]
        if random.random() < 0.05:
            seq += random.choice((-3, 3, len(text)))
        elif not flags & 4:
            known[side] = (seq + len(text) + bool(flags & 2) + (flags & 1)) % 2**32
        ports = ends if side == 0 else ends[::-1]
        return 6, struct.pack("!HHIIBBHHH", *ports, seq % 2**32, ack % 2**32, 80, flags, 60_000, 0, 0) + text

    def _line(self, version: int, *, of_client: bool, side: int) -> bytes:
        return spoken(self.random, ((LOCAL4, REMOTE4), (LOCAL6, REMOTE6))[version == 6][side], of_client=of_client)

    def _udp(self, _version: int, _of: str, side: int) -> tuple[int, bytes]:
        protocol = self.random.choice((17, 17, 33, 136))
        return protocol, self._ports(side, self.random.randrange(3)) + bytes(self.random.choice((3, 4, 30)))

    def _icmp(self, version: int, _of: str, _side: int) -> tuple[int, bytes]:
        kinds = (8, 0, 8, 0, 13, 14, 5, 9) if version == 4 else (128, 129, 128, 129, 130, 1, 4)
        head = struct.pack("!BBHHH", self.random.choice(kinds), 0, 0, self.random.choice((7, 8)), 1)
        return 1 if version == 4 else 58, head[: self.random.choice((8, 8, 8, 5))] + b"abcd"

    def _sctp(self, _version: int, _of: str, side: int) -> tuple[int, bytes]:
        random = self.random
        tag = random.choice((0, 0xA, 0xA, 0xB, 0xB))
        chunk = random.choice((0, 1, 1, 2, 2, 10, 11, 11, 6, 7, 8, 14))
        return 132, self._ports(side, 0) + struct.pack("!IIBBHI", tag, 0, chunk, 0, 20, (0xA, 0xB)[side]) + bytes(12)

    def _other(self, _version: int, _of: str, _side: int) -> tuple[int, bytes]:
        return self.random.choice((47, 50, 51)), b"secret"

    def _error(self, version: int, of: str, side: int) -> tuple[int, bytes]:
        quoted = self.frame_without_errors(version, of, self.random.choice((1 - side, 1 - side, side)))[14:]
        kind = self.random.choice((3, 11) if version == 4 else (1, 2))
        cut = self.random.choice((None, None, None, 27, 40, 47, 48))
        return 1 if version == 4 else 58, struct.pack("!BBHI", kind, 0, 0, 0) + quoted[:cut]

    def frame_without_errors(self, version: int, of: str, side: int) -> bytes:
        kind = self.random.choice(("tcp", "udp", "icmp", "other", "sctp"))
        protocol, body = getattr(self, f"_{kind}")(version, of, side)
        return self._around(version, side, protocol, body)

    def _piece(self, version: int, of: str, side: int) -> tuple[int, tuple[int, int, bool, bytes]]:
        random = self.random
        offset = random.choice((0, 0, 40, 48, 80, 88, 160))
        protocol, whole = getattr(self, f"_{random.choice(('tcp', 'udp', 'udp', 'icmp'))}")(version, of, side)
        data = (whole + bytes(80))[: random.choice((40, 48, 80, 80, 81, 8))]
        return protocol, (random.choice((77, 77, 78)), offset, random.random() < 0.7, data)


def spoken(random: Random, own: bytes, *, of_client: bool) -> bytes:
    """What an FTP client or server says: mostly something that matters, now and then nearly."""
    said = b""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        address = own if random.random() < 0.9 else bytes(reversed(own))
        port = random.choice((50_000, 50_000, 50_001, 1023, 70_000))
        numbers = ",".join(map(str, (*address[:4], port >> 8, port & 255)))
        text = str(ip_address(address)) if random.random() < 0.5 else ip_address(address).exploded
        family = random.choice((1 if len(own) == 4 else 2,) * 9 + (1, 2, 3))
        ways = (
            (f"PORT {numbers}", f"EPRT |{family}|{text}|{port}|", f"eprt ~{family}~{text}~{port}~", "NOOP", "PASV")
            if of_client
            else (f"227 Passive ({numbers}).", f"227 {numbers}", f"229 So (|||{port}|)", "200 so", "220-(|||1|)")
        )
        line = random.choice(ways) + random.choice(("\r\n",) * 8 + ("\n", "\r", "", " \r\n"))
        said += line.encode()
    return said


ALPHABET = st.sampled_from(list(b"0123456789abcdefABCDEFPORTEport ,.:|!()\r\n\x00\xff(|:"))
OWN = {4: LOCAL4, 6: LOCAL6}


@st.composite
def texts(draw: st.DrawFn) -> tuple[int, bool, bytes]:
    """(IP version, whether it is the client's, text): what is said, with bytes changed, left out and put in."""
    version, of_client = draw(st.sampled_from((4, 6))), draw(st.booleans())
    text = bytearray(spoken(Random(draw(st.integers(0, 2**32))), OWN[version], of_client=of_client))  # noqa: S311
    for _ in range(draw(st.integers(0, 3))):
        at, byte = draw(st.integers(0, len(text))), draw(ALPHABET)
        match draw(st.sampled_from(("change", "leave", "put", "keep"))):
            case "change":
                text[at : at + 1] = bytes([byte])
            case "leave":
                del text[at : at + 1]
            case "put":
                text[at:at] = bytes([byte])
            case _:
                pass
    return version, of_client, bytes(text) + draw(st.sampled_from((b"", b"", b"200 so\r\n" * 70)))


IPV6_TEXT = st.lists(st.sampled_from(("", ":", "::", "0", "4", "1", "2001", "db8", "0db8", "10000")), max_size=18).map(
    "".join
)

#: Eight groups, more or fewer, with :: somewhere; also where there is no place for it.
WHOLE_IPV6 = st.tuples(
    st.lists(st.sampled_from(("0", "4", "db8", "2001")), min_size=6, max_size=9), st.integers(0, 9), st.booleans()
).map(lambda of: ":".join(of[0][: of[1]]) + ("::" if of[2] else ":") + ":".join(of[0][of[1] :]))


@pytest.mark.root
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(
    texts(),
    st.binary(min_size=1, max_size=60).map(lambda text: (4, True, text)),
    (IPV6_TEXT | WHOLE_IPV6).map(lambda text: (6, True, f"EPRT |2|{text}|50000|\r\n".encode())),
), st.lists(st.integers(1, 60), max_size=4) | st.just(list(range(1, 600))))  # fmt: skip
@example((6, True, f"EPRT |2|{ip_address(LOCAL6).exploded}::|50000|\r\n".encode()), [])
def test_whatever_a_control_connection_says_is_heard_as_the_reference_hears_it(
    asking: Asking, case: tuple[int, bool, bytes], cuts: list[int]
) -> None:
    """In how many segments it may be."""
    version, of_client, text = case
    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    tracker = Tracker()
    asking.begin(conntrack.Settings(), keep=False)
    asking.admit(groups({(6, 21)}, open_out=True))
    asking.at(asking.start_ns)
    control = ftp.Ftp(OTHER if of_client else GUEST, version)
    said = (control.says(GUEST, text[begin:end].decode("latin-1")) for begin, end in pairwise(ends))
    for turn in (*control.opened(), *said):
        ip = packet.parse(turn.frame)
        assert isinstance(ip, packet.Ip)
        tracker.check("a", GuestDirection(turn.side), ip, asking.start_ns, lambda _: Ruling(allow=True, rule=10))
        assert asking.ask("a", turn.side, turn.frame) is None
    assert {key: value[:2] for key, value in asking.awaited().items()} == {
        tuple(key): (of.opener, of.expires_ns) for key, of in tracker.expectations.items()
    }, text
    assert asking.connections.expected() == {what: tracker.expected[what] for what in Expected}, text


@pytest.mark.root
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
@example(seed=1645)  # opened anew by the other end
@example(seed=585)  # a SYN that waits is refused, in one that is moved
def test_whatever_is_said_the_programs_track_it_as_the_reference_does(asking: Asking, seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- no secret: made-up talk
    talks, most = Talks(random), random.choice((3, 100))
    bounds = {"most_of_port": most, "most": 2 * most, "own_of_port": random.choice((0, 1, 96))}
    asking.begin(conntrack.Settings(**bounds), keep=random.random() < 0.2)
    tracker = Tracker(Limits(**bounds))
    now_ns, admitted = asking.start_ns, ADMITTED_FTP
    asking.arriving = random.random() < 0.5
    asking.admit(groups(admitted, open_out=True))

    def judge(question: Question) -> Ruling:
        if question.direction is GuestDirection.FROM_GUEST:
            return Ruling(allow=True, rule=1)
        return Ruling((question.protocol, question.number) in admitted)

    for _ in range(120 + 3 * talks.ftp):
        now_ns += random.choice(TIMES_S) * SECOND_NS
        if random.random() < 0.04:
            admitted = frozenset(random.sample(RULES, random.randrange(len(RULES) + 1)))
            asking.arriving = random.random() < 0.3
            asking.admit(groups(admitted, open_out=True))
            tracker.epoch += 1
        asking.at(now_ns)
        port, side = random.choice(PORTS[: 1 if talks.ftp == 60 else 2]), random.randrange(2)
        frame = talks.frame(port, side)
        ip = packet.parse(frame)
        assert isinstance(ip, packet.Ip)
        expected = tracker.check(
            port, GuestDirection(side), ip, now_ns, judge, keep=asking.keep, arriving=asking.arriving
        )
        assert asking.ask(port, side, frame) == expected.reason, (frame.hex(), side, expected.why)
    assert asking.awaited().keys() == {tuple(key) for key in tracker.expectations}
    assert asking.connections.expected() == {what: tracker.expected[what] for what in Expected}
    assert asking.table() == {
        (key.port, key.protocol, key.local, key.remote, key.local_port, key.remote_port, key.asked): (
            of.state, of.opener, of.expires_ns, *of.packets, *of.bytes, of.refused,
        )
        for key, of in tracker.connections().items()
    }  # fmt: skip
