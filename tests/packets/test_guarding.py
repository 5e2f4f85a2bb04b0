"""Ports with security groups on the reference, and on the eBPF data plane as on the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from ebpf.driver import EbpfDriver, ebpf_driver
from packets import build as b
from packets.guarding import (
    CLIENTS,
    FAR_ONE,
    FIREWALL,
    FIRST,
    FTP,
    FTP_CLIENTS,
    FTP_SERVERS,
    FW_PORT,
    GUARDED,
    KEPT,
    SCENES,
    SECOND,
    SERVERS,
    TAPS,
    WEB1_PORT,
    WEB2_PORT,
    Exchange,
    Scene,
    dns,
    ftp,
    guarded,
    opened,
    talk,
    tcp,
)
from packets.policy import BINDINGS, UPLINK, Policy
from weft.contracts.connections import CONTROL_SIDE, RELATED, Awaited, Carried, Half, Logged
from weft.contracts.dataplane import DataPlane
from weft.dataplane.ebpf import build
from weft.kit.errors import Rejected
from weft.policy.connections import Expected, State
from weft.policy.drop import DropReason
from weft.policy.rows import Direction, Port
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Drop, Verdict
from weft.wire import carried as wire

NOW_NS = 10**12


class Reference:
    """The reference at one time."""

    def __init__(self) -> None:
        self.plane = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in self._unreachable)
        self._unreachable: frozenset[str] = frozenset()

    def load(self, policy: Policy) -> None:
        self._unreachable = policy.unreachable
        assert self.plane.update(policy.rows) == []
        assert self.plane.prune({row.key for row in policy.rows}) == []
        assert self.plane.bind(policy.bindings) == []
        assert self.plane.listen(policy.listeners) == []
        assert self.plane.heed(policy.wanted) == []

    def inject(self, interface: str, frame: bytes) -> Verdict:
        enter = self.plane.from_uplink if interface == UPLINK else self.plane.from_port
        return enter(interface, frame, NOW_NS).verdict


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_on_the_reference(scene: Scene) -> None:
    reference = Reference()
    reference.load(scene.policy)
    for rank, exchange in enumerate(scene.exchanges):
        if exchange.policy is not None:
            reference.load(exchange.policy)
        verdict = reference.inject(exchange.interface, exchange.frame)
        assert getattr(verdict, "reason", None) == exchange.dropped, (rank, verdict)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfDriver]:
    source = build.compile_programs(tmp_path_factory.mktemp("object") / "weft.bpf.o")
    with ebpf_driver(source, list(BINDINGS.values()), UPLINK) as made:
        made.plane._tracking.clock_ns = NOW_NS
        made.plane._tracking.write()
        yield made


@pytest.mark.root
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_by_the_programs_as_on_the_reference(scene: Scene, driver: EbpfDriver) -> None:
    reference = Reference()
    driver.plane._connections.forget(key for key, _ in list(driver.plane._connections.entries()))
    driver.forget_rulings()
    for rank, exchange in enumerate(scene.exchanges):
        policy = exchange.policy or (scene.policy if rank == 0 else None)
        if policy is not None:
            reference.load(policy)
            driver.load(policy)
        expected = reference.inject(exchange.interface, exchange.frame)
        assert driver.inject(exchange.interface, exchange.frame) == expected, rank
        assert driver.plane.hits() == reference.plane.hits(), rank
        assert driver.plane.denials() == reference.plane.denials(), rank
        assert getattr(expected, "reason", None) == exchange.dropped


@pytest.mark.root
def test_a_flood_of_a_guest_that_is_not_guarded_leaves_others_room(driver: EbpfDriver) -> None:
    """It has as many connections with all ports here as one port may begin, by whichever of its addresses."""
    most = 16
    policy = guarded({WEB2_PORT: (2,)})
    reference = Reference()
    former, limits = driver.plane._tracking.settings, reference.plane._lookups.tracker.limits
    reference.plane._lookups.tracker.limits = replace(limits, most_of_port=most)
    driver.plane._connections.forget(key for key, _ in list(driver.plane._connections.entries()))
    driver.plane._tracking.settings = replace(former, most_of_port=most)
    driver.plane._tracking.write()
    full = DropReason.CONNECTION_LIMIT
    asks = [udp(FIRST, SECOND, port, None if port < most else full) for port in range(most + 4)]
    six = talk("2001:db8:1::4", "2001:db8:1::5", tcp("S", 100, 0), full)
    others = [udp(FAR_ONE, SECOND, port, None if port < most else full) for port in range(most + 1)]
    try:
        for plane in (reference, driver):
            plane.load(policy)
        for rank, exchange in enumerate((*asks, six, *others)):
            expected = reference.inject(exchange.interface, exchange.frame)
            assert driver.inject(exchange.interface, exchange.frame) == expected, rank
            assert getattr(expected, "reason", None) == exchange.dropped, rank
        first = [found.key for found in driver.plane.connections() if found.remote == FIRST]
        assert driver.plane.forget(first) == most
        assert not isinstance(driver.inject(six.interface, six.frame), Drop)
    finally:
        driver.plane._tracking.settings = former
        driver.plane._tracking.write()


def udp(source: str, to: str, port: int, dropped: DropReason | None) -> Exchange:
    return talk(source, to, b.UDP(sport=1000 + port, dport=53) / b.Raw(b"name"), dropped)


def arriving(policy: Policy, *ports: str) -> Policy:
    """The client's port is on its way here, or others are."""
    names = ports or (WEB1_PORT,)
    rows = (replace(row, arriving=True) if isinstance(row, Port) and row.port in names else row for row in policy.rows)
    return replace(policy, rows=tuple(rows))


