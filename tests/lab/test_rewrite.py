"""IP rewrite: guests' packets cross the physical network with no byte more, from PA to PA."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from lab.neighbours import FLOOD, Neighbours, attack
from lab.scenes import RULES, UPLINK, connected, drops, fabric_wire, mac_of, set_rule
from polling import PATIENCE_S, eventually
from weft.lab import capture, plan
from weft.lab.lab import Lab
from weft.lab.traffic import Stream, udp
from weft.model.features import Rule

#: linux/udp.h, which Python's socket does not name.
UDP_SEGMENT = 103

HERE = Path(__file__).parent
NETWORK = "provider-networks/fabric"
SUBNET, OTHER = (f"tenants/t/routing-domains/d/virtual-subnets/{name}" for name in ("s", "other"))


@pytest.fixture(scope="module", params=["rewrite", "rewrite-six"])
def rewriting(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Each host's PA subnet has a pool of PAs for its guests."""
    name = f"{request.param}-{os.getpid()}"
    try:
        lab = Lab.up(HERE / f"{request.param}.yaml", name=name)
        pools = []
        for host in ("h1", "h2", "h3"):
            network = ipaddress.ip_network(lab.spec.host(host).subnet)
            pools.append({"prefix": str(network), "first": str(network[100]), "last": str(network[120])})
        with lab.client() as client:
            client.patch(NETWORK, {"pools": pools})
        yield lab
    finally:
        Lab.down(name)


def only_address(lab: Lab, guest: str) -> str:
    return str(ipaddress.ip_interface(lab.guest(guest).addresses[0]).ip)


def pa_of(lab: Lab, port: str) -> str:
    with lab.client() as client:
        return str(client.get(f"tenants/t/ports/{port}").spec["rewrites"][0]["pa"])


def carried(lab: Lab, sent: bytes) -> bytes:
    """What comes out at one guest of a TCP connection that another sends this into."""
    a, b = lab.guest("t/a"), lab.guest("t/b")
    with connected(lab, a.namespace, b.namespace, only_address(lab, "t/b")) as (ours, theirs):
        writer = threading.Thread(target=lambda: (ours.sendall(sent), ours.shutdown(1)))
        writer.start()
        got = bytearray()
        while piece := theirs.recv(1 << 16):
            got += piece
        writer.join()
    return bytes(got)


def await_whole_mtu(lab: Lab, *guests: str) -> None:
    """By router advertisement they were told of a tunnel before, and then that there is none any more."""
    for guest in guests:
        eventually(
            lambda guest=guest: lab.exec(guest, "sysctl", "-n", "net.ipv6.conf.eth0.mtu").stdout == "1500\n",
            f"{guest} is told of the whole MTU",
        )


def test_nothing_is_lost_on_the_way_to_it_and_back_and_the_whole_mtu_is_the_guests(rewriting: Lab) -> None:
    a, b = rewriting.guest("t/a"), rewriting.guest("t/b")
    version = ipaddress.ip_address(only_address(rewriting, "t/a")).version
    with Stream(a, b, only_address(rewriting, "t/b")) as stream:
        eventually(lambda: len(stream.received) > 200)
        for rule in (Rule.REWRITE, *(step for other in RULES for step in (other, Rule.REWRITE))):
            set_rule(rewriting, SUBNET, rule)
            sent = stream.sent
            eventually(lambda sent=sent: max(stream.received) > sent + 50)
        stream.stop()
        assert stream.lost <= stream.crowded_out, f"of {stream.sent} sent"
    await_whole_mtu(rewriting, "t/a", "t/b")
    size = 1500 - (28 if version == 4 else 48)
    done = rewriting.exec(
        "t/a", "ping", "-c", "3", "-i", "0.05", "-W", "2", "-M", "do", "-s", str(size), only_address(rewriting, "t/b")
    )
    assert "3 received" in done.stdout, done.stdout


def set_offload(lab: Lab, what: str, state: str) -> None:
    """Of a guest, or of a host's uplink: whether it leaves checksums and segments to whoever is behind it."""
    words = ["ethtool", "-K", "eth0", "tx", state, "tso", state]
    done = lab.exec(what, *words)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["guests", "kernel"])
def finished_by(request: pytest.FixtureRequest, rewriting: Lab) -> Iterator[str]:
    """Who makes the checksums and segments that are on the wire: unfinished ones are no business of the wire's. The
    kernel does it behind the programs, as a network card would.
    """
    for guest in ("t/a", "t/b", "t/c"):
        set_offload(rewriting, guest, "off" if request.param == "guests" else "on")
    for host in ("h1", "h2"):
        set_offload(rewriting, host, "off")
    try:
        yield str(request.param)
    finally:
        for what in ("t/a", "t/b", "t/c", "h1", "h2"):
            set_offload(rewriting, what, "on")


