"""A tenant whose many ports' guests begin and ask whatever they can takes nothing from others on its host."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.neighbours import FLOOD, attack
from lab.scenes import address, drops, guest_wire
from lab.test_ftp import FILE, client_of, files, listed  # noqa: F401 -- a fixture
from polling import eventually
from weft.lab import shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.policy.connections import OWN_OF_PORT, TENANT_LEAVES

#: Of all ports together beyond their own: a tenant has three quarters of it at most.
MOST = 400
OF_TENANT = MOST * TENANT_LEAVES // (TENANT_LEAVES + 1)
GREEDY = [f"greedy/g{number}" for number in range(4)]
#: More than is one port's own, and no more than is left.
CALM = OWN_OF_PORT + 50


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"many-ports-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CONNTRACK", f"most={MOST} udp_unreplied=3600")
        try:
            yield Lab.up(Path(__file__).parent / "many-ports.yaml", name=name)
        finally:
            Lab.down(name)


def begins(guest: Guest, connections: int) -> None:
    """As many of UDP, which nobody answers."""
    with shell.within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sends:
        sends.bind((address(guest), 20_000))
        for port in range(20_000, 20_000 + connections):
            sends.sendto(b"x", ("10.0.0.2", port))


def begun(lab: Lab, guest: Guest) -> int:
    return len(listed(lab, "h1", f"port={guest.port}"))


def discover(guest: Guest) -> bytes:
    return bytes(
        Ether(src=guest.mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(guest.mac.replace(":", "")), xid=1)
        / DHCP(options=[("message-type", "discover"), "end"])
    )


def is_offer(frame: bytes) -> bool:
    packet = Ether(frame)
    return bool(UDP in packet and packet[UDP].sport == 67)


def test_many_ports_that_flood_leave_others_their_connections_their_answers_and_their_ftp(
    lab: Lab,
    files: Path,  # noqa: F811 -- the fixture
) -> None:
    greedy, calm = [lab.guest(name) for name in GREEDY], lab.guest("calm/one")
    held = len(greedy) * OWN_OF_PORT + OF_TENANT

    def is_full() -> bool:
        for guest in greedy:
            begins(guest, MOST)
        return sum(begun(lab, guest) for guest in greedy) == held

    eventually(is_full, f"it has {held}")
    assert any(drops(lab, "h1", guest.port).get("connection_limit") for guest in greedy)

    def all_begun() -> bool:
        begins(calm, CALM)
        return begun(lab, calm) == CALM

    with ExitStack() as attacks:
        for guest in greedy:
            attacks.enter_context(attack(guest.namespace, FLOOD, discover(guest)))
        eventually(lambda: all(drops(lab, "h1", guest.port).get("upcall_limit") for guest in greedy), "they flood")
        eventually(all_begun, f"{CALM} connections of another tenant's port")
        with guest_wire(calm) as wire:

            def is_offered() -> bool:
                wire.send(discover(calm))
                return any(is_offer(frame) for frame in wire.frames(lambda found: any(map(is_offer, found)), 1.0))

            eventually(is_offered, "an answer")
        with client_of(lab) as client:
            got = io.BytesIO()
            client.retrbinary("RETR file", got.write)
            assert got.getvalue() == FILE
    assert sum(begun(lab, guest) for guest in greedy) == held
