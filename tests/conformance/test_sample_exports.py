"""sFlow and IPFIX as tshark reads them: without a warning, and with what was put in."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from weft.agent.ipfix import Ipfix
from weft.agent.samples import DATAGRAM_BYTES, Interface
from weft.agent.sflow import Sflow
from weft.contracts.dataplane import Sample, Traffic
from weft.lab import capture
from weft.policy.drop import DropReason

FRAME4 = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.2", dst="10.0.0.3") / UDP() / bytes(60)
)
FRAME6 = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IPv6(src="fd00::2", dst="fd00::3") / UDP() / bytes(301)
)
SAMPLES = [Sample(7, 100, 1514, FRAME4[:77]), Sample(8, 1, len(FRAME6), FRAME6[:256])]
TRAFFIC = Traffic(1 << 33, 1 << 40, 5, 600, {DropReason.RATE_LIMIT: 3, DropReason.NO_ROUTE: 4})
INTERFACES = [Interface(7, "tenants/blue/ports/web-1", TRAFFIC), Interface(8, "uplink:eth0", Traffic())]
NOW_MS = 1_700_000_000_123


def decoded(file: Path, port: int, datagrams: Iterable[bytes], *fields: str) -> list[list[str]]:
    """The fields of each datagram, once tshark has found nothing to say against any."""
    frames = [
        bytes(Ether(dst="02:00:00:00:00:09") / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=port, dport=port) / one)
        for one in datagrams
    ]
    capture.write_pcap(file, frames)
    assert capture.decode(file, "-Y", "_ws.expert || _ws.malformed || _ws.short") == ""
    options = [option for field in fields for option in ("-e", field)]
    return [
        line.split("\t") for line in capture.decode(file, "-T", "fields", "-E", "separator=/t", *options).splitlines()
    ]


@pytest.mark.parametrize("agent", ["192.0.2.1", "2001:db8::1"])
def test_sflow_says_of_each_sample_where_how_often_and_how_long(tmp_path: Path, agent: str) -> None:
    [said] = decoded(
        tmp_path / "samples.pcap", 6343, Sflow(agent).samples(SAMPLES, {7: 12345, 8: 9}, 2, 1000),
        "sflow_245.version", "sflow_245.numsamples", "sflow.flow_sample.sampling_rate", "sflow.flow_sample.sample_pool",
        "sflow.flow_sample.dropped_packets", "sflow_245.header.frame_length", "ip.src", "ipv6.src",
    )  # fmt: skip
    assert said[:6] == ["5", "2", "100,1", "12345,9", "2,2", f"1514,{len(FRAME6)}"]
    assert "10.0.0.2" in said[6]
    assert "fd00::2" in said[7]


def test_sflow_says_what_interfaces_have_counted(tmp_path: Path) -> None:
    [said] = decoded(
        tmp_path / "counters.pcap", 6343, Sflow("192.0.2.1").counters(INTERFACES, 1000),
        "sflow.counters_sample.counters_type", "sflow_245.ifindex", "sflow_245.ifinoct", "sflow_245.ifindisc",
        "sflow_245.ifoutoct", "sflow_245.ifoutpkt",
    )  # fmt: skip
    assert said[1:] == ["7,8", f"{1 << 40},0", "7,0", "600,0", "5,0"]


def test_ipfix_is_understood_by_its_own_templates(tmp_path: Path) -> None:
    ipfix = Ipfix(42)
    messages = [
        *ipfix.templates([100, 1], INTERFACES, NOW_MS),
        *ipfix.samples(SAMPLES, NOW_MS),
        *ipfix.counters(INTERFACES, NOW_MS),
    ]
    said = decoded(
        tmp_path / "ipfix.pcap", 4739, messages,
        "cflow.version", "cflow.od_id", "cflow.sequence", "cflow.if_name", "cflow.sampling_probability",
        "cflow.data_link_frame_size", "cflow.inputint", "cflow.permanent_packets", "cflow.permanent_octets",
    )  # fmt: skip
    assert [line[0] for line in said] == ["10"] * 5
    assert {line[1] for line in said} == {"42"}
    assert [line[2] for line in said] == ["0", "0", "2", "4", "6"]  # data records before it
    assert said[1][4] == "1,0.01"
    assert said[2][3] == "tenants/blue/ports/web-1,uplink:eth0"
    assert said[3][5] == f"1514,{len(FRAME6)}"
    assert said[4][6:] == ["7,8", f"{1 << 33},0", f"{1 << 40},0"]


def test_many_samples_go_in_many_datagrams_and_their_numbers_go_on() -> None:
    many = SAMPLES * 100
    sflow = list(Sflow("192.0.2.1").samples(many, {}, 0, 0))
    assert max(map(len, sflow)) <= DATAGRAM_BYTES
    assert [struct.unpack_from("!I", each, 16)[0] for each in sflow] == list(range(1, len(sflow) + 1))
    ipfix = list(Ipfix(1).samples(many, NOW_MS))
    assert max(map(len, ipfix)) <= DATAGRAM_BYTES
    numbers = [struct.unpack_from("!I", each, 8)[0] for each in ipfix]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < len(many)
