"""Rows of a large routing domain, made up. Always the same for the same counts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from weft.policy.rows import Host, MacRecord, Port, Record, Route, Row, Subnet, Uplink

RDID = "0f8b7a52-6a56-5d0e-9d2c-77656674626e"
ROUTER_MAC = "02:57:45:46:54:01"
PORTS_OF_SUBNET = 4_000
HOSTS = 500


def mac(number: int) -> str:
    return bytes((0x02, 0x10, *number.to_bytes(4, "big"))).hex(":")


def pa(number: int) -> str:
    return str(ipaddress.IPv4Address((100 << 24 | 64 << 16) + number % HOSTS + 1))


def vsid(number: int) -> int:
    return 5_000 + number // PORTS_OF_SUBNET


def ca(number: int) -> str:
    """Subnets are /20s from 10.0.0.0 on, and the first addresses of each are left out."""
    subnet, port = divmod(number, PORTS_OF_SUBNET)
    return str(ipaddress.IPv4Address((10 << 24) + (subnet << 12) + 10 + port))


def records(count: int) -> Iterator[Record]:
    """Ports spread over subnets and hosts, an address each."""
    return (Record(vsid(each), ca(each), pa(each), mac(each)) for each in range(count))


def macs(count: int) -> Iterator[MacRecord]:
    return (MacRecord(vsid(each), mac(each), pa(each)) for each in range(count))


def subnets(count: int) -> Iterator[Subnet]:
    """Those of ``count`` ports."""
    for first in range(0, count, PORTS_OF_SUBNET):
        prefix = prefix_of(first)
        yield Subnet(vsid(first), RDID, (str(prefix),), (str(prefix[1]),), ROUTER_MAC, 0)


def routes(count: int) -> Iterator[Route]:
    return (Route(RDID, str(prefix_of(first)), vsid(first)) for first in range(0, count, PORTS_OF_SUBNET))


def prefix_of(number: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(((10 << 24) + (number // PORTS_OF_SUBNET << 12), 20))


def host(name: str) -> list[Row]:
    """The host's own scope: itself and one port, the domain's first."""
    return [
        Host(name, (pa(0),), (Uplink("eth0", 1500),)),
        Port("tenants/bench/ports/first", vsid(0), mac(0), (ca(0),)),
    ]
