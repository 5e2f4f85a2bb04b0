"""Subnets of rule vlan: guests and machines behind the physical switch are in one network, and two VLANs are two."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from lab.scenes import RULES, UPLINK, address, drops, set_rule
from lab.switch import Switch, ip, switched
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.traffic import Stream
from weft.model.features import Rule

HERE = Path(__file__).parent
#: Both machines have the same addresses, each in its VLAN.
MACHINE, MACHINE6, MAC = "10.0.0.200", "fd00::200", "02:99:00:00:00:01"
PORT = 7000
VLANS = {"blue": 100, "red": 200, "green": 300}
#: The gateway of green's subnet is a machine behind the switch.
ROUTER, BEYOND = "10.0.2.1", "203.0.113.9"
LEARNED_AGE_S = 2


@dataclass(frozen=True)
class Site:
    lab: Lab
    switch: Switch
    machines: dict[str, str]  # tenant -> the namespace of its machine behind the switch

    def heard(self, host: str) -> dict[tuple[int, str], str]:
        """(VSID, MAC) -> by which uplink."""
        found = self.lab.ask_agent(host, "GET", "/heard")
        return {(each["vsid"], each["mac"]): each["interface"] for each in found["learned"]}

    def vsid(self, tenant: str) -> int:
        with self.lab.client() as client:
            return int(client.get(f"tenants/{tenant}/routing-domains/d/virtual-subnets/s").spec["vsid"])

    def namespace(self, of: str) -> str:
        """Of a guest (blue/a), or of a tenant's machine (blue)."""
        return self.lab.guest(of).namespace if "/" in of else self.machines[of]

    def ping(self, source: str, to: str, *words: str) -> bool:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.namespace(source)}", "ping", "-c", "1", "-W", "1", *words, to],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0


def machine(lab: str, switch: Switch, tenant: str, vlan: int) -> str:
    """Behind the switch, at an access port."""
    namespace = f"{plan.prefix(lab)}machine.{tenant}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    plugged_in(switch, namespace, tenant, vlan)
    if tenant == "green":  # a router, and what is beyond it
        ip(namespace, f"addr add {ROUTER}/24 dev eth0")
        ip(namespace, "link set lo up")
        ip(namespace, f"addr add {BEYOND}/32 dev lo")
    return namespace


def plugged_in(switch: Switch, namespace: str, port: str, vlan: int) -> None:
    ip(switch.namespace, f"link add {port} type veth peer name eth0 netns {namespace}")
    ip(switch.namespace, f"link set {port} up")
    ip(namespace, f"link set eth0 address {MAC}")
    ip(namespace, f"addr add {MACHINE}/24 dev eth0")
    ip(namespace, f"addr add {MACHINE6}/64 dev eth0 nodad")
    ip(namespace, "link set eth0 up")
    switch.plug(port, vlan)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    name = f"bridge-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("WEFT_LEARNED_AGE", str(LEARNED_AGE_S))
        try:
            lab = Lab.up(HERE / "bridge.yaml", name=name)
            switch = stack.enter_context(switched(lab))
            machines = {tenant: machine(name, switch, tenant, vlan) for tenant, vlan in VLANS.items()}
            yield Site(lab, switch, machines)
        finally:
            Lab.down(name)


def test_guests_of_two_hosts_meet_through_the_switch(site: Site) -> None:
    a, b = site.lab.guest("blue/a"), site.lab.guest("blue/b")
    for version in (4, 6):
        to = address(b, version)
        eventually(partial(site.ping, "blue/a", to), f"{to} answers")
        size = 1500 - (28 if version == 4 else 48)
        assert site.ping("blue/a", to, "-M", "do", "-s", str(size)), "the whole MTU is the guests'"
    seen = site.switch.known
    assert (seen[100, a.mac], seen[100, b.mac]) == ("host1", "host2"), "the switch has learned where each is"


@pytest.mark.parametrize("version", [4, 6])
def test_a_guest_and_a_machine_behind_the_switch_reach_each_other(site: Site, version: int) -> None:
    machine = MACHINE if version == 4 else MACHINE6
    for guest, host in (("blue/a", "h1"), ("blue/b", "h2")):
        eventually(lambda guest=guest: site.ping(guest, machine), f"{machine} answers {guest}")
        assert site.heard(host)[site.vsid("blue"), MAC] == "eth0"
        to = address(site.lab.guest(guest), version)
        eventually(lambda to=to: site.ping("blue", to), f"{to} answers the machine")


