"""Ports with security groups on the reference, and on the eBPF data plane as on the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ebpf.driver import EbpfDriver, ebpf_driver
from packets.guarding import SCENES, Scene
from packets.policy import BINDINGS, UPLINK, Policy
from weft.dataplane.ebpf import build
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
