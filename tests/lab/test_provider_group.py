"""Broadcast by a group of the underlay: one copy leaves, and the switch gives it to the hosts that have joined."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.scenes import address, drops, fabric_wire, set_rule
from polling import PATIENCE_S, eventually
from weft.lab import capture, plan, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.model.features import Rule

HERE = Path(__file__).parent
SUBNET = "tenants/t/routing-domains/d/virtual-subnets/s"
PORT = 9932
HOSTS = ("h1", "h2", "h3", "h4")
OTHERS = ("two", "three")
RULES = (Rule.NVGRE, Rule.VXLAN, Rule.GENEVE, Rule.GRE)
GROUPS = {"provider-group": "239.77.1.1", "provider-group-six": "ff15::77:1"}


@pytest.fixture(scope="module", params=GROUPS)
def grouped(request: pytest.FixtureRequest) -> Iterator[Lab]:
    name = f"{request.param}-{os.getpid()}"
    try:
        lab = Lab.up(HERE / f"{request.param}.yaml", name=name)
        eventually(lambda: members(lab) == {"host1", "host2", "host3"}, "three hosts have joined")
        # A switch gives everything to everybody until it has asked who listens, and waited for answers.
        eventually(lambda: not reaches(lab, b"for whom?")["h4"], "the switch tells members from others")
        yield lab
    finally:
        Lab.down(name)


def group(lab: Lab) -> str:
    return GROUPS["provider-group-six" if ":" in lab.spec.host("h1").pa else "provider-group"]


def members(lab: Lab, of: str | None = None) -> set[str]:
    """The switch's ports behind which somebody has said by IGMP or MLD that they want the group."""
    fabric = plan.fabric_namespace(lab.spec.name)
    shown = subprocess.run(
        ["bridge", "-n", fabric, "-json", "mdb", "show", "dev", plan.SWITCH], capture_output=True, text=True, check=True
    ).stdout
    return {each["port"] for each in json.loads(shown)[0]["mdb"] if each["grp"] == (of or group(lab))}


def ear(guest: Guest) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        made.settimeout(PATIENCE_S)
        return made

    return shell.within(guest.namespace, make)


def shout(guest: Guest, mark: bytes) -> None:
    with shell.within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as mouth:
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        mouth.sendto(mark, ("10.0.0.255", PORT))


def reaches(lab: Lab, mark: bytes, names: tuple[str, ...] = OTHERS) -> dict[str, list[bytes]]:
    """The frames with the mark on each host's wire, once the guests have heard it."""
    with ExitStack() as stack:
        wires = {host: stack.enter_context(fabric_wire(lab, host)) for host in HOSTS}
        ears = [stack.enter_context(ear(lab.guest(f"t/{name}"))) for name in names]
        shout(lab.guest("t/one"), mark)
        for each in ears:
            assert each.recv(100) == mark
        return {
            host: [frame for frame in wire.frames(lambda _: False, within_s=0.2) if mark in frame]
            for host, wire in wires.items()
        }


