"""Ports with security groups on the reference, and on the eBPF data plane as on the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ebpf.driver import EbpfDriver, ebpf_driver
from packets import build as b
from packets.guarding import (
    CLIENTS,
    FIREWALL,
    FIRST,
    SCENES,
    SECOND,
    SERVERS,
    TAPS,
    WEB1_PORT,
    WEB2_PORT,
    Scene,
    guarded,
    talk,
)
from packets.policy import BINDINGS, UPLINK, Policy
from weft.contracts.connections import Logged
from weft.dataplane.ebpf import build
from weft.policy.rows import Direction
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Verdict

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
    for rank, exchange in enumerate(scene.exchanges):
        policy = exchange.policy or (scene.policy if rank == 0 else None)
        if policy is not None:
            reference.load(policy)
            driver.load(policy)
            hits = {name: driver.plane.hits()[name] - count for name, count in reference.plane.hits().items()}
        expected = reference.inject(exchange.interface, exchange.frame)
        assert driver.inject(exchange.interface, exchange.frame) == expected, rank
        counted = reference.plane.hits()
        assert {name: driver.plane.hits()[name] - before for name, before in hits.items()} == counted, rank
        assert getattr(expected, "reason", None) == exchange.dropped


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
