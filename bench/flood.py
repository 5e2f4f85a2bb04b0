"""flood: head-end replication, copies of one broadcast to a hundred hosts. Decides nothing of what is carried."""

from __future__ import annotations

import ipaddress
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import topology
from bench.context import Context
from bench.processes import PREFIX
from bench.report import Figure, ReportOnly
from bench.topology import HostPlane
from weft.dataplane.ebpf.maps import Sizes
from weft.lab import shell
from weft.policy.rows import Host, MacRecord, Member, Port, Record, Row, Subnet, Uplink

HOSTS = 100
VSID = 5001
PA, MAC, CA = "100.65.1.2", "02:00:00:00:00:01", "10.0.0.2"
PORT = "tenants/bench/ports/sender"
#: A frame of 64 bytes on the wire, as RFC 2544 counts: a broadcast with 18 bytes of payload.
FRAME = bytes.fromhex(
    "ffffffffffff 020000000001 0800"
    "4500002e000000004011 70c1 0a000002 ffffffff"
    "00090009001a0000"
) + bytes(18)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Site:
    plane: HostPlane
    guest: str
    fabric: str


def run(context: Context) -> list[Figure]:
    rates = []
    arrived = []
    with _site() as site:
        wire = shell.within(site.guest, _wire)
        with wire:
            for turn in range(context.settings.repeats):
                context.progress(f"flood: {turn + 1} of {context.settings.repeats}")
                before, came_before = _sent(site), _came(site)
                start = time.monotonic()
                while time.monotonic() - start < context.settings.seconds:
                    for _ in range(20):
                        wire.send(FRAME)
                elapsed_s = time.monotonic() - start
                copies = _sent(site) - before
                rates.append(copies / elapsed_s)
                arrived.append((_came(site) - came_before) / copies)
    return [
        Figure(
            "flood_copies",
            statistics.median(rates),
            "copies/s",
            ReportOnly(f"broadcast of 64 bytes to {HOSTS} hosts, one CPU"),
            f"{min(rates):,.0f}..{max(rates):,.0f}; {min(arrived):.1%} of them on the fabric's end of the wire",
        )
    ]


def _wire() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind(("eth0", 0))
    return made


def _sent(site: _Site) -> int:
    return int(site.plane.run(lambda plane: plane.counters()["uplink:eth0"].sent_packets))


def _came(site: _Site) -> int:
    def look() -> int:
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
        return next(int(line.split(":")[1].split()[1]) for line in lines if line.strip().startswith("host:"))

    return shell.within(site.fabric, look)


def _rows() -> list[Row]:
    first = int(ipaddress.ip_address("198.18.0.1"))
    return [
        Host("hosts/h1", (PA,), (Uplink("eth0", 1500),)),
        Subnet(VSID, topology.RDID, ("10.0.0.0/24",), ("10.0.0.1",), topology.ROUTER_MAC, 0),
        Record(VSID, CA, PA, MAC),
        MacRecord(VSID, MAC, PA),
        Member(VSID, PA),
        *(Member(VSID, str(ipaddress.ip_address(first + number))) for number in range(HOSTS)),
        Port(PORT, VSID, MAC, (CA,), flood_limit_pps=0),
    ]


@contextmanager
def _site() -> Iterator[_Site]:
    """guest - host - fabric, which takes the copies in and has nobody to give them to."""
    topology.sweep()
    shell.mount_bpf_filesystem()
    name = f"{PREFIX}{os.getpid()}-flood-"
    host, guest, fabric = (f"{name}{each}" for each in ("host", "guest", "fabric"))
    try:
        shell.ip_batch(f"netns add {each}" for each in (host, guest, fabric))
        shell.ip_batch(
            [
                f"link add name eth0 netns {host} type veth peer name host netns {fabric}",
                f"link add name tap0 netns {host} type veth peer name eth0 netns {guest} address {MAC}",
            ]
        )
        shell.ip_batch(["link set lo up", "address add 100.65.1.1/24 dev host", "link set host up"], fabric)
        shell.ip_batch(
            [
                "link set lo up",
                f"address add {PA}/24 dev eth0",
                "link set eth0 up",
                "link set tap0 up",
                "route add default via 100.65.1.1",
            ],
            host,
        )
        shell.ip_batch(["link set eth0 up"], guest)
        plane = HostPlane(host, shell.BPF_FILESYSTEM / f"{name}pins", Sizes())
        try:
            plane.update(_rows())
            if failures := plane.run(lambda of: of.bind({PORT: "tap0"})):
                raise RuntimeError(f"the sender is not bound: {failures[0]}")
            yield _Site(plane, guest, fabric)
        finally:
            plane.remove()
    finally:
        shell.delete_namespaces(shell.namespaces(name))