def without_times(found: Iterable[tuple[bytes, Carried]]) -> dict[tuple[object, ...], Carried]:
    return {of[:6]: of._replace(left_ms=0, age_ms=0) for _, of in found}


_SIX = "2001:db8:1::4", "2001:db8:1::5"
_ACTIVE, _PASSIVE = b"PORT 10,0,1,4,195,80\r\n", b"227 Entering Passive Mode (10,0,1,5,195,80).\r\n"
_ACTIVE6, _PASSIVE6 = b"EPRT |2|2001:db8:1::4|50000|\r\n", b"229 Extended (|||50000|)\r\n"


def both(driver: EbpfDriver) -> list[tuple[Reference | EbpfDriver, DataPlane]]:
    """Two hosts of one time: the one is the reference, the other the programs."""
    reference = Reference()
    driver.plane.forget([found.key for found in driver.plane.connections()])
    for each in (reference, driver):
        each.load(FTP)
        each.inject("tapweb1", talk(FIRST, FIREWALL, b.echo(4)).frame)  # so that it is as late in both
    return [(reference, reference.plane), (driver, driver.plane)]


def hand_over(left: DataPlane, reached: DataPlane, *ports: str) -> None:
    for port in ports:
        found = [of for _, of in left.carried(port)]
        told = wire.decode(wire.encode(1, found, more=False)).connections
        assert told == found
        reached.take(port, told)


def expected(plane: DataPlane) -> set[tuple[str, int, int, bool]]:
    return {
        (each.port, each.local_port, each.remote_port, each.outward)
        for each in plane.connections()
        if each.state is State.EXPECTED
    }


@pytest.mark.root
@pytest.mark.parametrize(
    ("ends", "said", "by_server"),
    [
        pytest.param((FIRST, SECOND), _ACTIVE, False, id="active"),
        pytest.param((FIRST, SECOND), _PASSIVE, True, id="passive"),
        pytest.param(_SIX, _ACTIVE6, False, id="active, IPv6"),
        pytest.param(_SIX, _PASSIVE6, True, id="passive, IPv6"),
    ],
)
def test_what_ftp_expects_goes_along_with_its_control_connection(
    ends: tuple[str, str], said: bytes, by_server: bool, driver: EbpfDriver
) -> None:
    """Both the client's port and the server's move, from one kind of data plane to the other."""
    planes = both(driver)
    ports = WEB1_PORT, WEB2_PORT
    for (here, left), (there, reached) in (planes, planes[::-1]):
        here.load(FTP)
        for plane in (left, reached):
            plane.forget([found.key for found in plane.connections()])
        for exchange in ftp(*ends, said, by_server=by_server):
            assert not isinstance(here.inject(exchange.interface, exchange.frame), Drop)
        there.load(arriving(FTP, *ports))
        before = reached.expected()
        hand_over(left, reached, *ports)
        hand_over(left, reached, *ports)  # as when it is told once more
        assert expected(reached) == expected(left)
        assert len(expected(reached)) == 2
        for port in ports:
            ((_, told),), ((_, now),) = left.carried(port), reached.carried(port)
            assert told.awaited == now.awaited is not None
        assert {key: mark for _, key, mark in left.marks(ports)} == {
            key: of.mark for port in ports for key, of in left.carried(port)
        }
        opener, other = ends if by_server else ends[::-1]
        for exchange in opened(opener, other, 50_000):
            assert not isinstance(there.inject(exchange.interface, exchange.frame), Drop)
        assert reached.expected()[Expected.ADMITTED] == before[Expected.ADMITTED] + 2
        again = talk(opener, other, tcp("S", 1, 0, (20, 50_000)))
        assert isinstance(there.inject(again.interface, again.frame), Drop)


