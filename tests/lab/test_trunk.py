"""Sub-ports with real stacks: a guest whose one wire carries three networks, one untagged and two by tags."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.scenes import address, drops, gateway
from lab.switch import Switch, ip
from polling import PATIENCE_S, eventually
from weft.client import moves
from weft.lab import plan, shell
from weft.lab.lab import Lab

HERE = Path(__file__).parent
ROUTER = "tenants/blue/ports/router"
#: VLAN -> (its sub-port, the MAC and the addresses that it has).
INSIDE = {100: ("router-other", "02:00:00:00:01:10"), 200: ("router-apart", "02:00:00:00:02:10")}
ADDRESS = {4: "10.0.1.10", 6: "fd00:1::10"}
PORT = 7001


@dataclass(frozen=True)
class Site:
    lab: Lab
    inside: Switch  # in the guest: its wire, and a machine of its own behind each tag
    machines: dict[int, str]  # VLAN -> namespace

    def ping(self, namespace: str, to: str, *words: str) -> bool:
        command = ["nsenter", f"--net=/run/netns/{namespace}", "ping", "-c", "1", "-W", "1", *words, to]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def guest(self, name: str) -> str:
        return self.lab.guest(f"blue/{name}").namespace


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    name = f"trunk-{os.getpid()}"
    with ExitStack() as stack:
        try:
            lab = Lab.up(HERE / "trunk.yaml", name=name)
            router = lab.guest("blue/router").namespace
            inside = Switch(router)
            stack.callback(inside.close)
            inside.plug(plan.GUEST_INTERFACE)
            machines = {}
            for vlan, (port, mac) in INSIDE.items():
                machines[vlan] = f"{plan.prefix(name)}inside.{port}"
                subprocess.run(["ip", "netns", "add", machines[vlan]], check=True)
                ip(router, f"link add tag{vlan} mtu 1400 type veth peer name eth0 mtu 1400 netns {machines[vlan]}")
                ip(router, f"link set tag{vlan} up")
                ip(machines[vlan], f"link set eth0 address {mac}")
                ip(machines[vlan], f"addr add {ADDRESS[4]}/24 dev eth0")
                ip(machines[vlan], f"addr add {ADDRESS[6]}/64 dev eth0 nodad")
                ip(machines[vlan], "link set eth0 up")
                ip(machines[vlan], "route add default via 10.0.1.1")
                inside.plug(f"tag{vlan}", vlan)
            yield Site(lab, inside, machines)
        finally:
            Lab.down(name)


@pytest.mark.parametrize("version", [4, 6])
def test_each_tag_is_a_subnet_of_its_own_and_no_tag_is_the_parents(site: Site, version: int) -> None:
    near, far = site.lab.guest("blue/near"), site.lab.guest("blue/far")
    eventually(lambda: site.ping(site.guest("router"), address(near, version)), "without a tag, to another host")
    for machine in site.machines.values():
        eventually(lambda machine=machine: site.ping(machine, address(far, version)), "by a tag")
        eventually(lambda machine=machine: site.ping(machine, gateway(far, version)), "its gateway")
    for guest in ("far", "apart-far"):
        eventually(lambda guest=guest: site.ping(site.guest(guest), ADDRESS[version]), f"from {guest}")
    assert not site.ping(site.machines[200], address(near, version)), "another routing domain is another world"


def test_a_sub_port_is_routed_to_as_any_port_is(site: Site) -> None:
    near = site.lab.guest("blue/near")
    eventually(lambda: site.ping(site.machines[100], address(near)), "from the sub-port to its parent's subnet")
    eventually(lambda: site.ping(near.namespace, ADDRESS[4]), "and back")
    # The guest's own other network, by the router on its host: out without a tag, in again with one.
    eventually(lambda: site.ping(site.machines[100], address(site.lab.guest("blue/router"))), "to its parent")


def test_the_same_address_by_two_tags_is_two_machines(site: Site) -> None:
    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        made.settimeout(PATIENCE_S)
        return made

    with ExitStack() as stack:
        ears = {vlan: stack.enter_context(shell.within(inside, bound)) for vlan, inside in site.machines.items()}
        for vlan, guest in ((100, "far"), (200, "apart-far")):
            eventually(lambda guest=guest: site.ping(site.guest(guest), ADDRESS[4]), f"from {guest}")

            def send(guest: str = guest) -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as voice:
                    voice.sendto(guest.encode(), (ADDRESS[4], PORT))

            shell.within(site.guest(guest), send)
            assert ears[vlan].recv(100) == guest.encode()


def test_what_a_machine_behind_one_tag_says_as_another_is_dropped(site: Site) -> None:
    spoofer = site.machines[100]
    name = "tenants/blue/ports/router-other"
    before = drops(site.lab, "h1", name).get("spoofed_mac", 0)
    ip(spoofer, "link set eth0 address 02:00:00:00:02:10")
    try:
        assert not site.ping(spoofer, address(site.lab.guest("blue/far")))
        eventually(lambda: drops(site.lab, "h1", name).get("spoofed_mac", 0) > before, "it is seen")
    finally:
        ip(spoofer, "link set eth0 address 02:00:00:00:01:10")
    eventually(lambda: site.ping(spoofer, address(site.lab.guest("blue/far"))), "as itself it is heard again")


def test_a_guest_that_moves_takes_its_sub_ports_along(site: Site) -> None:
    far = site.lab.guest("blue/far")
    eventually(lambda: site.ping(site.machines[100], address(far)), "before")
    for host in ("h2", "h1"):
        site.lab.move(ROUTER, host)
        site.inside.unplug(plan.GUEST_INTERFACE)
        site.inside.plug(plan.GUEST_INTERFACE)
        for machine in site.machines.values():
            eventually(lambda machine=machine: site.ping(machine, address(far)), f"from {host}")
        with site.lab.client() as client:
            for port, _ in INSIDE.values():
                item = client.get(f"tenants/blue/ports/{port}")
                assert item.spec["host"] == f"hosts/{host}"
                eventually(lambda port=port: client.get(f"tenants/blue/ports/{port}").status["state"] == "active")


def test_a_move_waits_for_the_sub_ports_and_takes_them_back(site: Site) -> None:
    with site.lab.client() as client:
        moves.begin(client, ROUTER, "hosts/h2")
        try:
            move = client.get(ROUTER).status["move"]
            assert not move["ready"], "no interface is there"
            for port, _ in INSIDE.values():
                assert client.get(f"tenants/blue/ports/{port}").spec["destination"] == "hosts/h2"
            eventually(
                lambda: any("router-other" in each for each in client.get(ROUTER).status["move"]["waiting_for"]),
                "the sub-ports are waited for",
            )
        finally:
            moves.cancel(client, ROUTER)
        for port, _ in INSIDE.values():
            assert client.get(f"tenants/blue/ports/{port}").spec.get("destination") is None
