"""Broadcast and multicast between real guests: who has it, and that nobody else does."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import struct
from collections.abc import Iterator
from itertools import count

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from lab.scenes import address, drops, fabric_wire, guest_wire
from polling import eventually
from weft.lab import plan, shell
from weft.lab.capture import Wire
from weft.lab.lab import Lab
from weft.lab.plan import Guest

BOTH = pytest.mark.parametrize("version", [4, 6])
PORT = 9931
GROUPS = {4: "239.77.1.2", 6: "ff15::77:1"}
#: Of blue's web subnet: web-1 and web-3 on h1, web-2 and only-1 on h2.
SENDER, HERE, THERE = "blue/web-1", "blue/web-3", "blue/web-2"


def listener(guest: Guest, version: int, group: str | None = None) -> socket.socket:
    """Hears datagrams to PORT; of the group, if there is one, which it asks for."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("" if version == 4 else "::", PORT))
        if group is not None:
            packed = ipaddress.ip_address(group).packed
            index = socket.if_nametoindex(plan.GUEST_INTERFACE)
            if version == 4:
                made.setsockopt(
                    socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", packed, bytes(4), index)
                )
            else:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("=i", index))
        made.setblocking(False)
        return made

    return shell.within(guest.namespace, make)


def sender(guest: Guest, version: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        index = socket.if_nametoindex(plan.GUEST_INTERFACE)
        if version == 4:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            made.bind((address(guest, 6), 0))
        return made

    return shell.within(guest.namespace, make)


def heard(by: socket.socket) -> set[bytes]:
    found = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            found.add(by.recv(100))
    return found


@contextlib.contextmanager
def sockets(*made: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for each in made:
            each.close()


@pytest.mark.parametrize("to", ["255.255.255.255", "10.0.0.255"])
def test_broadcast_reaches_every_guest_of_the_subnet_and_no_other(lab: Lab, to: str) -> None:
    mine = ["blue/web-3", "blue/web-2", "blue/only-1", "blue/fat-1"]
    others = ["blue/db-2", "blue/db-1", "red/web-1", "red/web-2"]
    ears = {name: listener(lab.guest(name), 4) for name in (*mine, *others)}
    mouth = sender(lab.guest(SENDER), 4)
    mark = f"to {to}".encode()
    all_heard: dict[str, set[bytes]] = {name: set() for name in ears}

    def everybody() -> bool:
        mouth.sendto(mark, (to, PORT))
        for name, ear in ears.items():
            all_heard[name] |= heard(ear)
        return all(mark in all_heard[name] for name in mine)

    with sockets(mouth, *ears.values()):
        eventually(everybody, f"a broadcast heard by {mine}")
        assert not any(mark in all_heard[name] for name in others)


@BOTH
def test_a_group_reaches_who_has_joined_it_here_and_there_and_nobody_else(lab: Lab, version: int) -> None:
    group = GROUPS[version]
    joined = {name: listener(lab.guest(name), version, group) for name in (HERE, THERE)}
    other_tenant = listener(lab.guest("red/web-2"), version, group)
    bystander = guest_wire(lab.guest("blue/only-1"))
    mouth = sender(lab.guest(SENDER), version)
    mark = f"group {group}".encode()
    found: dict[str, set[bytes]] = {name: set() for name in joined}

    def both() -> bool:
        mouth.sendto(mark, (group, PORT))
        for name, ear in joined.items():
            found[name] |= heard(ear)
        return all(mark in each for each in found.values())

    numbers = count()

    def nobody_else() -> bool:
        """A host that has not said yet what it listens to is sent everything."""
        another = mark + b" %d" % next(numbers)
        mouth.sendto(another, (group, PORT))
        return not any(another in frame for frame in bystander.frames(lambda _: False, 0.3))

    with bystander, sockets(mouth, other_tenant, *joined.values()):
        eventually(both, f"{group} heard by {HERE} and {THERE}")
        eventually(nobody_else, f"{group} is heard by nobody who has not joined it")
        assert heard(other_tenant) == set(), "the same group of another tenant is another group"


@BOTH
def test_a_group_is_copied_only_to_hosts_whose_guests_listen(lab: Lab, version: int) -> None:
    """h2 has ports of the subnet, and nobody there listens: from soon on there is no copy for it. Who joins there has
    what is sent, at once.
    """
    group = "239.77.4.4" if version == 4 else "ff15::77:4"
    mouth, here = sender(lab.guest(SENDER), version), listener(lab.guest(HERE), version, group)
    uplink = fabric_wire(lab, "h1")
    number = count()

    def copied() -> bool:
        """Whether what is sent now leaves for another host."""
        mark = f"only to {group} {next(number)}.".encode()
        mouth.sendto(mark, (group, PORT))
        eventually(lambda: mark in heard(here) or mouth.sendto(mark, (group, PORT)) == 0, "it is heard here")
        return any(mark in frame for frame in uplink.frames(lambda _: False, 0.2))

    with uplink, sockets(mouth, here):
        eventually(lambda: not copied(), f"{group} stays on h1")
        with contextlib.closing(listener(lab.guest(THERE), version, group)) as there:
            mark = f"to the new one {group}".encode()

            def arrives() -> bool:
                mouth.sendto(mark, (group, PORT))
                return mark in heard(there)

            eventually(arrives, f"{group} reaches who has just joined on h2")
        eventually(lambda: not copied(), f"{group} stays on h1 again")


@BOTH
def test_a_guest_that_speaks_pim_has_every_group_whoever_sends_it(lab: Lab, version: int) -> None:
    """It is a multicast router: nobody listens on its host, and it has joined nothing."""
    group = "239.77.5.5" if version == 4 else "ff15::77:5"
    router = lab.guest("blue/only-1")
    own, to = address(router, version), "224.0.0.13" if version == 4 else "ff02::d"
    mac = "01:00:5e:00:00:0d" if version == 4 else "33:33:00:00:00:0d"
    head = IP(src=own, dst=to, ttl=1, proto=103) if version == 4 else IPv6(src=own, dst=to, hlim=1, nh=103)
    hello = bytes(Ether(src=router.mac, dst=mac) / head / Raw(bytes.fromhex("2000dfff")))
    mouth = sender(lab.guest(SENDER), version)
    numbers = count()
    with guest_wire(router) as wire, sockets(mouth):

        def arrives() -> bool:
            mark = f"to a router {next(numbers)}, {group}".encode()
            mouth.sendto(mark, (group, PORT))
            return any(mark in each for each in wire.frames(lambda got: any(mark in frame for frame in got), 0.2))

        eventually(lambda: not arrives(), f"{group} does not arrive before")
        wire.send(hello)
        try:
            eventually(arrives, f"{group} arrives at the router")
        finally:
            # It is a router for 260 s, or until its interface goes.
            lab.ask_agent(router.host, "POST", "/detach", {"port": router.port})
            lab.attach(router)
        eventually(lambda: not arrives(), f"{group} does not arrive any more")


@BOTH
def test_a_group_that_all_have_left_is_heard_no_more(lab: Lab, version: int) -> None:
    group = "239.77.9.9" if version == 4 else "ff15::77:9"
    ear = listener(lab.guest(HERE), version, group)
    wire = guest_wire(lab.guest(HERE))
    mouth = sender(lab.guest(SENDER), version)
    mark = f"leave {group}".encode()

    def hears() -> bool:
        mouth.sendto(mark, (group, PORT))
        return any(mark in frame for frame in wire.frames(lambda frames: any(mark in each for each in frames), 0.2))

    with wire, sockets(mouth):
        eventually(hears, f"{group} arrives")
        ear.close()
        eventually(lambda: not hears(), f"{group} does not arrive any more")


@BOTH
def test_groups_of_one_link_reach_all_without_being_asked_for(lab: Lab, version: int) -> None:
    """As VRRP, OSPF and mDNS need it."""
    group = "224.0.0.18" if version == 4 else "ff02::12"
    mouth = sender(lab.guest(SENDER), version)
    mark = f"link {group}".encode()
    wires = [guest_wire(lab.guest(name)) for name in (HERE, THERE)]

    def arrives(wire: Wire) -> bool:
        mouth.sendto(mark, (group, PORT))
        return any(mark in each for each in wire.frames(lambda found: any(mark in frame for frame in found), 0.2))

    with sockets(mouth), wires[0] as here, wires[1] as there:
        eventually(lambda: arrives(here), f"{group} arrives on the same host")
        eventually(lambda: arrives(there), f"{group} arrives on another")


def test_who_listens_goes_on_through_an_agents_restart(lab: Lab) -> None:
    group = "239.77.3.3"
    ear = listener(lab.guest(THERE), 4, group)
    mouth = sender(lab.guest(SENDER), 4)

    def hears(mark: bytes) -> bool:
        mouth.sendto(mark, (group, PORT))
        return mark in heard(ear)

    with sockets(mouth, ear):
        eventually(lambda: hears(b"before"), f"{group} is heard")
        lab.kill("agent:h2", signal.SIGKILL)
        eventually(lambda: hears(b"without an agent"), f"{group} is heard without an agent")
        lab.start_agent("h2")
        eventually(lambda: hears(b"after"), f"{group} is heard after the restart")


def test_a_guest_that_floods_is_limited_and_its_neighbour_is_not(lab: Lab) -> None:
    guest, neighbour = lab.guest(SENDER), lab.guest(HERE)
    before = drops(lab, "h1", guest.port).get("flood_limit", 0)
    mouth = sender(guest, 4)
    with sockets(mouth):

        def held() -> bool:
            for _ in range(500):
                mouth.sendto(b"flood", ("255.255.255.255", PORT))
            return drops(lab, "h1", guest.port).get("flood_limit", 0) > before

        eventually(held, "the flood is held to its limit")
        done = lab.exec(HERE, "ping", "-c", "3", "-i", "0.05", "-W", "2", address(lab.guest(THERE)))
        assert "3 received" in done.stdout, done.stdout
    assert drops(lab, "h1", neighbour.port).get("flood_limit", 0) == 0
