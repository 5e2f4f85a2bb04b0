"""Hosts with two uplinks into two networks: flows go by both, and by the other when one fails, also silently."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptMTU, IPv6
from scapy.layers.l2 import Ether

from lab.scenes import address, connected, guest_wire
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.traffic import Stream, udp

TINY = Path(__file__).parent / "tiny.yaml"
UNDERLAYS = {
    "ipv4": "{prefix: 100.64.0.0/16, further: [100.65.0.0/16]}",
    "ipv6": "{prefix: 'fd64::/48', further: ['fd65::/48']}",
}
#: Packets of all flows together in a second.
SECOND = 1000
FLOWS = 8  # each way


@pytest.fixture(scope="module", params=UNDERLAYS.values(), ids=UNDERLAYS)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The tiny lab with two uplinks a host."""
    file = tmp_path_factory.mktemp("ways") / "lab.yaml"
    of_both = TINY.read_text().replace("[10.0.0.0/24]", "[10.0.0.0/24, 'fd00:0:0:a::/64']")
    file.write_text(f"underlay: {request.param}\n{of_both}")
    name = f"ways-{os.getpid()}"
    try:
        lab = Lab.up(file, name=name)
        await_ways(lab, {True})
        yield lab
    finally:
        Lab.down(name)


def ways(lab: Lab, host: str) -> list[dict[str, Any]]:
    """The straight ones of a host, by source."""
    own = lab.spec.host(host)
    other = next(each for each in lab.spec.hosts if each.name != host)
    straight = {(own.pa, other.pa), (own.further[0].pa, other.further[0].pa)}
    found = lab.ask_agent(host, "GET", "/status")["ways"]
    return [way for way in found if (way["source"], way["destination"]) in straight]


def await_ways(lab: Lab, works: set[bool]) -> None:
    for host in ("h1", "h2"):
        eventually(
            lambda host=host: {way["works"] for way in ways(lab, host)} == works,
            f"ways of {host} work: {works}",
        )


def sent(lab: Lab) -> tuple[int, int]:
    """Packets that h1 has sent by each of its uplinks."""
    counters = lab.ask_agent("h1", "GET", "/counters")
    return counters["uplink:eth0"]["sent_packets"], counters["uplink:eth1"]["sent_packets"]


