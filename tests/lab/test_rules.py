"""Every way that a packet may travel, and every change from one to another while it does."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from lab.neighbours import FLOOD, Neighbours, attack
from lab.scenes import (
    RULES,
    UPLINK,
    address,
    between,
    connected,
    dropped,
    drops,
    fabric_wire,
    guest_wire,
    heard,
    mac_of,
    set_rule,
)
from packets import stt, tunnels
from polling import eventually
from weft.lab import capture, plan
from weft.lab.lab import Lab
from weft.lab.traffic import Stream, udp
from weft.model.features import Rule

#: linux/udp.h, which Python's socket does not name.
UDP_SEGMENT = 103

HERE = Path(__file__).parent
CHANGING = "tenants/t/routing-domains/d/virtual-subnets/changing"
#: How tshark names each, and the field that has the VSID.
STT_PORT = (7471).to_bytes(2, "big")
#: STT looks like TCP, unless tshark is told to look twice; that tunnels go without UDP's checksum (RFC 6935), it takes
#: for an error, unless told.
AS_IT_IS = ("-o", "ip.try_heuristic_first:TRUE", "-o", "udp.ignore_ipv6_zero_checksum:TRUE")
DECODED = {
    Rule.NVGRE: ("gre", "gre.key"),
    Rule.GRE: ("gre", "gre.key"),
    Rule.VXLAN: ("vxlan", "vxlan.vni"),
    Rule.GENEVE: ("geneve", "geneve.vni"),
    Rule.STT: ("stt", "stt.context_id"),
}


@pytest.fixture(scope="module", params=["rules", "rules-six"])
def ruled(request: pytest.FixtureRequest) -> Iterator[Lab]:
    name = f"{request.param}-{os.getpid()}"
    try:
        yield Lab.up(HERE / f"{request.param}.yaml", name=name)
    finally:
        Lab.down(name)


def every_change(rules: list[Rule]) -> list[Rule]:
    """A walk that takes each ordered pair once, and ends where it began (Hierholzer)."""
    ways = {rule: [other for other in rules if other is not rule] for rule in rules}
    path, walk = [rules[0]], []
    while path:
        if onward := ways[path[-1]]:
            path.append(onward.pop())
        else:
            walk.append(path.pop())
    return walk


def test_the_walk_takes_every_ordered_pair_once() -> None:
    steps = list(pairwise(every_change(RULES)))
    assert len(steps) == len(set(steps)) == len(RULES) * (len(RULES) - 1)


def test_no_packet_is_lost_by_any_change_of_rule_while_two_streams_run(ruled: Lab) -> None:
    left, right = ruled.guest("t/left"), ruled.guest("t/right")
    walk = every_change(RULES)
    set_rule(ruled, CHANGING, walk[0])
    with Stream(left, right, address(right)) as there, Stream(right, left, address(left, 6)) as back:
        eventually(lambda: len(there.received) > 200 and len(back.received) > 200)
        for rule in walk[1:]:
            set_rule(ruled, CHANGING, rule)
            sent = there.sent
            eventually(lambda sent=sent: max(there.received) > sent + 50)
        for stream in (there, back):
            stream.stop()
            assert stream.lost <= stream.crowded_out, f"of {stream.sent} sent"


@pytest.mark.parametrize("rule", RULES)
def test_tshark_decodes_each_rule_without_a_warning_beside_a_subnet_of_another(
    ruled: Lab, rule: Rule, tmp_path: Path
) -> None:
    set_rule(ruled, CHANGING, rule)
    with fabric_wire(ruled, "h2") as wire:
        for (source, target), version in (
            (("left", "right"), 4),
            (("left", "right"), 6),
            (("here", "there"), 4),
            (("left", "there"), 4),
            (("here", "right"), 6),
        ):
            to = address(ruled.guest(f"t/{target}"), version)
            done = ruled.exec(f"t/{source}", "ping", "-c", "3", "-i", "0.05", "-W", "2", to)
            assert "3 received" in done.stdout, done.stdout
        passed = wire.frames(lambda _: False, within_s=0.2)
    expected = {(DECODED[rule][0], 7001), ("geneve", 7002)}
    if rule is Rule.STT and ":" in ruled.spec.host("h1").pa:
        # tshark knows STT over IPv4 only, and takes this for TCP. Behind Ethernet, IPv6 and TCP: 8 bytes, the context.
        stt = [frame for frame in passed if frame[20] == 6 and frame[56:58] == STT_PORT]
        assert {int.from_bytes(frame[82:90], "big") for frame in stt} == {7001}
        passed = [frame for frame in passed if frame not in stt]
        expected = {("geneve", 7002)}
    file = tmp_path / "wire.pcap"
    capture.write_pcap(file, passed)
    seen: set[tuple[str, int]] = set()
    for layers in json.loads(capture.decode(file, *AS_IT_IS, "-T", "json")):
        layers = layers["_source"]["layers"]
        for layer, field in set(DECODED.values()):
            if layer in layers:
                vsid = int(layers[layer][field], 0)
                seen.add((layer, vsid >> 8 if layer == "gre" and rule is Rule.NVGRE else vsid))
    assert seen == expected
    # Warnings and errors of tshark's own: 0x600000 and above.
    assert capture.decode(file, *AS_IT_IS, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456") == ""


@pytest.mark.parametrize("offloading", ["on", "off"])
def test_by_stt_bulk_tcp_arrives_whole(ruled: Lab, offloading: str) -> None:
    """Whether guests leave segments and checksums to a network card, as they do unless told otherwise, or not."""
    left, right = ruled.guest("t/left"), ruled.guest("t/right")
    sent = bytes(range(256)) * 4096  # 1 MiB
    set_rule(ruled, CHANGING, Rule.STT)
    offload(ruled, offloading)
    try:
        for version in (4, 6):
            with connected(ruled, left.namespace, right.namespace, address(right, version)) as (ours, theirs):
                writer = threading.Thread(target=lambda end=ours: (end.sendall(sent), end.shutdown(1)))
                writer.start()
                got = bytearray()
                while piece := theirs.recv(1 << 16):
                    got += piece
                writer.join()
            assert bytes(got) == sent
    finally:
        offload(ruled, "on")


def test_by_stt_datagrams_that_are_to_be_segmented_are_dropped_by_name(ruled: Lab) -> None:
    left, right = ruled.guest("t/left"), ruled.guest("t/right")
    set_rule(ruled, CHANGING, Rule.STT)
    with udp(left.namespace, 4) as sender, dropped(ruled, "h1", left.port, "encap_failed"):
        sender.connect((address(right), 7011))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.send(bytes(8000))


def arriving(lab: Lab, rule: Rule, vsid: int, inner: bytes, **fields: object) -> bytes:
    """What h1 would send to h2 by a rule, on the fabric's wire to h2."""
    source, to = (lab.spec.host(name).pa for name in ("h1", "h2"))
    # NVGRE's key is GRE's, of which the upper 24 bits are the VSID.
    by, key = (Rule.GRE, vsid << 8) if rule is Rule.NVGRE else (rule, vsid)
    outer = tunnels.Wire(by, 6 if ":" in to else 4)
    return to_host(lab, "h2", outer.packet(source, to, key, 0x12345678, inner, **fields))