def test_guests_of_a_vlan_reach_another_subnet_by_the_router_on_their_host(site: Site) -> None:
    c = site.lab.guest("blue/c")
    eventually(lambda: site.ping("blue/a", address(c)), "c answers")
    eventually(lambda: site.ping("blue/c", address(site.lab.guest("blue/a"))), "a answers")


@contextmanager
def listening(*namespaces: str) -> Iterator[list[socket.socket]]:
    """A UDP socket in each."""

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        made.setblocking(False)
        return made

    with ExitStack() as stack:
        yield [stack.enter_context(shell.within(namespace, bound)) for namespace in namespaces]


def shout(namespace: str, said: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as voice:
            voice.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            voice.sendto(said, ("10.0.0.255", PORT))

    shell.within(namespace, send)


def hear(ear: socket.socket, into: list[bytes]) -> bool:
    try:
        while True:
            into.append(ear.recv(2048))
    except BlockingIOError:
        return bool(into)


@pytest.mark.parametrize("speaker", ["blue/a", "blue/b", "blue"])
def test_broadcast_reaches_everybody_of_the_vlan_once_and_nobody_of_another(site: Site, speaker: str) -> None:
    others = [each for each in ("blue/a", "blue/b", "blue") if each != speaker]
    places = [site.namespace(each) for each in (*others, "red/red-a", "red")]
    with listening(*places) as ears:
        heard: list[list[bytes]] = [[] for _ in ears]
        said = f"from {speaker}".encode()
        shout(site.namespace(speaker), said)
        for place, ear, into in zip(places[:2], ears, heard, strict=False):
            eventually(lambda ear=ear, into=into: hear(ear, into), f"{place} hears {speaker}")
        # What would come a second time would have come by the time that one more has.
        shout(site.namespace(speaker), b"and")
        eventually(lambda: all(hear(ear, into) and b"and" in into for ear, into in zip(ears[:2], heard, strict=False)))
        for ear, into in zip(ears[2:], heard[2:], strict=True):
            assert not hear(ear, into)
        assert [sorted(into) for into in heard] == [sorted((said, b"and"))] * 2 + [[]] * 2


def test_two_vlans_with_the_same_addresses_are_two_networks(site: Site) -> None:
    """Guest and machine of either tenant have the same CAs, and the machines the same MAC."""
    with listening(*(site.namespace(each) for each in ("blue", "red"))) as ears:
        for number, guest in enumerate(("blue/a", "red/red-a")):
            eventually(lambda guest=guest: site.ping(guest, MACHINE), f"{MACHINE} answers {guest}")

            def send(guest: str = guest) -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as voice:
                    voice.sendto(guest.encode(), (MACHINE, PORT))

            shell.within(site.namespace(guest), send)
            got: list[bytes] = []
            eventually(lambda ear=ears[number], got=got: hear(ear, got), f"its own machine hears {guest}")
            assert got == [guest.encode()]
            assert not hear(ears[1 - number], [])
    assert site.heard("h1").keys() >= {(site.vsid("blue"), MAC), (site.vsid("red"), MAC)}


def test_a_gateway_outside_routes_for_guests_and_nobody_else_does(site: Site) -> None:
    eventually(lambda: site.ping("green/green-a", ROUTER), "the gateway answers")
    eventually(lambda: site.ping("green/green-a", BEYOND), "and routes")
    assert site.heard("h2")[site.vsid("green"), MAC] == "eth0", "it was the machine"
    eventually(lambda: site.ping("green", "10.0.2.10"), "the guest answers it")


def test_a_machine_that_is_silent_is_forgotten_and_found_again(site: Site) -> None:
    eventually(lambda: site.ping("blue/a", MACHINE), f"{MACHINE} answers")
    known_as = (site.vsid("blue"), MAC)
    assert known_as in site.heard("h1")
    eventually(lambda: known_as not in site.heard("h1"), "it is forgotten", within_s=LEARNED_AGE_S + 8)
    assert site.ping("blue/a", MACHINE), "what is for it goes everywhere, and so to it"
    assert known_as in site.heard("h1")


def test_a_machine_that_is_plugged_in_elsewhere_is_found_there(site: Site) -> None:
    eventually(lambda: site.ping("blue/a", MACHINE), f"{MACHINE} answers")
    site.switch.unplug("blue")
    ip(site.machines["blue"], "link del eth0")
    plugged_in(site.switch, site.machines["blue"], "elsewhere", 100)
    eventually(lambda: site.ping("blue/a", MACHINE), f"{MACHINE} answers at its new place")
    assert site.switch.known[100, MAC] == "elsewhere"


def test_a_machine_that_claims_a_guests_addresses_is_not_believed(site: Site) -> None:
    a, inside = site.lab.guest("blue/a"), site.machines["blue"]
    before = drops(site.lab, "h1", UPLINK)
    # It takes a's MAC, and speaks.
    ip(inside, f"link set eth0 address {a.mac}")
    try:
        site.ping("blue", address(site.lab.guest("blue/b")))
        eventually(lambda: drops(site.lab, "h1", UPLINK).get("loop", 0) > before.get("loop", 0), "a loop is seen")
    finally:
        ip(inside, f"link set eth0 address {MAC}")
        ip(inside, "neigh flush all")
    assert eventually_reaches(site, "blue/a", address(site.lab.guest("blue/b")))


def eventually_reaches(site: Site, source: str, to: str) -> bool:
    """Once it has spoken itself, the switch knows again where it is."""
    eventually(lambda: site.ping(source, to), f"{to} answers {source}")
    return True


def test_nothing_is_lost_on_the_way_to_another_rule_and_back(site: Site) -> None:
    a, b = site.lab.guest("blue/a"), site.lab.guest("blue/b")
    with Stream(a, b, address(b)) as stream:
        eventually(lambda: len(stream.received) > 200)
        for rule in (step for other in RULES for step in (other, Rule.VLAN)):
            set_rule(site.lab, "tenants/blue/routing-domains/d/virtual-subnets/s", rule)
            sent = stream.sent
            eventually(lambda sent=sent: max(stream.received) > sent + 50)
        stream.stop()
        assert stream.lost <= stream.crowded_out, f"of {stream.sent} sent"
    eventually(lambda: site.ping("blue/a", MACHINE), f"{MACHINE} answers again")


def test_nothing_is_lost_between_a_vlan_and_ip_rewrite(site: Site) -> None:
    """Each of the two puts guests' frames on the wire without a tunnel, and in a way of its own."""
    subnet = "tenants/blue/routing-domains/d/virtual-subnets/other"
    c, d = site.lab.guest("blue/c"), site.lab.guest("blue/d")
    with site.lab.client() as client:
        pools = client.get("provider-networks/fabric").spec["pools"]
        networks = [ipaddress.ip_network(host.subnet) for host in site.lab.spec.hosts]
        own = [{"prefix": str(each), "first": str(each[100]), "last": str(each[120])} for each in networks]
        client.patch("provider-networks/fabric", {"pools": own})
        client.patch(subnet, {"vlan": 400, "provider_network": "fabric"})
    try:
        with Stream(d, c, address(c)) as stream:
            eventually(lambda: len(stream.received) > 200)
            for rule in (Rule.VLAN, Rule.REWRITE, Rule.VLAN, Rule.NVGRE):
                set_rule(site.lab, subnet, rule)
                sent = stream.sent
                eventually(lambda sent=sent: max(stream.received) > sent + 50)
            stream.stop()
            assert stream.lost <= stream.crowded_out, f"of {stream.sent} sent"
    finally:
        set_rule(site.lab, subnet, Rule.NVGRE)
        with site.lab.client() as client:
            client.patch("provider-networks/fabric", {"pools": pools})


def test_a_port_that_moves_is_found_by_the_machine_behind_the_switch(site: Site) -> None:
    a = site.lab.guest("blue/a")
    eventually(lambda: site.ping("blue", address(a)), "a answers")
    site.lab.move(a.port, "h2")
    try:
        eventually(lambda: site.ping("blue", address(a)), "a answers from its new host")
    finally:
        site.lab.move(a.port, "h1")
    eventually(lambda: site.ping("blue", address(a)), "and from its old one again")
