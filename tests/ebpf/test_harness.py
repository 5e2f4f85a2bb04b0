"""The harness itself: a frame goes in, a verdict comes out."""

from __future__ import annotations

from pathlib import Path

from ebpf.harness import harness
from weft.policy.drop import DropReason
from weft.policy.rows import Host, MacRecord, Port, Record, Route, Subnet, Uplink

RDID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
ROWS = (
    Host("hosts/h1", ("192.0.2.1",), (Uplink("up0", 1500),)),
    Subnet(5000, RDID, ("10.0.0.0/24",), ("10.0.0.1",), "02:57:45:46:54:01", 0),
    Record(5000, "10.0.0.2", "192.0.2.1", "02:00:00:00:00:02"),
    Record(5000, "10.0.0.3", "192.0.2.1", "02:00:00:00:00:03"),
    MacRecord(5000, "02:00:00:00:00:02", "192.0.2.1"),
    Route(RDID, "10.0.0.0/24", 5000),
    Port("tenants/t/ports/a", 5000, "02:00:00:00:00:02", ("10.0.0.2",)),
    Port("tenants/t/ports/b", 5000, "02:00:00:00:00:03", ("10.0.0.3",)),
)
ARP_REQUEST = bytes.fromhex("ffffffffffff020000000002080600010800060400010200000000020a0000020000000000000a000003")


def test_a_bound_port_gets_its_arp_answer_and_an_unbound_interface_nothing(weft_object: Path) -> None:
    with harness(weft_object) as h:
        port0, port1 = h.netns.ifindex("port0"), h.netns.ifindex("port1")
        assert h.plane.update(ROWS) == []
        assert h.run("weft_from_port", ARP_REQUEST, port0).target == DropReason.PORT_UNBOUND
        assert h.plane.bind({"tenants/t/ports/a": "port0", "tenants/t/ports/b": "port1"}) == []
        answered = h.run("weft_from_port", ARP_REQUEST, port0)
        assert answered.verdict == 3
        assert answered.data[6:12] == bytes.fromhex("020000000003")
        assert h.run("weft_from_port", ARP_REQUEST, port1).target == DropReason.SPOOFED_MAC
        assert list(h.plane.read()) == list(ROWS)
        assert h.plane.counters()["tenants/t/ports/a"].sent_packets == 1
        assert h.plane.repair() == 0
