"""Rows as the reference looks them up."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from weft.kit.errors import Rejected
from weft.policy.rows import Host, MacRecord, Port, Record, Route, Row, Subnet, Uplink
from weft.reference import packet
from weft.reference.lookups import NOWHERE, Lookups

RDID = "0b1e0000-0000-4000-8000-000000000001"
OTHER = "7ed00000-0000-4000-8000-000000000002"
MAC = "02:00:00:00:01:04"
ROUTER = "02:57:45:46:54:01"

_prefixes = st.builds(
    lambda number, length: ipaddress.IPv4Network((number & (0xFFFF_FFFF << 32 - length) & 0xFFFF_FFFF, length)),
    st.integers(0, 7).map(lambda number: 0x0A000000 | number << 8),
    st.integers(0, 32),
)


@examples(60)
@given(st.lists(_prefixes, max_size=8, unique=True), st.sets(st.integers(0, 7)), st.integers(0, 0x07FF))
def test_the_longest_prefix_wins_also_after_others_went(
    prefixes: list[ipaddress.IPv4Network], gone: set[int], host: int
) -> None:
    lookups = Lookups("hosts/h1")
    for prefix in prefixes:
        lookups.put(Route(RDID, str(prefix), 5001))
    left = [prefix for index, prefix in enumerate(prefixes) if index not in gone]
    for prefix in set(prefixes) - set(left):
        lookups.remove(("routes", RDID, str(prefix)))
    address = ipaddress.IPv4Address(0x0A000000 | host)
    expected = max((prefix for prefix in left if address in prefix), key=lambda prefix: prefix.prefixlen, default=None)
    found = lookups.route(RDID, address.packed)
    assert (None if found is None else found.prefix) == (None if expected is None else str(expected))


def test_a_route_is_its_own_domains_and_its_own_familys() -> None:
    lookups = Lookups("hosts/h1")
    lookups.put(Route(RDID, "::/0", 5001))
    assert lookups.route(RDID, bytes(4)) is None
    assert lookups.route(OTHER, bytes(16)) is None
    assert lookups.route(RDID, bytes(16)) is not None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Host("hosts/h1", ("192.0.2.1",), (Uplink("wup0", 67),)), "MTU 67 of wup0 is outside 68..65535"),
        (Subnet(4095, RDID, (), (), ROUTER, 0), "VSID 4095 is outside 4096..16777214"),
        (Subnet(16_777_215, RDID, (), (), ROUTER, 0), "VSID 16777215 is outside"),
        (Subnet(5001, RDID, (), (), ROUTER, 65_536), "mtu_bytes 65536 is outside 0..65535"),
        (Subnet(5001, RDID.upper(), (), (), ROUTER, 0), "is not a UUID"),
        (Subnet(5001, RDID, ("10.0.1.1/24",), (), ROUTER, 0), "is not a prefix such as 10.0.1.0/24, host bits zero"),
        (Route(RDID, "2001:DB8::/32", 5001), "write '2001:db8::/32'"),
        (Record(5001, "10.0.1.4", "192.0.2.1", MAC, "l2tp"), "rule 'l2tp' is none of nvgre, vxlan"),
        (MacRecord(1, MAC, "192.0.2.1"), "VSID 1 is outside"),
    ],
)
def test_a_row_that_cannot_be_is_refused_and_changes_nothing(row: Row, says: str) -> None:
    lookups = Lookups("hosts/h1")
    with pytest.raises(Rejected, match=says):
        lookups.put(row)
    assert lookups.rows == {}
    assert not lookups.subnets
    assert lookups.host == NOWHERE


def test_a_mac_of_two_ports_is_found_whichever_of_them_goes() -> None:
    lookups = Lookups("hosts/h1")
    for name in ("b", "a"):
        lookups.put(Port(name, 5001, MAC, ()))
    lookups.bind({"a": "tap0", "b": "tap1"})
    mac = packet.mac_bytes(MAC)
    found = lookups.local_port(5001, mac)
    assert found is not None
    assert found.name == "a"
    lookups.remove(("ports", "a"))
    found = lookups.local_port(5001, mac)
    assert found is not None
    assert found.name == "b"
    lookups.bind({})
    assert lookups.local_port(5001, mac) is None