@pytest.mark.parametrize("rule", RULES)
def test_one_copy_leaves_and_reaches_the_hosts_that_have_ports_and_no_other(
    grouped: Lab, rule: Rule, tmp_path: Path
) -> None:
    set_rule(grouped, SUBNET, rule)
    found = reaches(grouped, f"by {rule}".encode())
    assert {host: len(frames) for host, frames in found.items()} == {"h1": 1, "h2": 1, "h3": 1, "h4": 0}
    file = tmp_path / "wire.pcap"
    capture.write_pcap(file, found["h1"])
    # That tunnels go without UDP's checksum over IPv6 (RFC 6935), tshark takes for an error, unless told.
    as_it_is = ("-o", "udp.ignore_ipv6_zero_checksum:TRUE")
    destination = "ipv6.dst" if ":" in group(grouped) else "ip.dst"
    said = capture.decode(file, *as_it_is, "-T", "fields", "-e", destination, "-e", "eth.dst", "-E", "occurrence=f")
    to, mac = said.split()
    assert to == group(grouped)
    assert mac == ("33:33:00:77:00:01" if ":" in to else "01:00:5e:4d:01:01")
    assert capture.decode(file, *as_it_is, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456") == ""


def test_hosts_stay_in_the_group_while_their_agents_are_killed(grouped: Lab) -> None:
    set_rule(grouped, SUBNET, Rule.VXLAN)
    for host in ("h2", "h3"):
        grouped.kill(f"agent:{host}")
        grouped.await_gone(f"agent:{host}")
    try:
        found = reaches(grouped, b"nobody is there")
        assert len(found["h1"]) == 1
    finally:
        grouped.mend()
    assert members(grouped) == {"host1", "host2", "host3"}


def test_a_host_leaves_the_group_with_its_last_port_and_joins_with_its_first(grouped: Lab) -> None:
    with grouped.client() as client:
        spec = client.get("tenants/t/ports/three").spec
        client.patch("tenants/t/ports/three", {"host": None})
        try:
            # It has said so; the switch asks who else is there, and waits.
            eventually(lambda: members(grouped) == {"host1", "host2"}, "the host has left")
            found = reaches(grouped, b"less", ("two",))
            assert {host: len(frames) for host, frames in found.items()} == {"h1": 1, "h2": 1, "h3": 0, "h4": 0}
        finally:
            client.patch("tenants/t/ports/three", {"host": spec["host"]})
        eventually(lambda: members(grouped) == {"host1", "host2", "host3"}, "the host is back")
    assert len(reaches(grouped, b"more")["h3"]) == 1


def test_a_group_is_given_up_for_copies_and_taken_again_without_a_change_to_guests(grouped: Lab) -> None:
    set_rule(grouped, SUBNET, Rule.VXLAN)
    with grouped.client() as client:
        client.patch(SUBNET, {"provider_group": ""})
        try:
            eventually(lambda: members(grouped) == set(), "all hosts have left")
            found = reaches(grouped, b"a copy each")
            assert {host: len(frames) for host, frames in found.items()} == {"h1": 2, "h2": 1, "h3": 1, "h4": 0}
        finally:
            client.patch(SUBNET, {"provider_group": group(grouped)})
        eventually(lambda: members(grouped) == {"host1", "host2", "host3"}, "all hosts are back")
    assert len(reaches(grouped, b"one for all")["h1"]) == 1


def test_what_a_stranger_sends_to_the_group_is_dropped_by_name(grouped: Lab) -> None:
    """As for one host: what is inside has to come from where policy places its source."""
    before = drops(grouped, "h2", "uplink:eth0").get("forged_source", 0)
    with fabric_wire(grouped, "h1") as wire:
        shout(grouped.guest("t/one"), b"to be forged")
        frame = next(
            each
            for each in wire.frames(lambda found: any(b"to be forged" in f for f in found), 2)
            if b"to be forged" in each
        )
    at = 14 + (8 if ":" in group(grouped) else 12)
    length = 16 if ":" in group(grouped) else 4
    assert address(grouped.guest("t/one")) == "10.0.0.10"
    forged = frame[:at] + forger(frame[at : at + length]) + frame[at + length :]
    if length == 4:
        forged = with_header_checksum(forged)
    fabric = plan.fabric_namespace(grouped.spec.name)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("host2", 0))
            raw.send(forged)

    shell.within(fabric, send)
    eventually(lambda: drops(grouped, "h2", "uplink:eth0").get("forged_source", 0) == before + 1)


def forger(pa: bytes) -> bytes:
    return pa[:-1] + bytes((pa[-1] + 77,))


def with_header_checksum(frame: bytes) -> bytes:
    head = frame[14:24] + bytes(2) + frame[26:34]
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return frame[:24] + (~total & 0xFFFF).to_bytes(2, "big") + frame[26:]