@contextmanager
def blackholed(lab: Lab, rank: int) -> Iterator[None]:
    """The network's router swallows what h2 is sent, without a word, and its wires stay up."""
    fabric = plan.fabric_namespace(lab.spec.name, rank)
    rule = (
        "table netdev hole { chain c { type filter hook ingress device host1 priority 0; drop; }; "
        "chain d { type filter hook ingress device host2 priority 0; drop; }; }"
    )
    subprocess.run(shell.inside(fabric, ["nft", rule]), check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(
            shell.inside(fabric, ["nft", "delete", "table", "netdev", "hole"]), check=True, capture_output=True
        )


def set_link(lab: Lab, up: bool) -> None:
    """h1's wire into the first network, at the router's end: the host's loses its carrier, and keeps its routes."""
    fabric = plan.fabric_namespace(lab.spec.name)
    shell.run([plan.SetSysctl(fabric, "ipv6/conf/host1/keep_addr_on_down", 1)])
    subprocess.run(["ip", "-n", fabric, "link", "set", "host1", "up" if up else "down"], check=True)


def test_flows_are_spread_over_both_networks(two: Lab) -> None:
    source, target = two.guest("t/a"), two.guest("t/b")
    before = sent(two)
    sender = udp(source.namespace, 4)
    for port in range(2000, 2400):
        sender.sendto(b"flow", (address(target), port))
    sender.close()
    eventually(lambda: sum(sent(two)) - sum(before) >= 400, "all are sent")
    shares = [now - was for now, was in zip(sent(two), before, strict=True)]
    assert min(shares) > 100, shares


def streams(lab: Lab, count: int, source: str = "t/a", target: str = "t/b") -> list[Stream]:
    """So many flows at once that some are on each way."""
    ends = lab.guest(source), lab.guest(target)
    return [Stream(*ends, address(ends[1]), per_second=SECOND // count, port=9000 + n) for n in range(count)]


@pytest.mark.parametrize("failure", ["silence", "carrier"])
def test_a_network_that_fails_costs_less_than_a_second_and_is_used_again_afterwards(two: Lab, failure: str) -> None:
    await_ways(two, {True})
    # And back: from the host whose own link stays up, and which finds out by what does not come.
    flows = [*streams(two, FLOWS), *streams(two, FLOWS, "t/b", "t/a")]
    for flow in flows:
        flow.__enter__()
    try:
        eventually(lambda: all(len(flow.received) > 50 for flow in flows), "all flows run")
        if failure == "silence":
            with blackholed(two, 0):
                await_ways(two, {True, False})
                last = sent(two)
                eventually(lambda: sent(two)[1] > last[1] + SECOND, "the other carries all")
        else:
            set_link(two, up=False)
            await_ways(two, {True, False})
            set_link(two, up=True)
        await_ways(two, {True})
        before = sent(two)
        eventually(lambda: min(now - was for now, was in zip(sent(two), before, strict=True)) > 50, "both carry")
    finally:
        for flow in flows:
            flow.stop(settle_s=0.5)
    assert max(flow.lost for flow in flows) < SECOND / FLOWS, "none has lost a second's worth"


def test_flows_of_an_agent_that_is_down_go_on_by_both_ways(two: Lab) -> None:
    """Its peer hears nothing from it, by any way, and changes nothing; and it finds all as it was."""
    flows = streams(two, 8)
    for flow in flows:
        flow.__enter__()
    two.kill("agent:h2")
    try:
        await_silence(two)
        before = sent(two)
        eventually(lambda: min(now - was for now, was in zip(sent(two), before, strict=True)) > 100, "both carry")
    finally:
        two.mend()
    await_ways(two, {True})
    for flow in flows:
        flow.stop(settle_s=0.5)
    assert sum(flow.lost for flow in flows) == 0


def await_silence(lab: Lab) -> None:
    eventually(lambda: {way["works"] for way in ways(lab, "h1")} == {False}, "h2 is silent")


def narrow(lab: Lab, mtu_bytes: int) -> None:
    """Both routers. What is larger yet and comes in they swallow; what would be on its way out they say."""
    for rank in (0, 1):
        fabric = plan.fabric_namespace(lab.spec.name, rank)
        for wire in ("host1", "host2"):
            subprocess.run(["ip", "-n", fabric, "link", "set", wire, "mtu", str(mtu_bytes)], check=True)


def told(lab: Lab, name: str) -> tuple[int, int]:
    """The MTU that a guest is told which asks: by DHCP's option 26, and by a router advertisement."""
    guest = lab.guest(name)
    asks = (
        Ether(src=guest.mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(guest.mac.replace(":", "")), xid=1)
        / DHCP(options=[("message-type", "discover"), "end"]),
        Ether(src=guest.mac, dst="33:33:00:00:00:02")
        / IPv6(src=address(guest, 6), dst="ff02::2", hlim=255)
        / ICMPv6ND_RS(),
    )
    offered, advertised = 0, 0
    with guest_wire(guest) as wire:

        def answered() -> bool:
            nonlocal offered, advertised
            for question in asks:
                wire.send(bytes(question))
            for answer in map(Ether, wire.frames(lambda found: len(found) > 1, 0.3)):
                if DHCP in answer and BOOTP in answer and answer[BOOTP].op == 2:
                    offered = dict(each for each in answer[DHCP].options if len(each) == 2)["interface-mtu"]
                if ICMPv6NDOptMTU in answer:
                    advertised = answer[ICMPv6NDOptMTU].mtu
            return bool(offered and advertised)

        eventually(answered, "an offer and an advertisement")
    return offered, advertised


def test_a_path_that_takes_less_than_its_ends_is_found_out_and_guests_are_told(two: Lab) -> None:
    path_mtu = 1400
    fits = path_mtu - (62 if ":" in two.spec.hosts[0].pa else 42)
    source, target = two.guest("t/a"), two.guest("t/b")
    with connected(two, source.namespace, target.namespace, address(target)) as (ours, theirs):
        ours.sendall(bytes(100_000))
        assert len(read_exactly(theirs, 100_000)) == 100_000
        narrow(two, path_mtu)
        try:
            for host in ("h1", "h2"):
                eventually(
                    lambda host=host: {way["mtu_bytes"] for way in ways(two, host)} == {path_mtu},
                    f"{host} has found the path's MTU",
                )
            writer = threading.Thread(target=lambda: ours.sendall(bytes(1_000_000)))
            writer.start()
            assert len(read_exactly(theirs, 1_000_000)) == 1_000_000, "a connection goes on"
            writer.join()
            for guest, other in (("t/a", "t/b"), ("t/b", "t/a")):
                assert told(two, guest) == (fits, fits), "by DHCP and by router advertisement"
                two.exec(guest, "ip", "route", "flush", "cache")
                to = address(two.guest(other))
                done = two.exec(guest, "ping", "-c", "1", "-M", "do", "-s", str(fits - 27), "-W", "2", to)
                assert f"mtu = {fits}" in done.stdout + done.stderr, done.stdout + done.stderr
                done = two.exec(guest, "ping", "-c", "1", "-M", "do", "-s", str(fits - 28), "-W", "2", to)
                assert "1 received" in done.stdout, done.stdout
        finally:
            narrow(two, 1500)
    eventually(lambda: {way["mtu_bytes"] for way in ways(two, "h1")} <= {0, 1500}, "it is wide again")
    two.exec("t/a", "ip", "route", "flush", "cache")
    whole = str(two.guest("t/a").mtu_bytes - 28)
    done = two.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", whole, "-W", "2", address(target))
    assert "1 received" in done.stdout, done.stdout


def read_exactly(end: Any, count: int) -> bytes:
    got = bytearray()
    while len(got) < count and (piece := end.recv(1 << 16)):
        got += piece
    return bytes(got)
