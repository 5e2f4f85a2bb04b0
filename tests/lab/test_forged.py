"""What a guest or somebody on the underlay forges is dropped for a named reason, and reaches nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet

from lab.scenes import (
    RED_WEB,
    UPLINK,
    WEB,
    address,
    between,
    dropped,
    drops,
    fabric_wire,
    guest_wire,
    heard,
    outer,
    received,
)
from polling import eventually
from weft.lab.lab import Lab
from weft.lab.plan import Guest

STRANGER = "02:de:ad:be:ef:01"
FORGED = b"forged"
Forger = Callable[[Guest, Guest], Packet | bytes]


def ether(guest: Guest, peer: Guest, payload: Packet, source: str | None = None) -> Packet:
    return Ether(src=source or guest.mac, dst=peer.mac) / payload


FROM_GUESTS: dict[str, tuple[str, Forger]] = {
    "a source MAC that is not the port's": (
        "spoofed_mac", lambda g, p: ether(g, p, IP(src=address(g), dst=address(p)) / UDP() / FORGED, STRANGER),
    ),
    "a source CA that is not the port's": (
        "spoofed_ca", lambda g, p: ether(g, p, IP(src="10.0.0.99", dst=address(p)) / UDP() / FORGED),
    ),
    "the source CA of another port": (
        "spoofed_ca", lambda g, p: ether(g, p, IP(src="10.0.0.12", dst=address(p)) / UDP() / FORGED),
    ),
    "an IPv6 source that is not the port's": (
        "spoofed_ca", lambda g, p: ether(g, p, IPv6(src="fd00:0:0:a::99", dst=address(p, 6)) / UDP() / FORGED),
    ),
    "an ARP reply for another's address": (
        "spoofed_ca", lambda g, p: ether(g, p, ARP(op=2, hwsrc=g.mac, psrc="10.0.0.12", pdst=address(p), hwdst=p.mac)),
    ),
    "an ARP sender MAC that is not the frame's": (
        "spoofed_mac", lambda g, p: ether(g, p, ARP(op=1, hwsrc=STRANGER, psrc=address(g), pdst=address(p))),
    ),
    "a neighbour advertisement of another's address": (
        "spoofed_ca",
        lambda g, p: ether(g, p, IPv6(src=address(g, 6), dst=address(p, 6), hlim=255)
                           / ICMPv6ND_NA(tgt=address(p, 6)) / ICMPv6NDOptDstLLAddr(lladdr=g.mac)),
    ),
    "an IEEE 802.1Q tag": (
        "vlan_tag",
        lambda g, p: ether(g, p, Dot1Q(vlan=7) / IP(src=address(g), dst=address(p)) / UDP() / FORGED),
    ),
    "an ethertype that is not carried": (
        "ethertype", lambda g, p: bytes(Ether(src=g.mac, dst=p.mac, type=0x88CC)) + FORGED * 10,
    ),
    "an IPv4 header that is cut short": (
        "truncated", lambda g, p: bytes(ether(g, p, IP(src=address(g), dst=address(p)) / UDP()))[:24],
    ),
    "an IPv4 total length beyond the frame": (
        "truncated", lambda g, p: ether(g, p, IP(src=address(g), dst=address(p), len=1400) / UDP() / FORGED),
    ),
    "an IPv4 header length under 20": (
        "malformed", lambda g, p: ether(g, p, IP(src=address(g), dst=address(p), ihl=4, len=40) / UDP() / FORGED),
    ),
    "one machine's address to a group's MAC": (
        "multicast",
        lambda g, p: Ether(src=g.mac, dst="01:00:5e:00:00:fb") / IP(src=address(g), dst=address(p)) / UDP() / FORGED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FROM_GUESTS)
def test_a_guest_that_sends(lab: Lab, what: str) -> None:
    reason, forge = FROM_GUESTS[what]
    guest, peer, neighbour = lab.guest("blue/web-1"), lab.guest("blue/web-2"), lab.guest("blue/web-3")
    with guest_wire(guest) as wire, guest_wire(peer) as there, guest_wire(neighbour) as beside:
        with dropped(lab, "h1", guest.port, reason):
            wire.send(bytes(forge(guest, peer)))
        assert not heard(there, FORGED, within_s=0.05)
        assert not heard(beside, FORGED, within_s=0.05)


def test_the_controller_knows_what_hosts_drop(lab: Lab) -> None:
    guest = lab.guest("blue/web-1")

    def told() -> int:
        with lab.client() as client:
            return int(client.get("hosts/h1").status["drops"].get("spoofed_mac", 0))

    before = told()
    with guest_wire(guest) as wire:
        wire.send(bytes(Ether(src=STRANGER, dst=lab.guest("blue/web-2").mac) / IP(src="10.0.0.10") / UDP()))
    eventually(lambda: told() > before, "the controller hears of the drop")


def test_what_is_not_forged_arrives(lab: Lab) -> None:
    """The counterpart of all of the above: the same way, with nothing wrong."""
    guest, peer = lab.guest("blue/web-1"), lab.guest("blue/web-2")
    with guest_wire(guest) as wire, guest_wire(peer) as there:
        wire.send(bytes(between(guest, peer, mark=b"honest")))
        assert heard(there, b"honest")


def inner(lab: Lab, mark: bytes = FORGED) -> Packet:
    """blue/web-1 on h1 to blue/web-2 on h2."""
    return between(lab.guest("blue/web-1"), lab.guest("blue/web-2"), mark=mark)


def pa(lab: Lab, host: str) -> str:
    return lab.spec.host(host).pa


#: UDP: from and to this port agents ask each other whether and how large packets get through.
PROBES = 22342


def to_h2(lab: Lab, frame: Packet | bytes, source: str = "h1", vsid: int = WEB, **fields: object) -> bytes:
    """NVGRE that h2 gets, all right by default. fields: of the outer IPv4 header."""
    return outer(lab, "h2", pa(lab, source), vsid, frame, **fields)


def changed(lab: Lab, payload: Packet, source: str = "blue/web-1", to: str = "") -> Packet:
    """An inner frame between the usual two, of another payload, source or destination."""
    return Ether(src=lab.guest(source).mac, dst=to or lab.guest("blue/web-2").mac) / payload


TO_H2: dict[str, tuple[str, Callable[[Lab], bytes]]] = {
    "from a PA that is not the inner source's": ("forged_source", lambda lab: to_h2(lab, inner(lab), "h3")),
    "from no PA at all": ("forged_source", lambda lab: outer(lab, "h2", "203.0.113.7", WEB, inner(lab))),
    "of an inner source that nobody has": (
        "forged_source",
        lambda lab: to_h2(lab, Ether(src=STRANGER, dst=lab.guest("blue/web-2").mac)
                          / IP(src="10.0.0.99", dst="10.0.0.11") / UDP() / FORGED),
    ),
    "with the VSID of the other tenant": (
        "vsid_acl",  # red/web-2 has the inner source, at h3's PA; blue's MAC is no port of red's subnet
        lambda lab: to_h2(lab, changed(lab, IP(src="10.0.0.11", dst="10.0.0.10") / UDP() / FORGED, "red/web-2"),
                          "h3", RED_WEB),
    ),
    "with a VSID that is nobody's": ("unknown_vsid", lambda lab: to_h2(lab, inner(lab), vsid=7777)),
    "with VSID 4095": ("reserved_vsid", lambda lab: to_h2(lab, inner(lab), vsid=4095)),
    "with VSID 0": ("reserved_vsid", lambda lab: to_h2(lab, inner(lab), vsid=0)),
    "with VSID 16777215": ("reserved_vsid", lambda lab: to_h2(lab, inner(lab), vsid=0xFFFFFF)),
    "to a MAC that no port has": ("vsid_acl", lambda lab: to_h2(lab, changed(lab, inner(lab)[IP], to=STRANGER))),
    "with an inner 802.1Q tag": ("vlan_tag", lambda lab: to_h2(lab, changed(lab, Dot1Q(vlan=3) / inner(lab)[IP]))),
    "with an inner ARP": ("ethertype", lambda lab: to_h2(lab, changed(lab, ARP(psrc="10.0.0.10")))),
    "with an inner MAC of a group for one machine": (
        "multicast", lambda lab: to_h2(lab, changed(lab, inner(lab)[IP], to="01:00:5e:00:00:fb")),
    ),
    "with an inner frame of 10 bytes": ("truncated", lambda lab: to_h2(lab, bytes(inner(lab))[:10])),
    "with an inner header cut short": ("truncated", lambda lab: to_h2(lab, bytes(inner(lab))[:30])),
    "in a fragment": ("outer_fragment", lambda lab: to_h2(lab, inner(lab), flags="MF")),
    "with a wrong outer checksum": ("outer_malformed", lambda lab: to_h2(lab, inner(lab), chksum=1)),
}  # fmt: skip


@pytest.mark.parametrize("what", TO_H2)
def test_nvgre(lab: Lab, what: str) -> None:
    reason, forge = TO_H2[what]
    with fabric_wire(lab, "h2") as wire, guest_wire(lab.guest("blue/web-2")) as there:
        with dropped(lab, "h2", UPLINK, reason):
            wire.send(forge(lab))
        assert not heard(there, FORGED, within_s=0.05)


def test_nvgre_that_is_right_is_delivered_from_the_fabric_too(lab: Lab) -> None:
    """So the drops above are for what was forged, and not for the way it came."""
    with fabric_wire(lab, "h2") as wire, guest_wire(lab.guest("blue/web-2")) as there:
        wire.send(outer(lab, "h2", pa(lab, "h1"), WEB, inner(lab, b"honest")))
        assert heard(there, b"honest")


def test_other_gre_is_left_to_the_hosts_own_stack_and_not_counted(lab: Lab) -> None:
    before = (received(lab, "h2", UPLINK), drops(lab, "h2", UPLINK))
    plain = outer(lab, "h2", pa(lab, "h1"), WEB, inner(lab, b"plain gre"))
    packet = Ether(plain)
    without_key = packet.copy()
    without_key[GRE].key_present = 0
    without_key[GRE].key = None
    with fabric_wire(lab, "h2") as wire, guest_wire(lab.guest("blue/web-2")) as there:
        wire.send(bytes(without_key))
        assert not heard(there, b"plain gre", within_s=0.2)
    assert (received(lab, "h2", UPLINK), drops(lab, "h2", UPLINK)) == before


def test_nvgre_in_a_vlan_is_of_another_network_and_not_taken(lab: Lab) -> None:
    before = (received(lab, "h2", UPLINK), drops(lab, "h2", UPLINK))
    plain = Ether(to_h2(lab, inner(lab)))
    tagged = Ether(src=plain.src, dst=plain.dst) / Dot1Q(vlan=5) / plain[IP]
    with fabric_wire(lab, "h2") as wire, guest_wire(lab.guest("blue/web-2")) as there:
        wire.send(bytes(tagged))
        assert not heard(there, FORGED, within_s=0.2)
    assert (received(lab, "h2", UPLINK), drops(lab, "h2", UPLINK)) == before


@pytest.mark.parametrize("what", ["a probe", "a tunnelled packet"])
def test_icmp_about_what_a_host_has_sent_harms_nobody_when_it_is_forged(lab: Lab, what: str) -> None:
    """Whoever can send to a host's PA says that the way to another takes 600 bytes, and the host's kernel believes it.
    Probes that come back say otherwise, and guests' packets are held to what probes say.
    """
    source, target = pa(lab, "h1"), pa(lab, "h2")
    sent = IP(src=source, dst=target, flags="DF") / UDP(sport=PROBES, dport=PROBES, len=1400) / b"Weft"
    if what != "a probe":
        whole = Ether(to_h2(lab, inner(lab)))[IP]
        sent = whole.__class__(bytes(whole)[:48])
    told = IP(src="203.0.113.7", dst=source) / ICMP(type=3, code=4, nexthopmtu=600) / bytes(sent)
    outer_frame = Ether(outer(lab, "h1", target, WEB, b""))

    def size_is_known() -> bool:
        found = lab.ask_agent("h1", "GET", "/status")["ways"]
        return any(each["destination"] == target and each["mtu_bytes"] for each in found)

    eventually(size_is_known, "probes have found what the path takes")
    with fabric_wire(lab, "h1") as wire:
        guest, size = "blue/web-1", str(lab.guest("blue/web-1").mtu_bytes - 28)
        for _ in range(15):
            wire.send(bytes(Ether(src=outer_frame.src, dst=outer_frame.dst) / told))
            done = lab.exec(
                guest,
                "ping",
                "-c",
                "3",
                "-i",
                "0.05",
                "-M",
                "do",
                "-s",
                size,
                "-W",
                "2",
                address(lab.guest("blue/web-2")),
            )
            assert "3 received" in done.stdout, done.stdout
