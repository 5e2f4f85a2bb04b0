"""Limits and marks of ports, with iperf3 and TCP as they are: what passes in five seconds, and what is on the wire."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.scenes import address, drops, fabric_wire
from polling import PATIENCE_S, eventually
from weft.lab import capture, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.lab.traffic import udp

SECONDS = 5
TOLERANCE = 0.05
#: What a frame has besides TCP's payload: Ethernet, IPv4, TCP with timestamps; and besides UDP's.
TCP_OVERHEAD, UDP_OVERHEAD = 14 + 20 + 32, 14 + 20 + 8
DATAGRAM = 1000


@pytest.fixture(scope="module")
def limited() -> Iterator[Lab]:
    name = f"qos-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "qos.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture
def qos(limited: Lab) -> Iterator[Any]:
    """Gives a port its limits and marks, and waits until its host has them; without them again afterwards."""
    given: set[str] = set()

    def give(short: str, **qos: object) -> Guest:
        guest = limited.guest(f"t/{short}")
        given.add(short)
        with limited.client() as client:
            # A merge patch adds to what there is: what is to go is said.
            client.patch(guest.port, {"qos": dict.fromkeys(("from_guest", "to_guest", "dscp", "outer_dscp"))})
            revision = client.patch(guest.port, {"qos": qos}).revision
            eventually(
                lambda: client.get(f"hosts/{guest.host}").status["applied_revision"] >= revision,
                f"{guest.host} follows",
            )
        return guest

    yield give
    for short in given:
        give(short)


@dataclass(frozen=True)
class Measured:
    """One way of traffic, and the rate that was asked for, in bits or packets a second."""

    source: Guest
    target: Guest
    asked: int
    options: tuple[str, ...]
    packets: bool = False


def achieved(lab: Lab, number: int, of: Measured) -> float:
    """What has passed in five seconds: of what was asked."""
    port = str(5300 + number)
    server = subprocess.Popen(
        shell.inside(of.target.namespace, ["iperf3", "-s", "-1", "-p", port, "-J"]), stdout=subprocess.DEVNULL
    )
    try:
        command = ["iperf3", "-c", address(of.target), "-p", port, "-t", str(SECONDS), "-J", *of.options]

        def run() -> dict[str, Any]:
            done = subprocess.run(
                shell.inside(of.source.namespace, command), capture_output=True, text=True, check=False, timeout=30
            )
            return json.loads(done.stdout)

        # Refused until the server listens.
        report = eventually(lambda: (found := run()) and "error" not in found and found)
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
    end = report["end"]
    if "-u" in of.options:
        arrived = end["sum"]["packets"] - end["sum"]["lost_packets"]
        each = 1 if of.packets else (DATAGRAM + UDP_OVERHEAD) * 8
        return float(arrived * each / SECONDS / of.asked)
    mss = report["start"]["tcp_mss_default"]
    frames = (mss + TCP_OVERHEAD) / mss if mss else 1
    return float(end["sum_received"]["bytes"] * 8 * frames / SECONDS / of.asked)


UDP_FLOOD = ("-u", "-b", "60M", "-l", str(DATAGRAM))


def test_in_five_seconds_passes_what_the_limit_says_each_way_by_tcp_and_by_udp(limited: Lab, qos: Any) -> None:
    """Four ports at once: bits and packets, between hosts and within one."""
    bits, packets = 20_000_000, 2_000
    burst = {"burst_bytes": bits // 8 // 5, "burst_packets": packets // 5}
    a1 = qos("a1", from_guest={"rate_bits_per_s": bits})
    b2 = qos("b2", to_guest={"rate_bits_per_s": bits})
    a2, b1 = limited.guest("t/a2"), limited.guest("t/b1")
    with ThreadPoolExecutor(2) as pool:
        ways = [Measured(a1, a2, bits, ()), Measured(b1, b2, bits, ())]
        tcp = list(pool.map(lambda at: achieved(limited, *at), enumerate(ways)))
    a1 = qos("a1", from_guest={"rate_bits_per_s": bits, "burst_bytes": burst["burst_bytes"]})
    b2 = qos("b2", to_guest={"rate_packets_per_s": packets, "burst_packets": burst["burst_packets"]})
    c1 = qos("c1", from_guest={"rate_packets_per_s": packets, "burst_packets": burst["burst_packets"]})
    c2 = limited.guest("t/c2")
    with ThreadPoolExecutor(3) as pool:
        ways = [
            Measured(a1, a2, bits, UDP_FLOOD),
            Measured(b1, b2, packets, UDP_FLOOD, packets=True),
            Measured(c1, c2, packets, UDP_FLOOD, packets=True),
        ]
        datagrams = list(pool.map(lambda at: achieved(limited, *at), enumerate(ways, 10)))
    for ratio in (*tcp, *datagrams):
        assert ratio == pytest.approx(1, abs=TOLERANCE), (tcp, datagrams)
    assert drops(limited, "h1", a1.port)["rate_limit"]


@pytest.mark.parametrize("version", [4, 6])
def test_marks_are_on_the_wire_inside_and_outside(limited: Lab, qos: Any, version: int, tmp_path: Path) -> None:
    source, target = qos("a1", dscp=46, outer_dscp="copy"), limited.guest("t/a2")
    found = seen(limited, source, target, version, tmp_path / "copied.pcap")
    assert found == {46}
    qos("a1", dscp=10, outer_dscp=34)
    found = seen(limited, source, target, version, tmp_path / "set.pcap")
    assert found == {10, 34}
    qos("a1")
    assert seen(limited, source, target, version, tmp_path / "none.pcap") == {0}


def seen(lab: Lab, source: Guest, target: Guest, version: int, file: Path) -> set[int]:
    """The DSCPs that tshark finds in a datagram between two hosts, outside and inside."""
    with (
        fabric_wire(lab, target.host) as wire,
        udp(target.namespace, version, 7100) as listener,
        udp(source.namespace, version) as sender,
    ):
        listener.settimeout(0.2)
        sender.connect((address(target, version), 7100))

        def arrives() -> bytes | None:
            sender.send(b"a mark")
            try:
                return listener.recv(64)
            except TimeoutError:
                return None

        assert eventually(arrives) == b"a mark"
        frames = wire.frames(lambda them: any(b"a mark" in each for each in them))
    capture.write_pcap(file, [next(each for each in frames if b"a mark" in each)])
    assert "Malformed" not in capture.decode(file)
    said = capture.decode(file, "-T", "fields", "-e", "ip.dsfield.dscp", "-e", "ipv6.tclass.dscp")
    return {int(each) for field in said.split() for each in field.split(",")}
