"""Samples and counters as a collector gets them, and as tshark reads them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from lab.scenes import address
from polling import eventually
from weft.lab import capture, plan
from weft.lab.lab import Lab
from weft.lab.traffic import udp

COLLECTOR = {"sflow": 6343, "ipfix": 4739}


@pytest.fixture(scope="module")
def sampled() -> Iterator[Lab]:
    name = f"sampling-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "qos.yaml", name=name)
    finally:
        Lab.down(name)


class Collector:
    """What comes to a UDP port of a namespace, for as long as it is entered."""

    def __init__(self, namespace: str, port: int) -> None:
        self.port = port
        self.datagrams: list[bytes] = []
        self._socket = udp(namespace, 4, port)
        self._socket.settimeout(0.05)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while not self._over.is_set():
            try:
                self.datagrams.append(self._socket.recv(65_535))
            except TimeoutError:
                continue

    def read(self, file: Path, *fields: str) -> list[list[str]]:
        """The fields of each datagram so far; tshark has nothing to say against any."""
        ends = UDP(sport=50_000, dport=self.port)
        head = Ether(dst="02:00:00:00:00:09") / IP(src="192.0.2.1", dst="192.0.2.2") / ends
        capture.write_pcap(file, [bytes(head / each) for each in list(self.datagrams)])
        assert capture.decode(file, "-Y", "_ws.expert || _ws.malformed || _ws.short") == ""
        options = [option for field in fields for option in ("-e", field)]
        said = capture.decode(file, "-T", "fields", "-E", "separator=/t", *options)
        return [line.split("\t") for line in said.splitlines()]


def sampling(lab: Lab, host: str, protocol: str | None, rate: int = 1) -> None:
    """What a host samples, once its agent follows."""
    collector = lab.spec.host(host).pa
    given = None if protocol is None else {"rate": rate, "collector": collector, "protocol": protocol}
    with lab.client() as client:
        revision = client.patch(f"hosts/{host}", {"sampling": given}).revision
        eventually(lambda: client.get(f"hosts/{host}").status["applied_revision"] >= revision)


@pytest.mark.parametrize("protocol", ["sflow", "ipfix"])
def test_a_collector_is_told_of_frames_and_of_what_is_counted(sampled: Lab, protocol: str, tmp_path: Path) -> None:
    source, target = sampled.guest("t/a1"), sampled.guest("t/a2")
    namespace = plan.host_namespace(sampled.spec.name, "h1")
    file = tmp_path / "collected.pcap"
    with Collector(namespace, COLLECTOR[protocol]) as collector, udp(source.namespace, 4) as sender:
        sampling(sampled, "h1", protocol)
        try:

            def told() -> bool:
                for _ in range(10):
                    sender.sendto(b"sampled" * 10, (address(target), 7200))
                if protocol == "sflow":
                    lines = collector.read(file, "ip.src", "sflow_245.sampletype")
                    types = {each for line in lines for each in line[1].split(",")}
                    return {"1", "2"} <= types and any(address(source) in line[0] for line in lines)
                lines = collector.read(file, "cflow.srcmac", "cflow.if_name", "cflow.permanent_packets")
                names = {each for line in lines for each in line[1].split(",")}
                frames = any(source.mac in line[0].split(",") for line in lines)
                return frames and {source.port, "uplink:eth0"} <= names and any(line[2] for line in lines)

            eventually(told, f"{protocol}: frames and counters", every_s=0.5)
        finally:
            sampling(sampled, "h1", None)


def test_a_port_may_be_left_out(sampled: Lab) -> None:
    source, beside, target = (sampled.guest(f"t/{name}") for name in ("b1", "c1", "c2"))
    namespace = plan.host_namespace(sampled.spec.name, "h1")
    with (
        Collector(namespace, COLLECTOR["sflow"]) as collector,
        udp(source.namespace, 4) as quiet,
        udp(beside.namespace, 4) as loud,
        udp(target.namespace, 4, 7201),  # else its guest says that nobody listens, and quotes what came
        sampled.client() as client,
    ):
        revision = client.patch(source.port, {"sampling_rate": 0}).revision
        eventually(lambda: client.get("hosts/h1").status["applied_revision"] >= revision)
        sampling(sampled, "h1", "sflow")
        try:

            def heard() -> bool:
                for each in (quiet, loud):
                    each.sendto(b"from " + (b"quiet" if each is quiet else b"loud"), (address(target), 7201))
                return any(b"from loud" in each for each in collector.datagrams)

            eventually(heard, "the port that is sampled", every_s=0.2)
            assert not any(b"from quiet" in each for each in collector.datagrams)
        finally:
            sampling(sampled, "h1", None)
            client.patch(source.port, {"sampling_rate": None})