@pytest.mark.root
def test_what_is_expected_here_is_what_was_said_last_whatever_news_comes_of_it(driver: EbpfDriver) -> None:
    (here, left), (there, reached) = both(driver)
    begun = ftp(FIRST, SECOND, _ACTIVE)
    for exchange in begun:
        here.inject(exchange.interface, exchange.frame)
    ((_, told),) = left.carried(WEB1_PORT)
    assert told.awaited == Awaited(50_000, 1, 0)
    for each, plane in ((there, reached), (here, left)):
        each.load(arriving(FTP))
        plane.forget([found.key for found in plane.connections()])

        def news(of: Carried, port: int, plane: DataPlane = plane) -> None:
            plane.take(WEB1_PORT, [of])
            assert expected(plane) == {(WEB1_PORT, port, 0, False)}

        news(told._replace(awaited=Awaited(50_001, 1, 5000)), 50_001)
        news(told._replace(awaited=Awaited(50_002, 1, 4000)), 50_002)  # it has been said since
        news(told._replace(awaited=Awaited(50_003, 1, 4500)), 50_002)  # it is older
        news(told._replace(awaited=None), 50_002)
        # The guest speaks here, and so does the other end: from then on nobody knows better.
        more = b"PORT 10,0,1,4,195,90\r\n"
        said = talk(FIRST, SECOND, tcp("PA", told.halves[0].end, told.halves[1].end, (40000, 21), more))
        each.inject(said.interface, said.frame)
        assert expected(plane) == {(WEB1_PORT, 50_010, 0, False)}
        answer = talk(SECOND, FIRST, tcp("A", told.halves[1].end, told.halves[0].end + len(more), (21, 40000)))
        each.load(arriving(guarded({WEB1_PORT: (4,)}, (FTP_CLIENTS,))))
        each.inject(answer.interface, answer.frame)
        plane.forget([found.key for found in plane.connections() if found.state is State.EXPECTED])
        plane.take(WEB1_PORT, [told])
        assert expected(plane) == set()


@pytest.mark.root
def test_of_what_another_host_tells_nothing_is_expected_that_ftp_could_not_have_said(driver: EbpfDriver) -> None:
    (here, left), (there, reached) = both(driver)
    for exchange in ftp(FIRST, SECOND, _ACTIVE):
        here.inject(exchange.interface, exchange.frame)
    ((_, told),) = left.carried(WEB1_PORT)
    for each, plane in ((there, reached), (here, left)):
        each.load(arriving(FTP))
        for wrong in (
            told._replace(awaited=Awaited(1023, 1, 0)),
            told._replace(awaited=Awaited(65_536, 1, 0)),
            told._replace(awaited=Awaited(50_000, 2, 0)),
            told._replace(awaited=Awaited(50_000, 1, -1)),
            told._replace(awaited=Awaited(50_000, 1, 60_000)),
            told._replace(remote_port=22),
            told._replace(opener=1),
            told._replace(protocol=17, state=State.UDP_REPLIED),
            told._replace(flags=told.flags | RELATED),
        ):
            plane.forget([found.key for found in plane.connections()])
            assert plane.take(WEB1_PORT, [wrong]) == 1, wrong
            assert expected(plane) == set(), wrong


@pytest.mark.root
def test_connections_go_from_one_kind_of_data_plane_to_the_other_and_on_from_there(driver: EbpfDriver) -> None:
    """The client moves: of what it has begun here, the other host knows nothing, and then everything."""
    reference = Reference()
    planes: list[tuple[Reference | EbpfDriver, DataPlane]] = [(reference, reference.plane), (driver, driver.plane)]
    later = talk(SECOND, FIRST, tcp("PA", 507, 109, (80, 40000), b"more"))
    answer = talk(FIRST, SECOND, tcp("A", 109, 511))
    driver.plane._connections.forget(key for key, _ in list(driver.plane._connections.entries()))
    for (here, left), (there, reached) in (planes, planes[::-1]):
        here.load(GUARDED)
        for exchange in (*opened(FIRST, SECOND), dns(FIRST, SECOND)):
            here.inject(exchange.interface, exchange.frame)
        there.load(arriving(GUARDED))
        reached.forget([key for key, _ in reached.carried(WEB1_PORT)])
        # It is known there that the client, whose rules let it send what it likes, has begun nothing.
        assert getattr(there.inject(later.interface, later.frame), "reason", None) is not None
        carried = wire.decode(wire.encode(1, [of for _, of in left.carried(WEB1_PORT)], more=False)).connections
        marks = {(port, key): mark for port, key, mark in left.marks([WEB1_PORT, FW_PORT])}
        assert marks == {(WEB1_PORT, key): of.mark for key, of in left.carried(WEB1_PORT)}
        assert reached.take(WEB1_PORT, carried) == 2
        assert without_times(reached.carried(WEB1_PORT)) == without_times(left.carried(WEB1_PORT))
        shown = {found.protocol: found for found in reached.connections() if found.port == WEB1_PORT}
        assert 0 < shown[6].expires_s <= 432_000
        assert (shown[6].state, shown[6].rule) == (State.ESTABLISHED, 11)
        # And once it has spoken there, nobody knows better.
        there.inject(answer.interface, answer.frame)
        assert reached.take(WEB1_PORT, carried) == 1, "but of the name that was asked for"
        left.forget([key for key, _ in left.carried(WEB1_PORT)])