def datagrams(lab: Lab, together: bytes, size: int) -> bytes:
    """What comes out at one guest of datagrams that another hands over together, and of one in fragments."""
    version = 6 if ":" in only_address(lab, "t/a") else 4
    a, b = lab.guest("t/a"), lab.guest("t/b")
    with udp(b.namespace, version, 7012) as listener, udp(a.namespace, version) as sender:
        listener.settimeout(PATIENCE_S)
        sender.setblocking(True)
        sender.connect((only_address(lab, "t/b"), 7012))
        sender.send(bytes(4000))
        assert len(listener.recv(5000)) == 4000
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        sender.send(together)
        return b"".join(listener.recv(5000) for _ in range(len(together) // size))


def test_the_wire_has_pas_with_right_checksums_and_no_tunnel(rewriting: Lab, finished_by: str, tmp_path: Path) -> None:
    for subnet in (SUBNET, OTHER):
        set_rule(rewriting, subnet, Rule.REWRITE)
    await_whole_mtu(rewriting, "t/a", "t/b")
    sent, together = bytes(range(256)) * 400, bytes(range(200)) * 50
    with fabric_wire(rewriting, "h2") as wire:
        got = carried(rewriting, sent)
        assert datagrams(rewriting, together, 1000) == together
        for to, size in (("t/c", "56"), ("t/b", "4000")):  # in fragments, too
            words = ("ping", "-c", "3", "-i", "0.05", "-W", "2", "-M", "dont", "-s", size, only_address(rewriting, to))
            done = rewriting.exec("t/a", *words)
            assert "3 received" in done.stdout, done.stdout
        passed = wire.frames(lambda _: False, within_s=0.2)
    assert got == sent
    assert max(map(len, passed)) <= 1514, f"segments made by the {finished_by}"
    file = tmp_path / "wire.pcap"
    capture.write_pcap(file, passed)
    checked = [word for field in ("ip", "tcp", "udp") for word in ("-o", f"{field}.check_checksum:TRUE")]
    assert capture.decode(file, "-Y", "gre || vxlan || geneve") == ""
    layers = ("ip", "tcp", "udp", "icmp", "icmpv6")
    bad = " || ".join(f"{layer}.checksum.status == 0" for layer in layers)
    assert capture.decode(file, *checked, "-Y", f"{bad} || _ws.malformed") == ""
    # Hosts find each other by ICMPv6, too, whenever they like.
    right = {layer: f"{layer}.checksum.status == 1" for layer in layers} | {"icmpv6": "icmpv6.type in {128, 129}"}
    found = {layer: capture.decode(file, *checked, "-Y", wanted) for layer, wanted in right.items()}
    six = ":" in only_address(rewriting, "t/a")
    assert {layer for layer, lines in found.items() if lines} == {
        "tcp",
        "udp",
        *(("icmpv6",) if six else ("ip", "icmp")),
    }
    ends = {pa_of(rewriting, "a"), pa_of(rewriting, "b")}
    layer = "ipv6" if ":" in min(ends) else "ip"
    told = capture.decode(file, "-Y", "tcp", "-T", "fields", "-e", f"{layer}.src", "-e", f"{layer}.dst")
    assert {frozenset(line.split()) for line in told.splitlines()} == {frozenset(ends)}


def test_what_a_router_on_the_way_says_reaches_the_guest_from_its_gateway(rewriting: Lab) -> None:
    """It is about a PA's packet to another PA, and comes from an address that is nothing for guests to see."""
    for subnet in (SUBNET, OTHER):
        set_rule(rewriting, subnet, Rule.REWRITE)
    to, six = only_address(rewriting, "t/b"), ":" in only_address(rewriting, "t/a")
    with rewriting.client() as client:
        gateway = client.get(SUBNET).spec["gateways"][0]
    await_whole_mtu(rewriting, "t/a")
    done = rewriting.exec("t/a", "ping", "-c", "1", "-t", "1", "-W", "2", to)
    assert f"From {gateway} " in done.stdout, done.stdout
    assert ("Hop limit" if six else "Time to live exceeded") in done.stdout, done.stdout
    narrow(rewriting, "host2", 1300)
    try:
        for size, got in ((1400, "0 received"), (1300 - (48 if six else 28), "1 received")):
            done = rewriting.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", str(size), "-W", "2", to)
            assert got in done.stdout, done.stdout
        done = rewriting.exec("t/a", "ip", "route", "get", to)
        assert "mtu 1300" in done.stdout, done.stdout
        sent = bytes(range(256)) * 400
        assert carried(rewriting, sent) == sent, "TCP goes on with what it has been told"
    finally:
        narrow(rewriting, "host2", 1500)
        rewriting.exec("t/a", "ip", "-6" if six else "-4", "route", "flush", "cache")


def narrow(lab: Lab, wire: str, mtu_bytes: int) -> None:
    fabric = plan.fabric_namespace(lab.spec.name)
    subprocess.run(["ip", "-n", fabric, "link", "set", wire, "mtu", str(mtu_bytes)], check=True)


#: What is wrong with a packet to a guest's PA -> why it is dropped.
FORGED: dict[str, tuple[Callable[[Packet], bytes], str]] = {
    "from whom nobody is": (bytes, "forged_source"),
    "cut short": (lambda right: bytes(right)[:60], "truncated"),
    "to the MAC of a group": (lambda right: b"\x01" + bytes(right)[1:], "multicast"),
}


@pytest.mark.parametrize("what", FORGED)
def test_neighbours_under_a_flood_of_packets_to_a_guests_provider_address(rewriting: Lab, what: str) -> None:
    wrong, reason = FORGED[what]
    for subnet in (SUBNET, OTHER):
        set_rule(rewriting, subnet, Rule.REWRITE)
    to, fabric = pa_of(rewriting, "c"), plan.fabric_namespace(rewriting.spec.name)
    six = ":" in to
    # The fabric's router is at that end, and stands for no guest.
    ends = {"src": rewriting.spec.host("h2").gateway, "dst": to}
    mac = mac_of(plan.host_namespace(rewriting.spec.name, "h2"), plan.UPLINK)
    right = Ether(dst=mac) / (IPv6(**ends) if six else IP(**ends)) / UDP(sport=9, dport=9) / bytes(64)
    before = drops(rewriting, "h2", UPLINK).get(reason, 0)
    frame = wrong(right)
    Neighbours(rewriting, "t/a", "t/b", 6 if six else 4).unharmed(
        fabric,
        lambda: attack(fabric, FLOOD, frame, "host2"),
        lambda: eventually(
            lambda: drops(rewriting, "h2", UPLINK).get(reason, 0) > before + 100, f"dropped as {reason}"
        ),
    )


def test_a_port_that_moves_to_another_subnet_of_pas_loses_nothing_and_is_rewritten_there(rewriting: Lab) -> None:
    set_rule(rewriting, SUBNET, Rule.REWRITE)
    a, b = rewriting.guest("t/a"), rewriting.guest("t/b")
    home, at_home = b.host, pa_of(rewriting, "b")
    ends = only_address(rewriting, "t/a"), only_address(rewriting, "t/b")
    sent = bytes(range(256)) * 100
    try:
        with (
            connected(rewriting, a.namespace, b.namespace, ends[1]) as (ours, theirs),
            Stream(a, b, ends[1]) as there,
            Stream(b, a, ends[0]) as back,
        ):
            eventually(lambda: len(there.received) > 200 and len(back.received) > 200)
            for host in ("h3", home):
                rewriting.move("t/b", host)
                network = ipaddress.ip_network(rewriting.spec.host(host).subnet)
                assert ipaddress.ip_address(pa_of(rewriting, "b")) in network
                with fabric_wire(rewriting, host) as wire:
                    writer = threading.Thread(target=ours.sendall, args=(sent,))
                    writer.start()
                    got = bytearray()
                    while len(got) < len(sent):
                        got += theirs.recv(1 << 16)
                    writer.join()
                    passed = wire.frames(lambda _: False, within_s=0.2)
                assert got == sent
                pa = ipaddress.ip_address(pa_of(rewriting, "b")).packed
                assert any(pa in frame[:54] for frame in passed), "by its PA of there"
            there.stop()
            back.stop()
            assert (there.lost, back.lost) == (0, 0), f"of {there.sent} and {back.sent} sent"
    finally:
        if rewriting.guest("t/b").host != home:
            rewriting.move("t/b", home)
    assert pa_of(rewriting, "b") == at_home


def test_large_segments_cross_whole(rewriting: Lab) -> None:
    set_rule(rewriting, SUBNET, Rule.REWRITE)
    for guest in ("t/a", "t/b"):
        set_offload(rewriting, guest, "on")
    sent = bytes(range(256)) * 20_000
    with fabric_wire(rewriting, "h2") as wire:
        got = carried(rewriting, sent)
        largest = max(map(len, wire.frames(lambda found: len(found) > 20, within_s=1.0)))
    assert got == sent
    assert largest > 3000