def to_host(lab: Lab, host: str, packet: bytes) -> bytes:
    """The frame with it, on the fabric's wire to the host."""
    mac = mac_of(plan.host_namespace(lab.spec.name, host), plan.UPLINK)
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    return bytes.fromhex(mac.replace(":", "") + "020000000099") + kind + packet


TAKEN = (Rule.NVGRE, Rule.VXLAN, Rule.GENEVE)


@pytest.mark.parametrize("by", TAKEN)
def test_a_host_takes_a_subnets_packets_by_its_rule_and_by_no_other_any_more(ruled: Lab, by: Rule) -> None:
    """What another subnet travels by is dropped by name; what none travels by is left to the host's own stack."""
    left, right = ruled.guest("t/left"), ruled.guest("t/right")
    set_rule(ruled, CHANGING, next(rule for rule in RULES if rule is not by))
    set_rule(ruled, CHANGING, by)
    with fabric_wire(ruled, "h2") as wire, guest_wire(right) as there:
        for rule in TAKEN:
            mark = f"by {rule}, where it is {by}".encode()
            frame = arriving(ruled, rule, 7001, bytes(between(left, right, mark=mark)))
            if rule is by:
                wire.send(frame)
                assert heard(there, mark)
                continue
            if rule is Rule.GENEVE:  # the subnet beside it has that
                with dropped(ruled, "h2", UPLINK, "rule_not_accepted"):
                    wire.send(frame)
                assert not heard(there, mark, within_s=0.1)
                continue
            before = drops(ruled, "h2", UPLINK)
            wire.send(frame)
            assert not heard(there, mark, within_s=0.1)
            assert drops(ruled, "h2", UPLINK) == before, "nothing of ours"


