"""Ports with security groups on the reference, and on the eBPF data plane as on the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from ebpf.driver import EbpfDriver, ebpf_driver
from packets import build as b
from packets.guarding import (
    CLIENTS,
    FIREWALL,
    FIRST,
    FTP_SERVERS,
    GUARDED,
    KEPT,
    SCENES,
    SECOND,
    SERVERS,
    TAPS,
    WEB1_PORT,
    WEB2_PORT,
    Scene,
    dns,
    guarded,
    opened,
    talk,
    tcp,
)
from packets.policy import BINDINGS, UPLINK, Policy
from weft.contracts.connections import CONTROL_SIDE, RELATED, Carried, Half, Logged
from weft.contracts.dataplane import DataPlane
from weft.dataplane.ebpf import build
from weft.kit.errors import Rejected
from weft.policy.connections import State
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


def arriving(policy: Policy) -> Policy:
    """The client's port is on its way here."""
    port = {row.key: row for row in policy.rows}["ports", WEB1_PORT]
    assert isinstance(port, Port)
    return replace(policy, rows=(*(row for row in policy.rows if row.key != port.key), replace(port, arriving=True)))


def without_times(found: Iterable[tuple[bytes, Carried]]) -> dict[tuple[object, ...], Carried]:
    return {of[:6]: of._replace(left_ms=0, age_ms=0) for _, of in found}


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
