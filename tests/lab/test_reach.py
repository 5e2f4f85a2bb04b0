"""Who reaches whom, and that nobody else does."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from lab.scenes import ROUTER_MAC, address, dropped, gateway, guest_wire
from polling import eventually
from weft.lab import shell
from weft.lab.demo import owners_by_tenant, tenant_of
from weft.lab.lab import Lab
from weft.lab.traffic import Question, Responders, who_answers

BOTH = pytest.mark.parametrize("version", [4, 6])


@BOTH
def test_every_address_is_answered_by_the_askers_own_tenant(lab: Lab, responders: Responders, version: int) -> None:
    guests = list(lab.guests.values())
    owners = owners_by_tenant(guests, version)
    addresses = {each for owned in owners.values() for each in owned}
    questions = [
        Question(guest.namespace, each, owners[tenant_of(guest.port)].get(each))
        for guest in guests
        for each in addresses
    ]
    answers = who_answers(questions)
    wrong = [(asked, answer) for asked, answer in zip(questions, answers, strict=True) if answer != asked.expected]
    assert not wrong


@BOTH
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("blue/web-1", "blue/web-2"),  # same subnet, two hosts
        ("blue/web-1", "blue/web-3"),  # same subnet, one host
        ("blue/web-1", "blue/db-1"),  # two subnets, two hosts
        ("blue/web-1", "blue/db-2"),  # two subnets, one host
        ("red/web-1", "red/db-1"),
    ],
)
def test_guests_ping_each_other(lab: Lab, source: str, target: str, version: int) -> None:
    done = lab.exec(source, "ping", "-c", "3", "-i", "0.05", "-W", "2", address(lab.guest(target), version))
    assert "3 received" in done.stdout, done.stdout


@BOTH
@pytest.mark.parametrize("name", ["blue/web-1", "red/db-1"])
def test_the_gateway_answers_ping(lab: Lab, name: str, version: int) -> None:
    done = lab.exec(name, "ping", "-c", "2", "-i", "0.05", "-W", "2", gateway(lab.guest(name), version))
    assert "2 received" in done.stdout, done.stdout


@BOTH
def test_the_gateway_of_the_other_subnet_answers_ping(lab: Lab, version: int) -> None:
    done = lab.exec("blue/web-1", "ping", "-c", "2", "-i", "0.05", "-W", "2", gateway(lab.guest("blue/db-1"), version))
    assert "2 received" in done.stdout, done.stdout


@BOTH
def test_traceroute_shows_the_gateway_and_then_the_guest(lab: Lab, version: int) -> None:
    guest, target = lab.guest("blue/web-1"), lab.guest("blue/db-1")
    done = lab.exec(
        "blue/web-1", "traceroute", f"-{version}", "-n", "-q", "1", "-w", "2", "-m", "5", address(target, version)
    )
    hops = [line.split()[1] for line in done.stdout.splitlines()[1:]]
    assert hops == [gateway(guest, version), address(target, version)], done.stdout


@BOTH
def test_a_neighbours_mac_is_learnt_and_so_is_the_routers(lab: Lab, version: int) -> None:
    guest, peer = lab.guest("blue/web-1"), lab.guest("blue/web-2")
    shown = {}
    for target in (address(peer, version), gateway(guest, version)):
        lab.exec("blue/web-1", "ping", "-c", "1", "-W", "2", target)
        words = lab.exec("blue/web-1", "ip", "neighbour", "show", target).stdout.split()
        shown[target] = words[words.index("lladdr") + 1]
    assert shown == {address(peer, version): peer.mac, gateway(guest, version): ROUTER_MAC}


def is_arp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06"


def test_a_question_for_an_address_that_nobody_has_is_counted_and_not_flooded(lab: Lab) -> None:
    guest, peer = lab.guest("blue/web-1"), lab.guest("blue/web-3")
    question = Ether(dst="ff:ff:ff:ff:ff:ff", src=guest.mac) / ARP(
        op=1, hwsrc=guest.mac, psrc=address(guest), pdst="10.0.0.200"
    )
    with guest_wire(guest) as wire, guest_wire(peer) as other, dropped(lab, "h1", guest.port, "no_record"):
        wire.send(bytes(question))
        passed = other.frames(lambda found: any(map(is_arp, found)), within_s=0.3)  # its host may speak to it meanwhile
        assert not any(map(is_arp, passed))


def test_an_arp_question_is_answered_from_the_record(lab: Lab) -> None:
    guest, peer = lab.guest("blue/web-1"), lab.guest("blue/web-2")
    question = Ether(dst="ff:ff:ff:ff:ff:ff", src=guest.mac) / ARP(
        op=1, hwsrc=guest.mac, psrc=address(guest), pdst=address(peer)
    )
    with guest_wire(guest) as wire:
        wire.send(bytes(question))
        frames = wire.frames(lambda found: any(each[20:22] == b"\x00\x02" for each in found))
    answer = Ether(next(each for each in frames if each[12:14] == b"\x08\x06" and each[20:22] == b"\x00\x02"))
    assert (answer.dst, answer[ARP].hwsrc, answer[ARP].psrc) == (guest.mac, peer.mac, address(peer))


@pytest.mark.parametrize("to_gateway", [False, True])
def test_a_neighbour_solicitation_is_answered_with_the_router_flag_for_the_gateway_only(
    lab: Lab, to_gateway: bool
) -> None:
    guest, peer = lab.guest("blue/web-1"), lab.guest("blue/web-2")
    target = gateway(guest, 6) if to_gateway else address(peer, 6)
    lab.exec("blue/web-1", "ip", "neighbour", "flush", "dev", "eth0")
    with guest_wire(guest) as wire:
        lab.exec("blue/web-1", "ping", "-c", "1", "-W", "2", target)
        frames = wire.frames(lambda found: any(_advertised(each, target) for each in found))
    answer = next(Ether(each)[ICMPv6ND_NA] for each in frames if _advertised(each, target))
    assert answer.fields["R"] == int(to_gateway)
    assert answer.fields["S"] == answer.fields["O"] == 1


def _advertised(frame: bytes, target: str) -> bool:
    packet = Ether(frame)
    return ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt == target


def settled(lab: Lab) -> None:
    """A guest that was moved a moment ago is still asking whether its link-local address is anybody's."""
    eventually(lambda: not list(shell.tentative(guest.namespace for guest in lab.guests.values())), every_s=0.1)


