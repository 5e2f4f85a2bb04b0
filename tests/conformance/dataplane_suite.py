"""What every data plane keeps of the DataPlane contract. Sends no packet: the packet table does.

A data plane's own test module subclasses ``DataPlaneSuite`` and says how to make one; see test_reference_dataplane.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from weft.contracts.dataplane import DataPlane, Heard, Traffic, Wanted
from weft.model.names import Name
from weft.policy.rows import (
    TABLES,
    Host,
    Key,
    Limit,
    MacRecord,
    Mirror,
    Pair,
    Port,
    Qos,
    Record,
    Rewrite,
    Route,
    Row,
    Rule,
    Subnet,
    Uplink,
)

RDID = "0b1e0000-0000-4000-8000-000000000001"
OTHER_RDID = "7ed00000-0000-4000-8000-000000000002"
MAC, MAC_2 = "02:00:00:00:01:04", "02:00:00:00:01:05"
ROUTER = "02:57:45:46:54:01"
WEB, DB = "tenants/blue/ports/web", "tenants/blue/ports/db"


class DataPlaneSuite:
    """Tests of one data plane, fresh for each, of the host hosts/h1."""

    #: Names of two interfaces for ports and one for the uplink; a kernel's must exist.
    port_interface = "tapone"
    other_interface = "taptwo"
    uplink = "wup0"

    @pytest.fixture
    @abstractmethod
    def plane(self) -> Iterator[DataPlane]:
        """A data plane with nothing programmed, taken off again after the test."""
        raise NotImplementedError

    # What is told

    def rows(self) -> list[Row]:
        """One or two of every table, in the tables' order."""
        return [
            Host("hosts/h1", ("192.0.2.11",), (Uplink(self.uplink, 1500),)),
            Subnet(
                5001, RDID, ("10.0.1.0/24", "2001:db8:1::/64"), ("10.0.1.1", "2001:db8:1::1"), "02:57:45:46:54:01", 0
            ),
            Subnet(6001, OTHER_RDID, ("10.0.1.0/24",), ("10.0.1.1",), "02:57:45:46:54:01", 1400),
            Rewrite("192.0.2.201", 5001, "10.0.1.4"),
            Rewrite("2001:db8:a::1", 5001, "2001:db8:1::4"),
            Record(5001, "10.0.1.4", "192.0.2.11", MAC),
            Record(5001, "2001:db8:1::4", "192.0.2.11", MAC),
            Record(6001, "10.0.1.4", "192.0.2.12", MAC),
            MacRecord(5001, MAC, "192.0.2.11"),
            MacRecord(6001, MAC, "192.0.2.12"),
            Route(RDID, "10.0.1.0/24", 5001),
            Route(RDID, "0.0.0.0/0", 5001, "10.0.1.4"),
            Route(RDID, "2001:db8:1::/64", 5001),
            Route(RDID, "2001:db8:99::/48", 5001, "2001:db8:1::4"),
            Route(OTHER_RDID, "10.0.1.0/24", 6001),
            Port(
                WEB,
                5001,
                MAC,
                ("10.0.1.4", "2001:db8:1::4"),
                (Pair(MAC, "172.16.0.0/12"), Pair(MAC_2, "2001:db8::/32")),
                qos=Qos(Limit(10**6, 20_000), None, 46, None),
                sampling_rate=7,
                mirror=Mirror(Name(DB), None),
            ),
            Port(DB, 6001, MAC_2, ("10.0.1.5",), enabled=False),
        ]

    def bindings(self) -> dict[str, str]:
        return {WEB: self.port_interface, DB: self.other_interface}

    def told(self, plane: DataPlane) -> list[Row]:
        """Everything told and bound, without a fault."""
        rows = self.rows()
        assert plane.update(rows) == []
        assert plane.bind(self.bindings()) == []
        return rows

    # Update

    def test_what_was_told_is_what_is_read(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        assert by_key(plane.read()) == by_key(rows)

    def test_a_subnet_that_is_a_vlan_is_read_as_it_was_told_and_nobody_has_been_heard_there(
        self, plane: DataPlane
    ) -> None:
        vlan: dict[str, Any] = {
            "accepts": (Rule.NVGRE, Rule.VLAN),
            "vlan": 7,
            "network": "provider-networks/n",
            "bridged": True,
        }
        told = [replace(row, **vlan) for row in self.rows() if isinstance(row, Subnet)]
        assert plane.update(told) == []
        assert by_key(plane.read()) == by_key(told)
        assert plane.heard() == Heard()
        changed = [replace(row, vlan=8, external_gateway=True) for row in told]
        assert plane.update(changed) == []
        assert by_key(plane.read()) == by_key(changed)

    def test_nothing_told_is_nothing_read(self, plane: DataPlane) -> None:
        assert list(plane.read()) == []

    def test_update_is_idempotent(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        usage = plane.usage()
        assert plane.update(rows) == []
        assert by_key(plane.read()) == by_key(rows)
        assert plane.usage() == usage

    def test_an_update_of_nothing_changes_nothing(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        assert plane.update([]) == []
        assert plane.delete([]) == []
        assert by_key(plane.read()) == by_key(rows)

    def test_rows_one_at_a_time_are_as_good_as_all_at_once(self, plane: DataPlane) -> None:
        plane.bind(self.bindings())
        for row in self.rows():
            assert plane.update([row]) == []
        assert by_key(plane.read()) == by_key(self.rows())

    def test_a_row_that_changes_is_replaced(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        for old in rows:
            new = changed(old)
            assert new.key == old.key
            assert new != old
            assert plane.update([new]) == []
            assert by_key(plane.read())[old.key] == new
        assert len(list(plane.read())) == len(rows)

    def test_records_say_where_a_port_is_moving_to_until_they_do_not(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        moving = [replace(row, also="192.0.2.77") for row in rows if isinstance(row, Record | MacRecord)]
        assert plane.update(moving) == []
        assert by_key(plane.read()) == by_key(rows) | by_key(moving)
        elsewhere = [replace(row, also="192.0.2.78") for row in moving]
        assert plane.update(elsewhere) == []
        assert by_key(plane.read()) == by_key(rows) | by_key(elsewhere)
        assert plane.repair() == 0
        assert plane.update(rows) == []
        assert by_key(plane.read()) == by_key(rows)

    def test_a_port_may_move_between_subnets_and_addresses(self, plane: DataPlane) -> None:
        self.told(plane)
        moved = Port(WEB, 6001, "02:00:00:00:01:99", ("10.0.1.77",))
        assert plane.update([moved]) == []
        assert by_key(plane.read())[moved.key] == moved

    def test_two_ports_may_swap_their_macs(self, plane: DataPlane) -> None:
        web = Port(WEB, 5001, MAC, ("10.0.1.4",))
        db = Port(DB, 5001, MAC_2, ("10.0.1.5",))
        plane.update([row for row in self.rows() if not isinstance(row, Port)] + [web, db])
        plane.bind(self.bindings())
        swapped = [replace(web, mac=MAC_2), replace(db, mac=MAC)]
        assert plane.update(swapped) == []
        assert {row for row in plane.read() if isinstance(row, Port)} == set(swapped)
        assert plane.repair() == 0

    # Delete and prune

    def test_a_deleted_row_is_gone_and_no_other(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        left = by_key(rows)
        for row in reversed(rows):
            assert plane.delete([row.key]) == []
            del left[row.key]
            assert by_key(plane.read()) == left

    def test_deleting_what_is_absent_is_success(self, plane: DataPlane) -> None:
        keys = [row.key for row in self.rows()]
        assert plane.delete(keys) == []
        self.told(plane)
        assert plane.delete(keys) == []
        assert plane.delete(keys) == []
        assert list(plane.read()) == []

    def test_what_was_deleted_can_be_told_again(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        plane.delete([row.key for row in reversed(rows)])
        assert plane.update(rows) == []
        assert by_key(plane.read()) == by_key(rows)

    def test_prune_removes_what_is_not_desired(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        desired = [row for row in rows if 6001 not in row.key and DB not in row.key]
        assert plane.prune([row.key for row in desired]) == []
        assert by_key(plane.read()) == by_key(desired)

    def test_prune_of_what_is_all_desired_removes_nothing(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        assert plane.prune([row.key for row in rows]) == []
        assert by_key(plane.read()) == by_key(rows)

    def test_prune_with_nothing_desired_removes_every_row(self, plane: DataPlane) -> None:
        self.told(plane)
        assert plane.prune([]) == []
        assert list(plane.read()) == []

    def test_prune_does_not_ask_for_keys_that_were_never_told(self, plane: DataPlane) -> None:
        assert plane.prune([row.key for row in self.rows()]) == []
        assert list(plane.read()) == []

    # Failures

    @pytest.mark.parametrize("bad", range(11))
    def test_a_bad_row_is_its_own_failure_and_no_other_rows(self, plane: DataPlane, bad: int) -> None:
        rows = self.rows()
        row = garbage(self.uplink)[bad]
        plane.bind(self.bindings())
        failures = plane.update([row, *(each for each in rows if each.key != row.key)])
        assert [failure.key for failure in failures] == [row.key]
        assert failures[0].permanent
        assert failures[0].reason
        assert by_key(plane.read()) == by_key(each for each in rows if each.key != row.key)

    def test_a_bad_row_leaves_the_former_one(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        for row in (
            Record(5001, "10.0.1.4", "here", MAC),
            MacRecord(5001, MAC, "1.2.3"),
            Route(RDID, "10.0.1.0/24", 5001, "there"),
        ):
            assert [failure.key for failure in plane.update([row])] == [row.key]
        assert by_key(plane.read()) == by_key(rows)

    # Bindings

    def test_a_port_is_read_only_when_bound(self, plane: DataPlane) -> None:
        plane.update(self.rows())
        assert ports(plane) == set()
        plane.bind({WEB: self.port_interface})
        assert ports(plane) == {WEB}
        plane.bind({})
        assert ports(plane) == set()
        plane.bind(self.bindings())
        assert ports(plane) == {WEB, DB}

    def test_a_binding_may_come_before_its_port(self, plane: DataPlane) -> None:
        assert plane.bind(self.bindings()) == []
        assert ports(plane) == set()
        assert set(self.bindings()) <= plane.counters().keys()
        plane.update(self.rows())
        assert ports(plane) == {WEB, DB}

    def test_a_binding_outlives_its_ports_row(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        plane.delete([("ports", WEB)])
        assert ports(plane) == {DB}
        plane.update(rows)
        assert ports(plane) == {WEB, DB}

    def test_binding_again_changes_nothing(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        assert plane.bind(self.bindings()) == []
        assert by_key(plane.read()) == by_key(rows)

    def test_interfaces_may_be_swapped(self, plane: DataPlane) -> None:
        rows = self.told(plane)
        assert plane.bind({WEB: self.other_interface, DB: self.port_interface}) == []
        assert by_key(plane.read()) == by_key(rows)
        assert plane.repair() == 0

    def test_an_interface_is_one_ports(self, plane: DataPlane) -> None:
        plane.update(self.rows())
        failures = plane.bind({WEB: self.port_interface, DB: self.port_interface})
        assert len(failures) == 1
        assert failures[0].key in {("ports", WEB), ("ports", DB)}
        assert len(ports(plane)) == 1

    # Counters and usage

    def test_every_bound_port_and_uplink_has_counters_that_start_at_zero(self, plane: DataPlane) -> None:
        self.told(plane)
        counters = plane.counters()
        for name in (WEB, DB, f"uplink:{self.uplink}"):
            assert zero(counters[name])

    def test_counters_go_with_the_binding(self, plane: DataPlane) -> None:
        self.told(plane)
        plane.bind({WEB: self.port_interface})
        assert DB not in plane.counters()
        assert WEB in plane.counters()

    def test_usage_counts_entries_by_table(self, plane: DataPlane) -> None:
        self.told(plane)
        usage = plane.usage()
        assert usage.keys() >= {"subnets", "records", "macs", "routes", "ports"}
        assert usage["subnets"][0] == 2
        assert usage["records"][0] == 3
        assert usage["macs"][0] == 2
        assert usage["routes"][0] == 5
        assert usage["ports"][0] == 2
        assert all(used <= capacity for used, capacity in usage.values())

    def test_usage_falls_when_rows_go(self, plane: DataPlane) -> None:
        self.told(plane)
        plane.prune([])
        usage = plane.usage()
        assert {usage[table][0] for table in ("subnets", "records", "macs", "routes", "ports")} == {0}

    # Repair and end

    def test_there_is_nothing_to_repair_on_an_untouched_plane(self, plane: DataPlane) -> None:
        assert plane.repair() == 0
        rows = self.told(plane)
        assert plane.repair() == 0
        plane.delete([rows[3].key, ("ports", DB)])
        assert plane.repair() == 0
        plane.bind({})
        assert plane.repair() == 0

    def test_remove_leaves_nothing_and_may_be_repeated(self, plane: DataPlane) -> None:
        self.told(plane)
        plane.remove()
        plane.remove()

    def test_what_other_hosts_want_may_be_said_at_any_time_and_any_number_of_times(self, plane: DataPlane) -> None:
        plane.bind(self.bindings())
        places = [(5001, "192.0.2.12"), (5001, "192.0.2.13"), (6001, "2001:db8:f::12")]
        said = {place: Wanted(frozenset({"239.1.2.3", "ff15::1"}), 10.0) for place in places}
        assert plane.heed({}) == []
        assert plane.heed(said) == []
        assert plane.heed(said) == []
        assert plane.heed({places[0]: Wanted(frozenset(), 10.0), places[1]: None}) == []
        assert plane.heed(dict.fromkeys([*places, (7001, "192.0.2.99")])) == []
        assert plane.heed(dict.fromkeys(places)) == []

    def test_a_plane_says_what_it_can_do(self, plane: DataPlane) -> None:
        assert plane.features


def by_key(rows: Iterable[Row]) -> dict[Key, Row]:
    return {row.key: row for row in rows}


def ports(plane: DataPlane) -> set[str]:
    return {row.port for row in plane.read() if isinstance(row, Port)}


def zero(traffic: Traffic) -> bool:
    sums = (traffic.received_packets, traffic.received_bytes, traffic.sent_packets, traffic.sent_bytes)
    return not any(sums) and not any(traffic.drops.values())


def changed(row: Row) -> Row:
    """The row of the same key, with another value."""
    changes: dict[type[Row], dict[str, Any]] = {
        Host: {"pas": ("192.0.2.99", "192.0.2.11")},
        Subnet: {"mtu_bytes": 1234, "router_mac": "02:57:45:46:54:99"},
        Rewrite: {"vsid": 5055},
        Record: {"pa": "192.0.2.99", "mac": "02:00:00:00:99:99"},
        MacRecord: {"pa": "192.0.2.99"},
        Route: {"vsid": 5055},
        Port: {"cas": ("10.0.1.99",), "enabled": True, "pairs": (Pair("02:00:00:00:77:77", "10.7.0.0/16"),)},
    }
    return replace(row, **changes[type(row)])


def garbage(uplink: str) -> list[Row]:
    """Rows that cannot be, each for one reason."""
    return [
        Host("hosts/h1", ("192.0.2.256",), (Uplink(uplink, 1500),)),
        Subnet(5001, RDID, ("10.0.1.0/24",), ("gateway",), ROUTER, 0),
        Subnet(5001, RDID, ("10.0.1.0/24",), ("10.0.1.1",), "router", 0),
        Subnet(5001, "no uuid", ("10.0.1.0/24",), ("10.0.1.1",), ROUTER, 0),
        Record(5001, "10.0.1", "192.0.2.11", MAC),
        Record(5001, "10.0.1.4", "192.0.2.11", "02:00"),
        MacRecord(5001, "zz:00:00:00:00:01", "192.0.2.11"),
        Route(RDID, "10.0.1.0/33", 5001),
        Route(RDID, "0.0.0.0/0", 5001, "nobody"),
        Port(WEB, 5001, MAC, ("10.0.1.4", "")),
        Port(WEB, 5001, MAC, ("10.0.1.4",), (Pair(MAC, "a prefix"),)),
    ]


# Peers, members and security groups are held by the data planes' own tests.
_ELSEWHERE = {"peers", "members", "address_groups", "security_groups"}
assert set(TABLES) - _ELSEWHERE == {"hosts", "subnets", "rewrites", "records", "macs", "routes", "ports"}, (
    "a new table: rows here"
)
