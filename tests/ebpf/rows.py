"""A small policy that tests of the data plane share: one subnet, a local and a remote port."""

from __future__ import annotations

from weft.policy.rows import Host, MacRecord, Pair, Port, Record, Route, Row, Subnet, Uplink

RDID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
A, B = "tenants/t/ports/a", "tenants/t/ports/b"
MAC_A, MAC_B = "02:00:00:00:00:02", "02:00:00:00:00:03"
HOST = Host("hosts/h1", ("192.0.2.1", "2001:db8::1"), (Uplink("up0", 1500),))
SUBNET = Subnet(5000, RDID, ("10.0.0.0/24", "fd00:1::/64"), ("10.0.0.1", "fd00:1::1"), "02:57:45:46:54:01", 1400)
PORT_A = Port(A, 5000, MAC_A, ("10.0.0.2", "fd00:1::2"), (Pair("02:00:00:00:00:99", "10.0.9.0/24"),))
PORT_B = Port(B, 5000, MAC_B, ("10.0.0.3",), (), enabled=False)

#: In the tables' order. HOST is not among them, so that no uplink is needed.
POLICY: tuple[Row, ...] = (
    SUBNET,
    Record(5000, "10.0.0.2", "192.0.2.1", MAC_A),
    Record(5000, "fd00:1::2", "192.0.2.1", MAC_A),
    Record(5000, "10.0.0.3", "192.0.2.1", MAC_B),
    Record(5000, "10.0.0.4", "192.0.2.2", "02:00:00:00:00:04"),
    MacRecord(5000, MAC_A, "192.0.2.1"),
    MacRecord(5000, MAC_B, "192.0.2.1"),
    Route(RDID, "10.0.0.0/24", 5000),
    Route(RDID, "fd00:1::/64", 5000),
    Route(RDID, "0.0.0.0/0", 5000, "10.0.0.4"),
    PORT_A,
    PORT_B,
)
KEYS = {row.key for row in POLICY}

#: From A to B's address: ARP, answered when A's port is open.
ARP_A = bytes.fromhex("ffffffffffff 020000000002 0806 0001080006040001 020000000002 0a000002 000000000000 0a000003")
