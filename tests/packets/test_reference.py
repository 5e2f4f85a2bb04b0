"""The packet table on the reference data plane."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from packets.driver import run
from packets.everything import CASES
from packets.moving import MOVES
from packets.policy import UPLINK, Policy
from packets.table import NOT_BY_PACKETS, Case
from weft.contracts.dataplane import Traffic
from weft.policy.drop import DropReason
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Answer, Drop, Verdict


class ReferenceDriver:
    """The reference data plane under the table."""

    def load(self, policy: Policy) -> None:
        self._plane = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in policy.unreachable)
        assert self._plane.update(policy.rows) == []
        assert self._plane.bind(policy.bindings) == []
        assert self._plane.listen(policy.listeners) == []
        assert self._plane.heed(policy.wanted) == []
        assert self._plane.paths(policy.ways) == []

    def forget(self) -> None:
        self._plane.lookups.learned.clear()

    def inject(self, interface: str, frame: bytes) -> Verdict:
        enter = self._plane.from_uplink if interface == UPLINK else self._plane.from_port
        return enter(interface, frame).verdict

    def counters(self) -> Mapping[str, Traffic]:
        return self._plane.counters()


@pytest.mark.parametrize("case", [*CASES, *MOVES], ids=lambda case: case.name)
def test_packet(case: Case) -> None:
    driver = ReferenceDriver()
    driver.load(case.policy)
    run(driver, case)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in (*CASES, *MOVES)]
    assert sorted(set(names)) == sorted(names)


def test_every_reason_that_a_packet_can_bring_about_has_a_case() -> None:
    reasons = set()
    for case in CASES:
        match case.expected:
            case Drop(reason):
                reasons.add(reason)
            case Answer(_, dropped) if dropped is not None:
                reasons.add(dropped)
            case _:
                pass
    assert reasons == set(DropReason) - NOT_BY_PACKETS
