"""A guest that attacks: what it sends is dropped with a reason and counted, and its neighbours' traffic goes on.

The attacker is another tenant's guest on the same host as one end of the neighbours' stream, or is in the underlay.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.scenes import ROUTER_MAC, UPLINK, address, connected, drops, gateway
from lab.test_forged import TO_H2
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest

ATTACKER, CLIENT, SERVER = "red/web-1", "blue/web-1", "blue/web-2"
BROADCAST = "ff:ff:ff:ff:ff:ff"

#: As fast as its socket takes them, until it is ended; in batches, or frames would wait for the interpreter.
FLOOD = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((sys.argv[1], 0))
frame = bytes.fromhex(sys.argv[2])
while True:
    try:
        wire.send(frame)
    except OSError:
        pass
"""

#: Sends back whatever it receives, as a bridge of the guest's own with a loop in it would.
REFLECT = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 3))
wire.send(bytes.fromhex(sys.argv[2]))
while True:
    frame, where = wire.recvfrom(65535)
    if where[2] != socket.PACKET_OUTGOING:
        wire.send(frame)
"""


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
}


@contextlib.contextmanager
def attack(namespace: str, program: str, frame: bytes, interface: str = plan.GUEST_INTERFACE) -> Iterator[None]:
    words = [sys.executable, "-c", program, interface, frame.hex()]
    with subprocess.Popen(shell.inside(namespace, words)) as running:
        try:
            yield
        finally:
            running.kill()


def throughput(lab: Lab, seconds: float = 0.4) -> float:
    """Bytes a second of one TCP stream between the neighbours."""
    source, target = lab.guest(CLIENT), lab.guest(SERVER)
    block, came = bytes(65_536), 0
    with connected(lab, source.namespace, target.namespace, address(target)) as (client, server):
        client.setblocking(False)
        end = (start := time.monotonic()) + seconds
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                client.send(block)
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                came += len(server.recv(1 << 20))
        return came / (time.monotonic() - start)


@pytest.mark.parametrize("what", ATTACKS)
def test_a_neighbours_throughput_under_attack(lab: Lab, what: str) -> None:
    made, reason = ATTACKS[what]
    attacker = lab.guest(ATTACKER)
    before = drops(lab, "h1", attacker.port)
    quiet = throughput(lab)
    with attack(attacker.namespace, FLOOD, bytes(made(attacker))):
        if reason is not None:
            eventually(
                lambda: drops(lab, "h1", attacker.port).get(reason, 0) > before.get(reason, 0) + 100,
                f"{what} dropped as {reason}; there is {drops(lab, 'h1', attacker.port)}",
            )
        unharmed(lab, quiet)


def unharmed(lab: Lab, quiet: float) -> None:
    """The neighbours, of whom this much came through before."""
    under = throughput(lab)
    done = lab.exec(CLIENT, "ping", "-c", "10", "-i", "0.02", "-W", "2", address(lab.guest(SERVER)))
    assert "10 received" in done.stdout, done.stdout
    # The attacker's own sending takes one of the machine's CPUs; what is left is shared with the rest of the lab.
    assert under > quiet / 10, f"{under:,.0f} of {quiet:,.0f} bytes/s"


@pytest.mark.parametrize("what", TO_H2)
def test_neighbours_throughput_while_somebody_forges_packets_in_the_underlay(lab: Lab, what: str) -> None:
    reason, forge = TO_H2[what]
    before = drops(lab, "h2", UPLINK).get(reason, 0)
    quiet = throughput(lab)
    number = [each.name for each in lab.spec.hosts].index("h2") + 1
    with attack(plan.fabric_namespace(lab.spec.name), FLOOD, forge(lab), f"host{number}"):
        eventually(lambda: drops(lab, "h2", UPLINK).get(reason, 0) > before + 100, f"dropped as {reason}")
        unharmed(lab, quiet)


def test_a_guest_that_sends_back_what_it_receives_makes_no_loop(lab: Lab) -> None:
    attacker = lab.guest(ATTACKER)
    before = drops(lab, "h1", attacker.port).get("spoofed_mac", 0)
    ask = Ether(src=attacker.mac, dst=BROADCAST) / ARP(
        hwsrc=attacker.mac, psrc=address(attacker), pdst=gateway(attacker)
    )
    quiet = throughput(lab)
    with attack(attacker.namespace, REFLECT, bytes(ask)):
        eventually(lambda: drops(lab, "h1", attacker.port).get("spoofed_mac", 0) > before, "the answer, sent back")
        unharmed(lab, quiet)
    assert drops(lab, "h1", attacker.port)["spoofed_mac"] - before < 100, "each is dropped once, and not answered"
