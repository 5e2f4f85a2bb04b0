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
    GUARDED,
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
from weft.contracts.connections import Carried, Logged
from weft.contracts.dataplane import DataPlane
from weft.dataplane.ebpf import build
from weft.kit.errors import Rejected
from weft.policy.connections import State
from weft.policy.rows import Direction, Port
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Verdict
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
        for wrong in (good._replace(state=0), good._replace(state=99), good._replace(local=b"abc")):
            with pytest.raises(Rejected):
                plane.take(WEB1_PORT, [wrong])


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