@pytest.mark.root
def test_what_is_no_connection_is_not_taken(driver: EbpfDriver) -> None:
    reference = Reference()
    for plane, each in ((reference.plane, reference), (driver.plane, driver)):
        each.load(GUARDED)
        plane.forget([key for key, _ in plane.carried(WEB1_PORT)])
        for exchange in opened(FIRST, SECOND):
            each.inject(exchange.interface, exchange.frame)
        ((_, good),) = ((key, of) for key, of in plane.carried(WEB1_PORT) if of.protocol == 6)
        asked = good._replace(protocol=1, state=State.ICMP_REPLIED, remote_port=8, asked=True, opener=1)
        for wrong in (
            good._replace(state=0),
            good._replace(state=99),
            good._replace(local=b"abc"),
            good._replace(local=bytes(16)),
            # States say which of rules are asked: those of another protocol are no way to choose.
            good._replace(protocol=17, state=State.ICMP_REPLIED),
            good._replace(protocol=17, state=State.ESTABLISHED),
            good._replace(state=State.OTHER_REPLIED),
            good._replace(state=State.EXPECTED),
            good._replace(protocol=132, state=State.UDP_REPLIED),
            asked._replace(protocol=58),
            asked._replace(remote_port=8 << 8),
            asked._replace(opener=0),
        ):
            with pytest.raises(Rejected):
                plane.take(WEB1_PORT, [wrong])
        assert plane.take(WEB1_PORT, [asked]) == 1
        assert plane.take(WEB1_PORT, [asked._replace(protocol=47, state=State.OTHER_REPLIED)]) == 1


_BOTH = {WEB1_PORT: (1,), WEB2_PORT: (2,)}
_MADE_UP = Carried(
    6, bytes((10, 0, 1, 5)), bytes((10, 0, 1, 4)), 22, 40000, False, State.SYN_SENT, 1, 0, 30_000, 0, (0, 1), (0, 60),
    (Half(0, 0, 1, 0), Half(101, 100, 1000, 0)), 0, (0, 0, 0), 0, (255, 255),
)  # fmt: skip
_MADE_UP_DATAGRAM = _MADE_UP._replace(protocol=17, local_port=5353, state=State.UDP_REPLIED)
_BY_SERVER, _BY_CLIENT = RELATED | CONTROL_SIDE, RELATED
_SYN, _DATAGRAM = tcp("S", 100, 0, (40000, 22)), b.UDP(sport=40000, dport=5353) / b.Raw(b"name")
_FTP = guarded(_BOTH | {WEB2_PORT: (5,)}, (CLIENTS, FTP_SERVERS))
_KEPT_FTP = guarded(_BOTH | {WEB2_PORT: (5,)}, (CLIENTS, replace(FTP_SERVERS, keep=True)))


def take(each: Reference | EbpfDriver, plane: DataPlane, told: Carried) -> None:
    """All that there is of the server, at the time of the packets."""
    before = talk(FIREWALL, FIRST, tcp("S", 1, 0))
    each.inject(before.interface, before.frame)
    plane.forget([found.key for found in plane.connections()])
    assert plane.take(WEB2_PORT, [told]) == 1
    assert next(of.left_ms for _, of in plane.carried(WEB2_PORT)) == 30_000