#: What is wrong with Geneve: the header's first byte, its second, its protocol -> why it is dropped.
GENEVE: dict[str, tuple[bytes, str]] = {
    "an option that is unknown and critical": (b"\x01\x40\x65\x58", "critical_option"),
    "a version to come": (b"\x40\x00\x65\x58", "outer_malformed"),
    "a control packet": (b"\x00\x80\x65\x58", "outer_malformed"),
    "options beyond its end": (b"\x3f\x00\x65\x58", "outer_malformed"),
    "no Ethernet inside": (b"\x00\x00\x08\x00", "outer_malformed"),
}


@pytest.mark.parametrize("what", GENEVE)
def test_neighbours_under_a_flood_of_geneve_with(ruled: Lab, what: str) -> None:
    header, reason = GENEVE[what]
    set_rule(ruled, CHANGING, Rule.NVGRE)
    inner = bytes(between(ruled.guest("t/here"), ruled.guest("t/there")))
    # An option of four bytes, whose type says that it is critical, where there is one.
    inner = bytes.fromhex("01028000") + inner if header[0] == 1 else inner
    frame = arriving(ruled, Rule.GENEVE, 7002, inner)
    at = frame.index(bytes.fromhex("0000655800"))
    flood(ruled, frame[:at] + header + frame[at + len(header) :], reason)


#: Inner frames that nobody takes, by whatever rule -> why.
INNER = {
    "a VLAN tag": (bytes.fromhex("81000005"), "vlan_tag"),
    "two VLAN tags": (bytes.fromhex("88a8000581000005"), "vlan_tag"),
    "an Ethernet type that nobody knows": (bytes.fromhex("88b5"), "ethertype"),
}


@pytest.mark.parametrize("rule", [Rule.VXLAN, Rule.GENEVE, Rule.GRE])
@pytest.mark.parametrize("what", INNER)
def test_neighbours_under_a_flood_of_tunnelled_frames_with(ruled: Lab, rule: Rule, what: str) -> None:
    put_in, reason = INNER[what]
    set_rule(ruled, CHANGING, rule)
    inner = bytes(between(ruled.guest("t/left"), ruled.guest("t/right")))
    flood(ruled, arriving(ruled, rule, 7001, inner[:12] + put_in + inner[12:]), reason)


#: What is before the inner frame, and more of TCP's length than there is -> why it is dropped.
STT: dict[str, tuple[bytes, int, str]] = {
    "segments of frames that never come whole": (stt.header(7001), 1000, "reassembly"),
    "frames of no length": (stt.header(7001), -1000, "reassembly"),
    "a version to come": (stt.header(7001, version=1), 0, "outer_malformed"),
    "a checksum that is not there": (stt.header(7001, flags=stt.CSUM_PARTIAL, l4_at=250), 0, "outer_malformed"),
    "a tag beside the frame": (stt.header(7001, tag=0x1005), 0, "vlan_tag"),
    "a context that is no subnet's": (stt.header(7777 << 32), 0, "reserved_vsid"),
}


@pytest.mark.parametrize("what", STT)
def test_neighbours_under_a_flood_of_stt_with(ruled: Lab, what: str) -> None:
    header, more, reason = STT[what]
    set_rule(ruled, CHANGING, Rule.STT)
    body = header + bytes(between(ruled.guest("t/left"), ruled.guest("t/right")))
    source, to = (ruled.spec.host(name).pa for name in ("h1", "h2"))
    length = len(body) + more if more >= 0 else 0
    packet = stt.Wire(6 if ":" in to else 4).packet(source, to, 0x12345678, body, seq=length << 16)
    flood(ruled, to_host(ruled, "h2", packet), reason, beside=("t/here", "t/there"))


def flood(lab: Lab, frame: bytes, reason: str, beside: tuple[str, str] = ("t/left", "t/right")) -> None:
    """Guests of the subnets beside it are unharmed while h2 is sent as many of it as somebody on the fabric can."""
    fabric = plan.fabric_namespace(lab.spec.name)
    before = drops(lab, "h2", UPLINK).get(reason, 0)
    Neighbours(lab, *beside).unharmed(
        fabric,
        lambda: attack(fabric, FLOOD, frame, "host2"),
        lambda: eventually(lambda: drops(lab, "h2", UPLINK).get(reason, 0) > before + 100, f"dropped as {reason}"),
    )


def offload(lab: Lab, state: str) -> None:
    for guest in ("t/left", "t/right"):
        done = lab.exec(guest, "ethtool", "-K", "eth0", "tx", state)
        assert done.returncode == 0, done.stderr
