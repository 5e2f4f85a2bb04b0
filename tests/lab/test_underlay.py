"""The same guests over another underlay: IPv6 between the hosts, jumbo frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.scenes import address, fabric_wire
from polling import eventually
from weft.lab import capture
from weft.lab.capture import is_nvgre
from weft.lab.lab import Lab
from weft.lab.traffic import Stream

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="module", params=["prefix: 'fd64::/48'", "mtu_bytes: 9000"], ids=["ipv6", "jumbo"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The tiny lab over this underlay."""
    file = tmp_path_factory.mktemp("underlay") / "lab.yaml"
    file.write_text(f"underlay: {{{request.param}}}\n" + TINY.read_text())
    name = f"other-{os.getpid()}"
    try:
        yield Lab.up(file, name=name)
    finally:
        Lab.down(name)


def largest(lab: Lab) -> int:
    """What NVGRE leaves of the underlay's MTU."""
    return lab.spec.mtu_bytes - (62 if ":" in lab.spec.hosts[0].pa else 42)


def test_the_largest_packet_crosses_and_one_byte_more_is_told_the_size(other: Lab) -> None:
    to = address(other.guest("t/b"))
    fits = largest(other) - 28
    assert other.guest("t/a").mtu_bytes == largest(other)
    done = other.exec("t/a", "ping", "-c", "2", "-i", "0.05", "-M", "do", "-s", str(fits), "-W", "2", to)
    assert "2 received" in done.stdout, done.stdout
    other.exec("t/a", "ip", "link", "set", "eth0", "mtu", str(largest(other) + 100))
    try:
        done = other.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", str(fits + 1), "-W", "2", to)
        assert f"mtu = {largest(other)}" in done.stdout + done.stderr
    finally:
        other.exec("t/a", "ip", "link", "set", "eth0", "mtu", str(largest(other)))


def test_the_locked_mtu_of_a_hosts_route_is_what_guests_are_told(other: Lab) -> None:
    version, host = (6 if ":" in other.spec.hosts[0].pa else 4), other.guest("t/a").host
    route = ("ip", f"-{version}", "route", "replace", "default", "via", other.spec.host(host).gateway, "dev", "eth0")
    told = 1400 - (62 if version == 6 else 42)
    to = address(other.guest("t/b"))
    assert other.exec(host, *route, "mtu", "lock", "1400").returncode == 0
    try:

        def is_told() -> bool:
            done = other.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", str(told - 27), "-W", "2", to)
            return f"mtu = {told}" in done.stdout + done.stderr

        eventually(is_told, f"guests are told {told}")
        done = other.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", str(told - 28), "-W", "2", to)
        assert "1 received" in done.stdout
    finally:
        other.exec(host, *route)

        def is_free() -> bool:
            other.exec("t/a", "ip", "route", "flush", "cache")
            done = other.exec("t/a", "ping", "-c", "1", "-M", "do", "-s", str(largest(other) - 28), "-W", "2", to)
            return done.returncode == 0

        eventually(is_free, "what the route takes without a lock is known again, also to the guest")


def test_a_stream_crosses_without_a_loss(other: Lab) -> None:
    source, target = other.guest("t/a"), other.guest("t/b")
    # Hosts and fabric know their neighbours before the stream begins: while one is asked for, Linux keeps few packets.
    eventually(lambda: other.exec("t/a", "ping", "-c", "1", "-W", "1", address(target)).returncode == 0, "an answer")
    with Stream(source, target, address(target), per_second=2000) as stream:
        other.exec("t/a", "ping", "-c", "20", "-i", "0.02", address(target))
        stream.stop()
    assert (stream.lost, stream.sent > 200) == (0, True)


def test_tshark_reads_what_is_on_the_wire(other: Lab, tmp_path: Path) -> None:
    with fabric_wire(other, "h1") as wire:
        other.exec("t/a", "ping", "-c", "1", "-W", "2", address(other.guest("t/b")))
        frames = [frame for frame in wire.frames(lambda found: len(found) > 8, within_s=0.3) if is_nvgre(frame)]
    capture.write_pcap(tmp_path / "wire.pcap", frames)
    decoded = capture.decode_json(tmp_path / "wire.pcap")
    with other.client() as client:
        vsid = client.get("tenants/t/routing-domains/d/virtual-subnets/s").spec["vsid"]
    assert {int(layers["gre"]["gre.key"], 0) >> 8 for layers in decoded} == {vsid}
    assert {layers["gre"]["gre.proto"] for layers in decoded} == {"0x6558"}
    # Warnings and errors of tshark's own: 0x600000 and above.
    assert capture.decode(tmp_path / "wire.pcap", "-Y", "_ws.malformed || _ws.expert.severity >= 6291456") == ""