def test_duplicate_address_detection_finds_no_duplicate(lab: Lab) -> None:
    settled(lab)
    for guest in lab.guests.values():
        shown = lab.exec(guest.port, "ip", "-6", "address", "show", "dev", "eth0").stdout
        assert "dadfailed" not in shown
        assert "tentative" not in shown


def test_link_local_addresses_reach_each_other(lab: Lab) -> None:
    settled(lab)
    peer = lab.guest("blue/web-2")
    local = next(
        line.split()[1].split("/")[0]
        for line in lab.exec("blue/web-2", "ip", "-6", "address", "show", "scope", "link").stdout.splitlines()
        if "inet6" in line
    )
    assert local.startswith("fe80::"), peer
    done = lab.exec("blue/web-1", "ping", "-c", "2", "-i", "0.05", "-W", "2", f"{local}%eth0")
    assert "2 received" in done.stdout, done.stdout


def test_a_port_that_is_set_down_carries_nothing_until_it_is_up_again(lab: Lab, responders: Responders) -> None:
    guest = lab.guest("red/db-1")
    asked = Question(lab.guest("red/web-1").namespace, address(guest), guest.port)
    with lab.client() as client:
        try:
            client.patch(guest.port, {"admin_state": "down"})
            eventually(lambda: client.get(guest.port).status["state"] == "down")
            assert who_answers([Question(asked.namespace, asked.address)]) == [None]
        finally:
            client.patch(guest.port, {"admin_state": "up"})
        eventually(lambda: client.get(guest.port).status["state"] == "active")
    assert who_answers([asked]) == [guest.port]


def test_every_port_is_active_and_every_host_has_applied_everything(lab: Lab) -> None:
    with lab.client() as client:
        revision = client.health()["revision"]
        states = {each.status["state"] for each in client.list("tenants/-/ports")}
        assert states == {"active"}
        eventually(lambda: {each.status["applied_revision"] for each in client.list("hosts")} == {revision})
