"""The reference data plane keeps the DataPlane contract."""

from __future__ import annotations

import pytest

from conformance.dataplane_suite import MAC, WEB, DataPlaneSuite
from weft.contracts.dataplane import DataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import Host, Record, Uplink
from weft.reference.plane import UNBOUND, Drop, ReferenceDataPlane


class TestReference(DataPlaneSuite):
    @pytest.fixture
    def plane(self) -> DataPlane:  # nothing to take off again
        return ReferenceDataPlane("hosts/h1")


def test_a_full_table_is_a_failure_of_the_row_and_no_other() -> None:
    plane = ReferenceDataPlane("hosts/h1", sizes={"records": 1})
    first = Record(5001, "10.0.1.4", "192.0.2.11", MAC)
    second = Record(5001, "10.0.1.5", "192.0.2.11", MAC)
    failures = plane.update([first, second])
    assert [failure.key for failure in failures] == [second.key]
    assert "full" in failures[0].reason
    moved = Record(5001, "10.0.1.4", "192.0.2.12", MAC)
    assert plane.update([moved]) == []
    assert plane.usage()["records"] == (1, 1)


def test_a_key_of_no_table_cannot_be_deleted() -> None:
    [failure] = ReferenceDataPlane("hosts/h1").delete([("tables", "chairs")])
    assert "'tables'" in failure.reason


def test_a_row_of_another_host_is_refused() -> None:
    [failure] = ReferenceDataPlane("hosts/h1").update([Host("hosts/h2", (), ())])
    assert "hosts/h2" in failure.reason


def test_an_uplink_is_nobodys_port() -> None:
    plane = ReferenceDataPlane("hosts/h1")
    plane.update([Host("hosts/h1", ("192.0.2.11",), (Uplink("wup0", 1500),))])
    assert [failure.key for failure in plane.bind({WEB: "wup0"})] == [("ports", WEB)]


def test_a_bound_interface_is_closed_until_its_ports_row_is_there_and_again_when_it_goes() -> None:
    suite = TestReference()
    plane = ReferenceDataPlane("hosts/h1")
    plane.bind(suite.bindings())
    closed = Drop(DropReason.PORT_UNBOUND)
    frame = bytes(60)
    assert plane.from_port(suite.port_interface, frame).verdict == closed
    plane.update(suite.rows())
    assert plane.from_port(suite.port_interface, frame).verdict == Drop(DropReason.ETHERTYPE)
    plane.delete([("ports", WEB)])
    assert plane.from_port(suite.port_interface, frame).verdict == closed
    assert plane.counters()[WEB].drops == {DropReason.PORT_UNBOUND: 2, DropReason.ETHERTYPE: 1}
    plane.bind({})
    assert plane.from_port(suite.port_interface, frame).verdict == closed
    assert plane.counters()[UNBOUND].drops == {DropReason.PORT_UNBOUND: 1}


def test_counters_of_a_port_that_goes_to_another_interface_start_anew() -> None:
    suite = TestReference()
    plane = ReferenceDataPlane("hosts/h1")
    suite.told(plane)
    plane.from_port(suite.port_interface, bytes(60))
    plane.bind(suite.bindings())
    assert plane.counters()[WEB].received_packets == 1
    plane.bind({WEB: suite.other_interface})
    assert plane.counters()[WEB].received_packets == 0
