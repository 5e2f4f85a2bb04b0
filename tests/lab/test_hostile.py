"""A guest that attacks: what it sends is dropped with a reason and counted, and its neighbours' traffic goes on.

The attacker is another tenant's guest on the same host as one end of the neighbours' stream, or is in the underlay.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Solicit, DHCP6OptClientId
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.neighbours import FLOOD, REFLECT, Neighbours, attack
from lab.scenes import ROUTER_MAC, UPLINK, address, drops, gateway, guest_wire, received
from lab.test_forged import TO_H2
from polling import eventually
from weft.lab import plan
from weft.lab.lab import Lab
from weft.lab.plan import Guest

ATTACKER, CLIENT, SERVER = "red/web-1", "blue/web-1", "blue/web-2"
BROADCAST = "ff:ff:ff:ff:ff:ff"
#: Of what is sent, before it is looked whether neighbours are harmed.
FELT = 100


def ip(me: Guest, to: str = "10.0.0.11", **fields: object) -> Packet:
    return IP(**{"src": address(me), "dst": to, **fields})


#: What it is -> the frame, and the reason that it is dropped for; none: it is answered, or carried.
ATTACKS: dict[str, tuple[Callable[[Guest], Packet | bytes], str | None]] = {
    "a header cut short": (lambda me: bytes(Ether(src=me.mac, dst=ROUTER_MAC) / ip(me))[:30], "truncated"),
    "a length that lies": (
        lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, len=9000) / UDP() / bytes(20),
        "truncated",
    ),
    "a header that contradicts itself": (lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, ihl=3), "malformed"),
    "a VLAN tag": (lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / Dot1Q(vlan=5) / ip(me) / UDP(), "vlan_tag"),
    "another's MAC": (lambda me: Ether(src="02:00:00:66:66:66", dst=ROUTER_MAC) / ip(me) / UDP(), "spoofed_mac"),
    "another's address": (lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, src="10.0.0.12") / UDP(), "spoofed_ca"),
    "broadcast": (lambda me: Ether(src=me.mac, dst=BROADCAST) / ip(me, "255.255.255.255") / UDP(), "flood_limit"),
    "multicast": (
        lambda me: Ether(src=me.mac, dst="01:00:5e:00:00:12") / ip(me, "224.0.0.18", proto=112) / Raw(bytes(20)),
        "flood_limit",
    ),
    "IGMP": (
        lambda me: (
            Ether(src=me.mac, dst="01:00:5e:01:02:03")
            / ip(me, "239.1.2.3", ttl=1, proto=2)
            / Raw(bytes.fromhex("1600fafb ef010203"))
        ),
        "upcall_limit",
    ),
    "ARP for nobody": (
        lambda me: Ether(src=me.mac, dst=BROADCAST) / ARP(hwsrc=me.mac, psrc=address(me), pdst="10.0.0.222"),
        "no_record",
    ),
    "gratuitous ARP": (
        lambda me: Ether(src=me.mac, dst=BROADCAST) / ARP(hwsrc=me.mac, psrc=address(me), pdst=address(me)),
        "announcement",
    ),
    "neighbour solicitations with options of no length": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:ff:00:00:01")
            / IPv6(src=address(me, 6), dst="ff02::1:ff00:1", hlim=255)
            / ICMPv6ND_NS(tgt=gateway(me, 6))
            / Raw(b"\x01\x00" + bytes(6))
        ),
        "malformed",
    ),
    "router advertisements": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:00:00:00:01")
            / IPv6(src=address(me, 6), dst="ff02::1", hlim=255)
            / ICMPv6ND_RA()
        ),
        "guest_server",
    ),
    "DHCP as a server sends it": (
        lambda me: (
            Ether(src=me.mac, dst=BROADCAST) / ip(me, "255.255.255.255") / UDP(sport=67, dport=68) / Raw(bytes(240))
        ),
        "guest_server",
    ),
    "addresses that nobody has": (
        lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, "10.0.1.222") / UDP(),
        "no_record",
    ),
    "pings of the gateway": (
        lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, gateway(me)) / Raw(bytes.fromhex("0800f7ff00000000")),
        None,
    ),
    "DHCP questions": (
        lambda me: (
            Ether(src=me.mac, dst=BROADCAST)
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / BOOTP(chaddr=bytes.fromhex(me.mac.replace(":", "")), xid=1)
            / DHCP(options=[("message-type", "discover"), "end"])
        ),
        "upcall_limit",
    ),
    "DHCPv6 questions": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:00:01:00:02")
            / IPv6(src=address(me, 6), dst="ff02::1:2", hlim=1)
            / UDP(sport=546, dport=547)
            / DHCP6_Solicit(trid=1)
            / DHCP6OptClientId(duid=bytes.fromhex("00030001" + me.mac.replace(":", "")))
        ),
        "upcall_limit",
    ),
    "router solicitations": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:00:00:00:02")
            / IPv6(src=address(me, 6), dst="ff02::2", hlim=255)
            / ICMPv6ND_RS()
        ),
        "upcall_limit",
    ),
    "redirects": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:00:00:00:01")
            / IPv6(src=address(me, 6), dst="ff02::1", hlim=255)
            / ICMPv6ND_Redirect()
        ),
        "announcement",
    ),
    "neighbour discovery behind options that nobody knows": (
        lambda me: (
            Ether(src=me.mac, dst="33:33:00:00:00:01")
            / IPv6(src=address(me, 6), dst="ff02::1", hlim=255)
            / IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=0xC9, optdata=bytes(4))])
            / ICMPv6ND_NS(tgt=gateway(me, 6))
        ),
        "malformed",
    ),
    "bits that are reserved, and options that nobody knows": (
        lambda me: (
            Ether(src=me.mac, dst=ROUTER_MAC)
            / ip(me, "10.0.1.222", flags="evil", options=IPOption(bytes.fromhex("9e080102030405069f020100")))
            / TCP(flags=0xFFF, reserved=7, options=[(254, bytes(10))])
        ),
        "no_record",
    ),
    "an Ethernet type that nobody knows": (
        lambda me: Ether(src=me.mac, dst=ROUTER_MAC, type=0x88B5) / Raw(bytes(60)),
        "ethertype",
    ),
    "fragments of nothing": (
        lambda me: Ether(src=me.mac, dst=ROUTER_MAC) / ip(me, "10.0.1.222", frag=1, proto=17) / Raw(bytes(32)),
        "no_record",
    ),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_a_neighbours_throughput_under_attack(lab: Lab, what: str) -> None:
    made, reason = ATTACKS[what]
    attacker = lab.guest(ATTACKER)
    before = drops(lab, "h1", attacker.port), received(lab, "h1", attacker.port)

    def felt() -> None:
        def so_far() -> int:
            if reason is None:
                return received(lab, "h1", attacker.port) - before[1]
            return drops(lab, "h1", attacker.port).get(reason, 0) - before[0].get(reason, 0)

        eventually(lambda: so_far() > FELT, f"{what}: {reason}; there is {drops(lab, 'h1', attacker.port)}")

    frame = bytes(made(attacker))
    Neighbours(lab, CLIENT, SERVER).unharmed(attacker.namespace, lambda: attack(attacker.namespace, FLOOD, frame), felt)


@pytest.mark.parametrize("what", TO_H2)
def test_neighbours_throughput_while_somebody_forges_packets_in_the_underlay(lab: Lab, what: str) -> None:
    reason, forge = TO_H2[what]
    before = drops(lab, "h2", UPLINK).get(reason, 0)
    fabric = plan.fabric_namespace(lab.spec.name)
    number = [each.name for each in lab.spec.hosts].index("h2") + 1
    frame, wire = forge(lab), f"host{number}"
    Neighbours(lab, CLIENT, SERVER).unharmed(
        fabric,
        lambda: attack(fabric, FLOOD, frame, wire),
        lambda: eventually(lambda: drops(lab, "h2", UPLINK).get(reason, 0) > before + FELT, f"dropped as {reason}"),
    )


def test_a_guest_that_sends_back_what_it_receives_makes_no_loop(lab: Lab) -> None:
    """What it is answered, and what a neighbour of its own subnet says to all."""
    attacker, speaker = lab.guest(ATTACKER), lab.guest("red/web-2")
    before = drops(lab, "h1", attacker.port).get("spoofed_mac", 0)
    ask = Ether(src=attacker.mac, dst=BROADCAST) / ARP(
        hwsrc=attacker.mac, psrc=address(attacker), pdst=gateway(attacker)
    )
    said = Ether(src=speaker.mac, dst=BROADCAST) / ip(speaker, "255.255.255.255") / UDP() / b"to all"

    def felt() -> None:
        with guest_wire(speaker) as wire:

            def comes_back() -> bool:
                wire.send(bytes(said))
                return drops(lab, "h1", attacker.port).get("spoofed_mac", 0) > before + 1

            eventually(comes_back, "the answer, sent back, and the broadcast")
            # A socket does not hear what it has sent itself.
            assert not any(b"to all" in each for each in wire.frames(lambda _: False, 0.2))

    Neighbours(lab, CLIENT, SERVER).unharmed(
        attacker.namespace, lambda: attack(attacker.namespace, REFLECT, bytes(ask)), felt
    )
    assert drops(lab, "h1", attacker.port)["spoofed_mac"] - before < 1000, "each is dropped once, and not answered"
