"""What scenarios look at: counters of a host, addresses of a guest, frames by scapy."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet

from polling import PATIENCE_S, eventually
from weft.lab import plan, shell
from weft.lab.capture import Wire
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.model.features import ABILITIES, LACKING, RULE_NEEDS, DataPlaneKind, Rule

ROUTER_MAC = "02:57:45:46:54:01"
UPLINK = "uplink:eth0"
WEB, DB, RED_WEB, RED_DB = 5001, 5002, 6001, 6002


#: Every encapsulation that is carried.
RULES = [rule for rule in Rule if RULE_NEEDS[rule] in ABILITIES[DataPlaneKind.EBPF].features and rule not in LACKING]


def set_rule(lab: Lab, subnet: str, rule: Rule) -> None:
    """Wished, and done by every host."""
    with lab.client() as client:
        client.patch(subnet, {"rule": rule.value})
        eventually(lambda: client.get(subnet).status["rule_phase"] == "settled")


def address(guest: Guest, version: int = 4) -> str:
    return str(next(ip for ip in map(ipaddress.ip_interface, guest.addresses) if ip.version == version).ip)


def gateway(guest: Guest, version: int = 4) -> str:
    return next(each for each in guest.gateways if ipaddress.ip_address(each).version == version)


def drops(lab: Lab, host: str, of: str) -> dict[str, int]:
    """By reason. of: a port's full name, or UPLINK."""
    counters = lab.ask_agent(host, "GET", "/counters")
    return {reason: count for reason, count in counters.get(of, {}).get("drops", {}).items() if count}


def received(lab: Lab, host: str, of: str) -> int:
    return int(lab.ask_agent(host, "GET", "/counters").get(of, {}).get("received_packets", 0))


@contextmanager
def dropped(lab: Lab, host: str, of: str, reason: str, count: int = 1) -> Iterator[None]:
    """That within, so many packets more are dropped for this reason."""
    before = drops(lab, host, of).get(reason, 0)
    yield
    eventually(
        lambda: drops(lab, host, of).get(reason, 0) >= before + count,
        f"{reason} of {of} on {host}: {before} and {count} more; it has {drops(lab, host, of)}",
    )


@contextmanager
def denied(lab: Lab, host: str, port: str, rule: str = "", count: int = 1) -> Iterator[None]:
    """That within, so many packets more of a port are denied by the rule; "": since none lets them pass."""

    def so_far() -> int:
        return int(lab.ask_agent(host, "GET", "/denials").get(port, {}).get(rule, 0))

    before = so_far()
    yield
    eventually(lambda: so_far() >= before + count, f"{rule or 'no rule'} denies {port} packets on {host}")


def guest_wire(guest: Guest) -> Wire:
    return Wire(guest.namespace, plan.GUEST_INTERFACE)


def fabric_wire(lab: Lab, host: str) -> Wire:
    """The fabric's end of a host's wire."""
    index = [each.name for each in lab.spec.hosts].index(host) + 1
    return Wire(plan.fabric_namespace(lab.spec.name), f"host{index}")


def mac_of(namespace: str, interface: str) -> str:
    # /sys is of the namespace that mounted it, so the address is asked for over netlink.
    shown = subprocess.run(
        ["ip", "-n", namespace, "-o", "link", "show", interface], capture_output=True, text=True, check=True
    ).stdout
    return shown.split("link/ether ")[1].split()[0]


def outer(lab: Lab, to: str, source_pa: str, vsid: int, inner: Packet | bytes, **fields: object) -> bytes:
    """A frame as another host would send it: NVGRE, from the fabric to a host. fields: of the outer IP header."""
    mac = mac_of(plan.host_namespace(lab.spec.name, to), plan.UPLINK)
    ends = {"src": source_pa, "dst": lab.spec.host(to).pa}
    if ":" in source_pa:
        header: Packet = IPv6(**{"nh": 47, **ends, **fields})
    else:
        header = IP(**{"proto": 47, **ends, "flags": "DF", "id": 0, **fields})
    nvgre = GRE(key_present=1, key=vsid << 8, proto=0x6558)
    return bytes(Ether(dst=mac, src="02:00:00:00:00:99") / header / nvgre / bytes(inner))


def between(source: Guest, target: Guest, version: int = 4, mark: bytes = b"scene") -> Packet:
    """A datagram of one guest to another of its subnet, as it would leave the one."""
    ip = (
        IP(src=address(source), dst=address(target))
        if version == 4
        else IPv6(src=address(source, 6), dst=address(target, 6))
    )
    return Ether(dst=target.mac, src=source.mac) / ip / UDP(sport=40000, dport=9) / mark


def heard(wire: Wire, mark: bytes, within_s: float = 1.0) -> bool:
    return any(mark in frame for frame in wire.frames(lambda found: any(mark in each for each in found), within_s))


def is_syn(frame: bytes) -> bool:
    packet = Ether(frame)
    return TCP in packet and packet[TCP].flags == "S"


class connected:  # noqa: N801  # reads as a verb, as contextlib's do
    """A TCP connection from one namespace to another: (client's end, server's end)."""

    def __init__(self, lab: Lab, source: str, target: str, to: str) -> None:
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        self._listener = shell.within(
            target, lambda: socket.create_server(("::" if ":" in to else "", 0), family=family)
        )
        self._client = shell.within(source, lambda: socket.socket(family, socket.SOCK_STREAM))
        self._to = to

    def __enter__(self) -> tuple[socket.socket, socket.socket]:
        self._listener.settimeout(PATIENCE_S)
        self._client.settimeout(PATIENCE_S)
        self._client.connect((self._to, self._listener.getsockname()[1]))
        self._server, _ = self._listener.accept()
        self._server.settimeout(PATIENCE_S)
        return self._client, self._server

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, self._client, self._server):
            each.close()
