"""Copies of a port's frames: at another port, and at an address in GRE and ERSPAN as tshark reads them."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.scenes import address, fabric_wire, guest_wire
from polling import eventually
from weft.lab import capture
from weft.lab.capture import Wire
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.lab.traffic import udp

PORT = 7300
#: What tshark warns of, or calls an error.
BAD = "_ws.expert.severity >= 6291456"
BOTH = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def mirrored() -> Iterator[Lab]:
    name = f"mirror-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "qos.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture
def mirror(mirrored: Lab) -> Iterator[Callable[..., None]]:
    """Says where copies of a port's frames go, and waits until its host follows; nowhere again afterwards."""
    given: set[str] = set()

    def say(short: str, **mirror: object) -> None:
        given.add(short)
        guest = mirrored.guest(f"t/{short}")
        with mirrored.client() as client:
            client.patch(guest.port, {"mirror": None})
            revision = client.patch(guest.port, {"mirror": mirror or None}).revision
            eventually(lambda: client.get(f"hosts/{guest.host}").status["applied_revision"] >= revision)

    yield say
    for short in given:
        say(short)


def talk(source: Guest, target: Guest, mark: bytes, version: int = 4) -> None:
    """A datagram arrives, whatever is mirrored."""
    with udp(target.namespace, version, PORT) as listener, udp(source.namespace, version) as sender:
        listener.settimeout(0.2)

        def arrives() -> bool:
            sender.sendto(mark, (address(target, version), PORT))
            try:
                return listener.recv(2000) == mark
            except TimeoutError:
                return False

        eventually(arrives)


def copies(wire: Wire, mark: bytes, within_s: float = 2.0) -> list[bytes]:
    return [each for each in wire.frames(lambda them: any(mark in one for one in them), within_s) if mark in each]


@BOTH
def test_a_port_beside_sees_both_directions_or_the_one_that_is_asked_for(
    mirrored: Lab, mirror: Any, version: int
) -> None:
    watched, other, beside = (mirrored.guest(f"t/{name}") for name in ("a1", "a2", "c1"))
    for directions, seen in (("both", (True, True)), ("from_guest", (True, False)), ("to_guest", (False, True))):
        mirror("a1", port="c1", directions=directions)
        for sent, (source, target) in zip(seen, ((watched, other), (other, watched)), strict=True):
            mark = f"{directions} from {source.port} {version}".encode()
            with guest_wire(beside) as wire:
                talk(source, target, mark, version)
                assert bool(copies(wire, mark, 2.0 if sent else 0.3)) == sent, mark


def test_a_port_beside_sees_broadcast_to_the_port_too(mirrored: Lab, mirror: Any) -> None:
    watched, other, beside = (mirrored.guest(f"t/{name}") for name in ("a1", "a2", "c1"))
    mirror("a1", port="c1", directions="to_guest")
    network = ipaddress.ip_interface(next(each for each in other.addresses if ":" not in each)).network
    mark = b"to whom it may concern"
    with guest_wire(watched) as own, guest_wire(beside) as wire, udp(other.namespace, 4) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(mark, (str(network.broadcast_address), PORT))
        assert len(copies(own, mark)) == 1
        # Its own, and that of the port that it watches.
        found = wire.frames(lambda them: sum(mark in each for each in them) > 2, within_s=1.0)
        assert sum(mark in each for each in found) == 2


def test_two_ports_may_watch_each_other_and_nothing_goes_round(mirrored: Lab, mirror: Any) -> None:
    mirror("c1", port="c2")
    mirror("c2", port="c1")
    one, two = mirrored.guest("t/c1"), mirrored.guest("t/c2")
    with guest_wire(two) as wire:
        talk(one, two, b"once to you")
        # The frame itself, and the copy of it, for each time that it was sent; a loop would be hundreds.
        found = wire.frames(lambda them: len(them) > 100, within_s=1.0)
    assert 2 <= sum(b"once to you" in each for each in found) <= 20


def test_a_mirror_that_is_not_on_the_host_costs_the_port_nothing(mirrored: Lab, mirror: Any) -> None:
    mirror("a1", port="b2")  # on the other host
    watched, other = mirrored.guest("t/a1"), mirrored.guest("t/a2")
    with guest_wire(mirrored.guest("t/b2")) as wire:
        talk(watched, other, b"all alone")
        assert not copies(wire, b"all alone", 0.3)


