"""Every variant of the programs is one that the verifier takes, and takes an outer header off to the last byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw

from ebpf.rows import MAC_A, SUBNET
from weft.dataplane.ebpf import layout, libbpf, maps
from weft.dataplane.ebpf.btf import Btf
from weft.policy.rows import Host, Record, Rule

pytestmark = pytest.mark.root

PEER_MAC = "02:00:00:00:00:04"
ADDRESSES = {4: ("10.0.0.4", "10.0.0.2"), 6: ("fd00:1::4", "fd00:1::2")}
PAS = {4: ("192.0.2.2", "192.0.2.1"), 6: ("2001:db8::2", "2001:db8::1")}
LOOPBACK = 1  # of any namespace; a test run has to come in by something


@dataclass(frozen=True)
class Programs:
    maps: dict[str, libbpf.Map]
    programs: dict[str, libbpf.Program]


@pytest.fixture(scope="module", params=[0, 1], ids=["before Linux 6.3", "since"])
def variant(request: pytest.FixtureRequest, weft_object: Path) -> Iterator[Programs]:
    """Loaded, pinned nowhere. weft_decap_l3: whether the kernel has BPF_F_ADJ_ROOM_DECAP_L3_*; ours may be told no."""
    with libbpf.Object(weft_object) as opened:
        place = Btf(opened.btf()).constant("weft_decap_l3")
        assert place is not None
        opened.write_constants(place[0], request.param.to_bytes(place[1], sys.byteorder))
        loaded, programs = opened.load()
    yield Programs(loaded, programs)
    libbpf.close_all(loaded, programs)


def test_all_programs_pass_the_verifier(variant: Programs) -> None:
    assert variant.programs.keys() == set(maps.PROGRAMS)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("payload", [0, 100])  # an IPv4 datagram without payload is shorter than an IPv6 header
def test_the_outer_header_comes_off(variant: Programs, outer: int, inner: int, payload: int) -> None:
    host = Host("hosts/h1", (PAS[outer][1],), ())
    variant.maps["host"].update(layout.THE_HOST, layout.host(host, {}, layout.accepts_mask(Rule)))
    variant.maps["subnets"].update(*layout.subnet(replace(SUBNET, accepts=tuple(Rule))))
    variant.maps["records"].update(*layout.record(Record(SUBNET.vsid, ADDRESSES[inner][0], PAS[outer][0], PEER_MAC)))
    local = layout.MAC_KEY.pack(SUBNET.vsid, layout.mac(MAC_A), 0)
    variant.maps["local"].update(local, layout.LOCAL.pack(LOOPBACK, 0, layout.ENABLED, 0, 0))

    source, target = ADDRESSES[inner]
    network = IP(src=source, dst=target) if inner == 4 else IPv6(src=source, dst=target)
    frame = bytes(Ether(src=PEER_MAC, dst=MAC_A) / network / UDP(sport=1, dport=2) / bytes(payload))
    source, target = PAS[outer]
    around = IP(src=source, dst=target, proto=47) if outer == 4 else IPv6(src=source, dst=target, nh=47)
    wire = bytes(
        Ether(src=PEER_MAC, dst=MAC_A) / around / GRE(key_present=1, key=SUBNET.vsid << 8, proto=0x6558) / Raw(frame)
    )
    ran = libbpf.TestRun(variant.programs["weft_from_uplink"])(wire, LOOPBACK)
    assert (ran.context.cb[0], ran.context.cb[1]) == (1, LOOPBACK)
    assert ran.data == frame
