"""Hosts whose provider addresses are in a VLAN of the switch, and guests whose tags are others of its VLANs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.neighbours import REFLECT, attack
from lab.scenes import RULES, address, drops, mac_of, set_rule
from lab.switch import NATIVE, Switch, ip, switched
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.model.features import Rule, overhead_bytes

SUBNET = "tenants/t/routing-domains/d/virtual-subnets/s"
HOSTS = ("h1", "h2")
PAS_VLAN, BRIDGED_VLAN = 300, 100
UNDERLAYS = {"ipv4": "100.64.0.0/16", "ipv6": "fd64::/48"}
#: Guest -> its tag, and who is behind it.
TAGGED = {"t/a": (7, "02:00:00:00:01:10", "10.0.1.10"), "t/b": (8, "02:00:00:00:01:11", "10.0.1.11")}
#: Behind the physical switch.
MACHINE, MACHINE_MAC = "10.0.1.200", "02:99:00:00:00:01"
PORT = 7000


@dataclass(frozen=True)
class Site:
    lab: Lab
    switch: Switch
    tagged: dict[str, str]  # guest -> the namespace behind its tag
    machine: str


@pytest.fixture(scope="module", params=UNDERLAYS.values(), ids=UNDERLAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("vlan") / "lab.yaml"
    file.write_text(f"underlay: {{prefix: '{request.param}'}}\n" + (Path(__file__).parent / "vlan.yaml").read_text())
    name = f"vlan-{os.getpid()}"
    with ExitStack() as stack:
        try:
            lab = Lab.up(file, name=name)
            switch = stack.enter_context(switched(lab, PAS_VLAN))
            with lab.client() as client:
                for host in HOSTS:
                    (uplink,) = client.get(f"hosts/{host}").spec["uplinks"]
                    client.patch(f"hosts/{host}", {"uplinks": [{**uplink, "vlan": PAS_VLAN}]})
            tagged = {}
            for guest, (vlan, mac, own) in TAGGED.items():
                tagged[guest] = f"{plan.prefix(name)}tagged.{guest.rpartition('/')[2]}"
                inside = lab.guest(guest).namespace
                within = Switch(inside)
                stack.callback(within.close)
                within.plug(plan.GUEST_INTERFACE)
                machine(within, tagged[guest], "tagged", vlan, mac, own)
            outside = f"{plan.prefix(name)}machine"
            machine(switch, outside, "machine", BRIDGED_VLAN, MACHINE_MAC, MACHINE)
            yield Site(lab, switch, tagged, outside)
        finally:
            Lab.down(name)


def machine(switch: Switch, namespace: str, port: str, vlan: int, mac: str, own: str) -> None:
    """At an access port of a switch."""
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    ip(switch.namespace, f"link add {port} mtu 1400 type veth peer name eth0 mtu 1400 netns {namespace}")
    ip(switch.namespace, f"link set {port} up")
    ip(namespace, f"link set eth0 address {mac}")
    ip(namespace, f"addr add {own}/24 dev eth0")
    ip(namespace, "link set eth0 up")
    switch.plug(port, vlan)


def ping(namespace: str, to: str, *words: str) -> bool:
    command = shell.inside(namespace, ["ping", "-c", "1", "-W", "1", *words, to])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def works(site: Site, host: str) -> bool:
    (way,) = site.lab.ask_agent(host, "GET", "/status")["ways"]
    return bool(way["works"])


@pytest.mark.parametrize("rule", RULES)
def test_guests_reach_each_other_by_each_rule_where_provider_addresses_are_in_a_vlan(site: Site, rule: Rule) -> None:
    """The router is in that VLAN and in no other, so nothing crosses without its tag."""
    a, b = site.lab.guest("t/a"), site.lab.guest("t/b")
    set_rule(site.lab, SUBNET, rule)
    # Bulk is tests/ebpf/test_vlan.py's: this switch knows no segments in tunnels.
    most = 1500 - overhead_bytes(rule, 6 if ":" in site.lab.spec.host("h1").pa else 4)
    for version in (4, 6):
        size = str(most - (28 if version == 4 else 48))
        whole = partial(ping, a.namespace, address(b, version), "-M", "do", "-s", size)
        eventually(whole, f"b answers what just fits by {rule}")
    for host in HOSTS:
        uplink = mac_of(plan.host_namespace(site.lab.spec.name, host), plan.UPLINK)
        assert (PAS_VLAN, uplink) in site.switch.known
        eventually(partial(works, site, host), "probes are in the VLAN, too")


def test_a_guests_tag_is_a_vlan_of_the_switch_and_reaches_who_is_in_it(site: Site) -> None:
    a, b = site.tagged["t/a"], site.tagged["t/b"]
    for source, to in ((a, TAGGED["t/b"][2]), (b, TAGGED["t/a"][2]), (a, MACHINE), (b, MACHINE)):
        eventually(partial(ping, source, to), f"{to} answers {source}")
    for _, _, own in TAGGED.values():
        eventually(partial(ping, site.machine, own), f"{own} answers the machine")
    known = site.switch.known
    for number, (tag, mac, _) in enumerate(TAGGED.values(), 1):
        assert known[BRIDGED_VLAN, mac] == f"host{number}", "the subnet's VLAN, not the guest's tag"
        assert (tag, mac) not in known
        assert (NATIVE, mac) not in known
    for host in HOSTS:
        heard = {each["mac"] for each in site.lab.ask_agent(host, "GET", "/heard")["learned"]}
        assert MACHINE_MAC in heard


def test_a_guest_that_sends_back_what_it_receives_makes_no_loop_with_the_switch(site: Site) -> None:
    """What a machine says to all comes to the guest, who puts it on its wire again: there it ends."""
    name = "tenants/t/ports/a-tagged"
    before = drops(site.lab, "h1", name).get("spoofed_mac", 0)

    def ear() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind(("eth0", 3))
        made.setblocking(False)
        return made

    said = (
        Ether(src=MACHINE_MAC, dst="ff:ff:ff:ff:ff:ff")
        / IP(src=MACHINE, dst="10.0.1.255")
        / UDP(sport=PORT, dport=PORT)
        / b"to all of the VLAN"
    )
    with shell.within(site.machine, ear) as wire, attack(site.tagged["t/a"], REFLECT, bytes(14), "eth0"):

        def comes_back() -> bool:
            wire.send(bytes(said))
            return drops(site.lab, "h1", name).get("spoofed_mac", 0) > before

        eventually(comes_back, "the guest sends it back", every_s=0.1)
        heard = []
        while True:
            try:
                frame, where = wire.recvfrom(2048)
            except BlockingIOError:
                break
            if where[2] != socket.PACKET_OUTGOING:
                heard.append(frame)
        assert not any(b"to all of the VLAN" in frame for frame in heard)
    eventually(lambda: ping(site.tagged["t/b"], MACHINE), "the machine is where it was")