@BOTH
@pytest.mark.parametrize("protocol", ["erspan", "gre"])
def test_an_address_gets_copies_that_tshark_reads(
    mirrored: Lab, mirror: Any, version: int, protocol: str, tmp_path: Path
) -> None:
    watched, other = mirrored.guest("t/a1"), mirrored.guest("t/a2")
    collector = mirrored.spec.host("h1").gateway
    mirror("a1", address=collector, protocol=protocol, session=77)
    # As large as the guest may send: with the headers of the mirror it is too large, and cut short.
    largest = watched.mtu_bytes - (28 if version == 4 else 48)
    for name, mark in (("small", b"for whom it may concern"), ("large", b"much of it".ljust(largest))):
        with fabric_wire(mirrored, "h1") as wire:
            talk(watched, other, mark, version)
            frames = wire.frames(lambda them, mark=mark: bool(mirrors(them, collector, mark[:10])))
        [frame, *_] = mirrors(frames, collector, mark[:10])
        assert len(frame) <= 1514
        file = tmp_path / f"{name}.pcap"
        capture.write_pcap(file, [frame])
        fields = ["-e", "ip.dst", "-e", "erspan.spanid", "-e", "erspan.truncated", "-e", "gre.key", "-e", "eth.src"]
        said = capture.decode(file, "-T", "fields", "-E", "separator=/t", *fields).rstrip("\n").split("\t")
        assert collector in said[0].split(",")
        assert watched.mac in said[4].split(",")
        if protocol == "erspan":
            assert said[1] == "77"
        else:
            assert int(said[3], 0) == 77
        if name == "small":
            assert capture.decode(file, "-Y", f"{BAD} || _ws.malformed || _ws.short") == ""
            assert mark in frame
        elif protocol == "erspan":
            assert said[2] in ("1", "True")


def test_a_mirror_may_be_at_an_ipv6_address(tmp_path: Path) -> None:
    name = f"mirror6-{os.getpid()}"
    try:
        lab = Lab.up(Path(__file__).parent / "qos-six.yaml", name=name)
        watched, other = lab.guest("t/a1"), lab.guest("t/a2")
        collector = lab.spec.host("h1").gateway
        for protocol in ("erspan", "gre"):
            mark = f"{protocol} over IPv6".encode()
            with lab.client() as client, fabric_wire(lab, "h1") as wire:
                given = {"address": collector, "protocol": protocol, "session": 7}
                revision = client.patch(watched.port, {"mirror": given}).revision
                eventually(lambda at=revision: client.get("hosts/h1").status["applied_revision"] >= at)
                talk(watched, other, mark)
                # The datagram itself crosses as well, in the tunnel's own GRE; it is not to the gateway.
                frames = wire.frames(lambda them, mark=mark: bool(mirrors6(them, collector, mark)))
            file = tmp_path / f"{protocol}.pcap"
            capture.write_pcap(file, mirrors6(frames, collector, mark)[:1])
            assert capture.decode(file, "-Y", f"{BAD} || _ws.malformed || _ws.short") == ""
            fields = ["-e", "ipv6.dst", "-e", "erspan.spanid", "-e", "gre.key", "-e", "eth.src"]
            said = capture.decode(file, "-T", "fields", "-E", "separator=/t", *fields).rstrip("\n").split("\t")
            assert said[0] == collector
            assert (said[1] or str(int(said[2], 0))) == "7"
            assert watched.mac in said[3].split(",")
    finally:
        Lab.down(name)


def mirrors6(frames: list[bytes], collector: str, mark: bytes) -> list[bytes]:
    to = ipaddress.ip_address(collector).packed
    return [each for each in frames if each[20] == 47 and each[38:54] == to and mark in each]


def mirrors(frames: list[bytes], collector: str, mark: bytes) -> list[bytes]:
    """Those in GRE to the collector that have the mark inside."""
    to = bytes(map(int, collector.split(".")))
    return [each for each in frames if each[23] == 47 and each[30:34] == to and mark in each]