@pytest.mark.root
@pytest.mark.parametrize(
    ("policy", "told", "layer"),
    [
        pytest.param(GUARDED, _MADE_UP, _SYN, id="begun"),
        pytest.param(GUARDED, _MADE_UP._replace(flags=_BY_SERVER, control=80), _SYN, id="related to what is let in"),
        pytest.param(GUARDED, _MADE_UP._replace(flags=_BY_CLIENT, control=80), _SYN, id="or out"),
        pytest.param(_FTP, _MADE_UP._replace(flags=_BY_SERVER, control=21), _SYN, id="related to FTP, of a low port"),
        pytest.param(
            GUARDED, _MADE_UP_DATAGRAM._replace(flags=_BY_SERVER, control=53), _DATAGRAM, id="a datagram related to one"
        ),
        pytest.param(
            _FTP, _MADE_UP_DATAGRAM._replace(flags=_BY_SERVER, control=21), _DATAGRAM, id="a datagram related to FTP"
        ),
        pytest.param(guarded(_BOTH, KEPT), _MADE_UP, _SYN, id="begun, where connections outlive rules"),
        pytest.param(guarded(_BOTH, KEPT), _MADE_UP_DATAGRAM, _DATAGRAM, id="a datagram, where they do"),
    ],
)
def test_what_another_host_tells_opens_nothing_that_rules_do_not(
    policy: Policy, told: Carried, layer: b.Packet, driver: EbpfDriver
) -> None:
    reference = Reference()
    for plane, each in ((reference.plane, reference), (driver.plane, driver)):
        each.load(policy)
        take(each, plane, told)
        exchange = talk(FIRST, SECOND, layer)
        assert each.inject(exchange.interface, exchange.frame) == Drop(DropReason.SECURITY_GROUP)


@pytest.mark.root
@pytest.mark.parametrize("policy", [_FTP, _KEPT_FTP], ids=["", "where connections outlive rules"])
def test_a_data_connection_of_ftp_that_another_host_tells_of_goes_on(policy: Policy, driver: EbpfDriver) -> None:
    reference = Reference()
    told = _MADE_UP._replace(local_port=50_000, flags=_BY_SERVER, control=21)
    exchange = talk(FIRST, SECOND, tcp("S", 100, 0, (40000, 50_000)))
    for plane, each in ((reference.plane, reference), (driver.plane, driver)):
        each.load(policy)
        take(each, plane, told)
        assert not isinstance(each.inject(exchange.interface, exchange.frame), Drop)
        ((_, now),) = plane.carried(WEB2_PORT)
        assert (now.flags & (RELATED | CONTROL_SIDE), now.control) == (RELATED | CONTROL_SIDE, 21)


@pytest.mark.root
def test_what_rules_let_in_when_it_came_outlives_them_where_connections_do(driver: EbpfDriver) -> None:
    reference = Reference()
    told = _MADE_UP_DATAGRAM._replace(local_port=53)
    exchange = dns(FIRST, SECOND)
    for plane, each in ((reference.plane, reference), (driver.plane, driver)):
        each.load(guarded(_BOTH, KEPT))
        take(each, plane, told)
        assert not isinstance(each.inject(exchange.interface, exchange.frame), Drop)
        each.load(guarded(_BOTH, (KEPT[0], replace(KEPT[1], rules=()))))
        assert not isinstance(each.inject(exchange.interface, exchange.frame), Drop)


@pytest.mark.root
def test_what_a_rule_that_logs_decides_is_told_once_in_a_while(driver: EbpfDriver) -> None:
    logging = tuple(replace(rule, log=rule.number in (11, 24)) for rule in (*CLIENTS.rules, *SERVERS.rules))
    clients, servers = replace(CLIENTS, rules=logging[:2]), replace(SERVERS, rules=logging[2:])
    driver.load(guarded({WEB1_PORT: (1,), WEB2_PORT: (2,)}, (clients, servers)))
    driver.plane.connection_events()
    for sender, port in ((FIRST, 4001), (FIRST, 4002), (FIREWALL, 4003)):
        driver.inject(TAPS[sender], talk(sender, SECOND, b.UDP(sport=port, dport=53) / b.Raw(b"name")).frame)
    told = [each for each in driver.plane.connection_events() if isinstance(each, Logged)]
    assert [(each.rule, each.port, each.direction, each.allowed) for each in told] == [
        ("clients/out", WEB1_PORT, Direction.EGRESS, True),
        ("servers/not-fw", WEB2_PORT, Direction.INGRESS, False),
    ], "the second of one rule came too soon"
    assert [(each.protocol, each.local, each.remote, each.local_port, each.remote_port) for each in told] == [
        (17, FIRST, SECOND, 4001, 53),
        (17, SECOND, FIREWALL, 53, 4003),
    ]
    assert all(each.frame_bytes >= 42 for each in told)
