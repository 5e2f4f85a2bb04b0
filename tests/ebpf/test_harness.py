"""The harness itself: a frame goes in, a verdict comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpf.harness import harness
from ebpf.rows import ARP_A, HOST, MAC_B, POLICY, A, B
from weft.policy.drop import DropReason

pytestmark = pytest.mark.root


def test_a_bound_port_gets_its_arp_answer_and_an_unbound_interface_nothing(weft_object: Path) -> None:
    with harness(weft_object) as h:
        port0, port1 = h.netns.ifindex("port0"), h.netns.ifindex("port1")
        assert h.plane.update([HOST, *POLICY]) == []
        assert h.run("weft_from_port", ARP_A, port0).target == DropReason.PORT_UNBOUND
        assert h.plane.bind({A: "port0", B: "port1"}) == []
        answered = h.run("weft_from_port", ARP_A, port0)
        assert answered.verdict == 3
        assert answered.data[6:12].hex(":") == MAC_B
        assert h.run("weft_from_port", ARP_A, port1).target == DropReason.PORT_DOWN
        counted = h.plane.counters()
        assert counted[A].sent_packets == 1
        assert counted[B].drops == {DropReason.PORT_DOWN: 1}
        assert counted["unbound"].drops == {DropReason.PORT_UNBOUND: 1}
