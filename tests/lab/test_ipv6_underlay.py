"""The example whose underlay is IPv6: all that guests see is as over IPv4, but for 20 bytes less in a packet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from lab.scenes import (
    DB,
    RED_DB,
    RED_WEB,
    UPLINK,
    WEB,
    address,
    between,
    connected,
    dropped,
    drops,
    fabric_wire,
    gateway,
    guest_wire,
    heard,
    is_syn,
    outer,
    received,
)
from polling import eventually
from weft.lab import capture
from weft.lab.demo import owners_by_tenant, tenant_of
from weft.lab.lab import Lab
from weft.lab.traffic import Question, Responders, Stream, who_answers

EXAMPLE = Path(__file__).parents[2] / "examples" / "ipv6-underlay.yaml"
LARGEST = 1438
BOTH = pytest.mark.parametrize("version", [4, 6])
PAIRS = pytest.mark.parametrize("target", ["blue/web-2", "blue/db-1"])  # same subnet, cross subnet; on other hosts


@pytest.fixture(scope="module")
def six() -> Iterator[Lab]:
    name = f"six-{os.getpid()}"
    try:
        yield Lab.up(EXAMPLE, name=name)
    finally:
        Lab.down(name)


@pytest.fixture(scope="module")
def awake(six: Lab) -> Iterator[Responders]:
    """Every guest says who it is."""
    with Responders(six.guests.values()) as running:
        yield running


def test_every_host_has_an_ipv6_pa_and_guests_have_what_it_leaves(six: Lab) -> None:
    with six.client() as client:
        pas = {host.name: host.spec["uplinks"][0]["pas"] for host in client.list("hosts")}
    assert pas == {f"hosts/h{n}": [f"fd64:0:0:{n}::2"] for n in (1, 2, 3)}
    assert {guest.mtu_bytes for guest in six.guests.values() if "fat" not in guest.port} == {LARGEST}


@BOTH
def test_every_address_is_answered_by_the_askers_own_tenant(six: Lab, awake: Responders, version: int) -> None:
    guests = list(six.guests.values())
    owners = owners_by_tenant(guests, version)
    addresses = {each for owned in owners.values() for each in owned}
    questions = [
        Question(guest.namespace, each, owners[tenant_of(guest.port)].get(each))
        for guest, each in product(guests, addresses)
    ]
    answers = who_answers(questions)
    assert [asked for asked, answer in zip(questions, answers, strict=True) if answer != asked.expected] == []


@BOTH
@pytest.mark.parametrize("of", ["blue/web-1", "blue/db-1"])  # its own, and the other subnet's
def test_the_gateway_answers_ping(six: Lab, of: str, version: int) -> None:
    done = six.exec("blue/web-1", "ping", "-c", "2", "-i", "0.05", "-W", "2", gateway(six.guest(of), version))
    assert "2 received" in done.stdout, done.stdout


@BOTH
@PAIRS
def test_the_largest_packet_crosses_whole_and_one_byte_more_is_told_the_size(
    six: Lab, target: str, version: int
) -> None:
    to = address(six.guest(target), version)
    fits = LARGEST - (28 if version == 4 else 48)
    six.exec("blue/fat-1", "ip", f"-{version}", "route", "flush", "cache")
    done = six.exec("blue/fat-1", "ping", "-c", "2", "-i", "0.05", "-M", "do", "-s", str(fits), "-W", "2", to)
    assert "2 received" in done.stdout, done.stdout
    with dropped(six, "h1", "tenants/blue/ports/fat-1", "too_big"):
        done = six.exec("blue/fat-1", "ping", "-c", "1", "-M", "do", "-s", str(fits + 1), "-W", "2", to)
    assert str(LARGEST) in done.stdout + done.stderr, done.stdout + done.stderr


@BOTH
@PAIRS
def test_tcp_is_held_to_what_fits_and_a_bulk_transfer_arrives_whole(six: Lab, target: str, version: int) -> None:
    guest, peer = six.guest("blue/fat-1"), six.guest(target)
    sent = bytes(range(256)) * 16_384  # 4 MiB
    with guest_wire(peer) as wire, connected(six, guest.namespace, peer.namespace, address(peer, version)) as ends:
        ours, theirs = ends
        frames = wire.frames(lambda found: any(map(is_syn, found)))
        writer = threading.Thread(target=lambda: (ours.sendall(sent), ours.shutdown(1)))
        writer.start()
        got = bytearray()
        while piece := theirs.recv(1 << 16):
            got += piece
        writer.join()
    assert dict(Ether(next(filter(is_syn, frames)))[TCP].options)["MSS"] == LARGEST - (40 if version == 4 else 60)
    assert bytes(got) == sent


def test_tshark_decodes_both_tenants_from_the_wire_without_a_warning(six: Lab, tmp_path: Path) -> None:
    with fabric_wire(six, "h1") as one, fabric_wire(six, "h2") as two:
        for source, target, version in product(("blue", "red"), ("web-2", "db-1"), (4, 6)):
            to = address(six.guest(f"{source}/{target}"), version)
            assert "1 received" in six.exec(f"{source}/web-1", "ping", "-c", "1", "-W", "2", to).stdout
        passed = [frame for wire in (one, two) for frame in wire.frames(lambda _: False, within_s=0.2)]
    frames = [frame for frame in passed if capture.is_nvgre(frame)]
    capture.write_pcap(tmp_path / "wire.pcap", frames)
    decoded = capture.decode_json(tmp_path / "wire.pcap")
    assert {int(layers["gre"]["gre.key"], 0) >> 8 for layers in decoded} >= {WEB, DB, RED_WEB, RED_DB}
    assert {layers["gre"]["gre.proto"] for layers in decoded} == {"0x6558"}
    # Warnings and errors of tshark's own: 0x600000 and above.
    assert capture.decode(tmp_path / "wire.pcap", "-Y", "_ws.malformed || _ws.expert.severity >= 6291456") == ""
    for packet in map(Ether, frames):
        header = packet[IPv6]
        assert packet.type == 0x86DD
        assert (header.nh, header.fl, header.tc) == (47, 0, 0)
        assert header.hlim in {64, 63}, "as it was sent, or routed once by the fabric"
        assert header.src in {host.pa for host in six.spec.hosts}


def test_a_forged_outer_source_is_dropped_and_the_right_one_delivered(six: Lab) -> None:
    guest, peer = six.guest("blue/web-1"), six.guest("blue/web-2")
    with fabric_wire(six, "h2") as wire, guest_wire(peer) as there:
        for source in (six.spec.host("h3").pa, "fd64:0:0:99::2"):
            with dropped(six, "h2", UPLINK, "forged_source"):
                wire.send(outer(six, "h2", source, WEB, between(guest, peer, mark=b"forged")))
        with dropped(six, "h2", UPLINK, "outer_malformed"):
            wire.send(outer(six, "h2", six.spec.host("h1").pa, WEB, between(guest, peer, mark=b"forged"), plen=4000))
        assert not heard(there, b"forged", within_s=0.05)
        wire.send(outer(six, "h2", six.spec.host("h1").pa, WEB, between(guest, peer, mark=b"honest")))
        assert heard(there, b"honest")


def test_nvgre_over_ipv4_is_none_of_a_host_that_has_an_ipv6_pa_only(six: Lab) -> None:
    before = (received(six, "h2", UPLINK), drops(six, "h2", UPLINK))
    guest, peer = six.guest("blue/web-1"), six.guest("blue/web-2")
    six_on_wire = Ether(outer(six, "h2", six.spec.host("h1").pa, WEB, between(guest, peer, mark=b"over four")))
    four = IP(src="100.64.1.2", dst="100.64.2.2", proto=47) / bytes(six_on_wire[IPv6].payload)
    with fabric_wire(six, "h2") as wire, guest_wire(peer) as there:
        wire.send(bytes(Ether(src=six_on_wire.src, dst=six_on_wire.dst) / four))
        assert not heard(there, b"over four", within_s=0.2)
    assert (received(six, "h2", UPLINK), drops(six, "h2", UPLINK)) == before


def test_a_host_may_route_by_the_routers_link_local_address_as_advertisements_say(six: Lab) -> None:
    shown = six.exec("h1", "ping", "-c", "1", "-W", "2", "ff02::2%eth0").stdout  # all routers of the link
    router = next(word for word in shown.split() if word.startswith("fe80:")).partition("%")[0]
    assert six.exec("h1", "ip", "-6", "route", "replace", "default", "via", router, "dev", "eth0").returncode == 0
    try:
        six.exec("h1", "ip", "-6", "neighbour", "flush", "dev", "eth0")
        to = address(six.guest("blue/web-2"))
        done = six.exec("blue/web-1", "ping", "-c", "3", "-i", "0.05", "-W", "2", to)
        assert "3 received" in done.stdout, "a neighbour that is not known yet is asked for, and nothing is lost"
    finally:
        six.exec("h1", "ip", "-6", "route", "replace", "default", "via", six.spec.host("h1").gateway, "dev", "eth0")


def test_a_guest_moves_to_a_host_in_another_subnet_of_the_underlay_and_is_found_there(
    six: Lab, awake: Responders
) -> None:
    guest, source = six.guest("blue/web-2"), six.guest("blue/db-1")
    asked = [Question(six.guest("blue/web-1").namespace, address(guest, version), guest.port) for version in (4, 6)]
    with Stream(source, guest, address(guest, 6)) as stream:
        eventually(lambda: len(stream.received) > 200)
        six.move("blue/web-2", "h3")
        arrived = stream.sent
        eventually(lambda: max(stream.received) > arrived + 200)
        stream.stop(settle_s=0.3)
    try:
        assert set(range(arrived + 50, stream.sent)) <= stream.received, "what is sent once it is there arrives"
        assert who_answers(asked) == [guest.port] * 2
    finally:
        six.move("blue/web-2", "h2")
    assert who_answers(asked) == [guest.port] * 2
