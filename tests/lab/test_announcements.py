"""An address that guests hand from one to the other is where it was announced last: VRRP by keepalived, and by hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx2
import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from lab.scenes import address, dropped, guest_wire
from polling import PATIENCE_S, eventually
from weft.lab.lab import Lab
from weft.lab.plan import GUEST_INTERFACE, Guest
from weft.lab.traffic import Question, Responders, who_answers

HERE = Path(__file__).parent
VIPS = ("10.0.0.100", "fd00:0:0:a::100")
ONE, TWO = "t/one", "t/two"
ASKERS = ("t/client", "t/far")  # bridged to it, and routed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    name = f"announcements-{os.getpid()}"
    try:
        yield Lab.up(HERE / "announcements.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture(scope="module", autouse=True)
def awake(cluster: Lab) -> Iterator[Responders]:
    """Every guest says who it is."""
    with Responders(cluster.guests.values()) as running:
        yield running


class Keepalived:
    """A VRRP router in a guest: VRRPv3 for both families, an advertisement every 0.1 s, by multicast."""

    def __init__(self, lab: Lab, name: str, priority: int, directory: Path, *, virtual_mac: bool) -> None:
        self._lab, self._name = lab, name
        self._directory = directory / name.replace("/", "-")
        self._directory.mkdir()
        instances = "".join(
            f"""
vrrp_instance V{version} {{
  state BACKUP
  interface {GUEST_INTERFACE}
  virtual_router_id 51
  priority {priority}
  advert_int 0.1
  {f"use_vmac vrrp{version}" if virtual_mac else ""}
  {"vmac_xmit_base" if virtual_mac else ""}
  virtual_ipaddress {{ {vip} }}
}}"""
            for version, vip in zip((4, 6), VIPS, strict=True)
        )
        config = f"global_defs {{\n  vrrp_version 3\n  vrrp_garp_master_refresh 0\n}}\n{instances}\n"
        (self._directory / "keepalived.conf").write_text(config, encoding="ascii")

    def __enter__(self) -> Self:
        files = self._directory
        options = [
            "-n",
            "-l",
            "-D",
            "-P",
            "-f",
            f"{files}/keepalived.conf",
            "-p",
            f"{files}/pid",
            "-r",
            f"{files}/vrrp",
        ]
        with (files / "log").open("w") as log:
            self._process = subprocess.Popen(
                self._lab.command(self._name, ["keepalived", *options]), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=self._lab.environment(), start_new_session=True,
            )  # fmt: skip
        return self

    def crash(self) -> None:
        """It is gone at once, and what it has put on the guest's interface is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self.crash()
        for version, vip in zip((4, 6), VIPS, strict=True):
            self._lab.exec(self._name, "ip", "address", "delete", vip, "dev", GUEST_INTERFACE)
            self._lab.exec(self._name, "ip", "link", "delete", f"vrrp{version}")


def announced(lab: Lab, name: str) -> set[str]:
    with lab.client() as client:
        return {said["address"] for said in client.get(lab.guest(name).port).spec.get("announced_addresses", [])}


def counted(lab: Lab, outcome: str) -> float:
    transport = httpx2.HTTPTransport(uds=str(lab.paths.controller_socket), verify=False)  # there is no certificate
    with httpx2.Client(transport=transport, base_url="http://weft", trust_env=False) as http:
        metrics = http.get("/metrics").text
    (line,) = (
        line for line in metrics.splitlines() if line.startswith(f'weft_announcements_total{{outcome="{outcome}"')
    )
    return float(line.split()[-1])


def questions(lab: Lab, name: str, *addresses: str) -> list[Question]:
    """From beside and from afar, for each address: the guest should answer."""
    port = lab.guest(name).port
    return [Question(lab.guest(asker).namespace, each, port) for asker in ASKERS for each in addresses]


def answers(lab: Lab, name: str, *addresses: str) -> bool:
    """The guest, and no other, from beside and from afar."""
    asked = questions(lab, name, *addresses)
    return who_answers(asked) == [each.expected for each in asked]


def pinged(lab: Lab, source: str, target: str, *more: str) -> bool:
    done = lab.exec(source, "ping", "-c", "3", "-i", "0.05", "-W", "1", *more, target)
    return "3 received" in done.stdout


@pytest.mark.parametrize("virtual_mac", [False, True], ids=["own MAC", "virtual MAC"])
def test_a_vrrp_address_is_answered_by_the_next_master_when_the_first_is_killed(
    cluster: Lab, tmp_path: Path, virtual_mac: bool
) -> None:
    first = Keepalived(cluster, ONE, 150, tmp_path, virtual_mac=virtual_mac)
    second = Keepalived(cluster, TWO, 100, tmp_path, virtual_mac=virtual_mac)
    with first, second:
        eventually(lambda: answers(cluster, ONE, *VIPS), f"{ONE} is master")
        first.crash()
        eventually(lambda: answers(cluster, TWO, *VIPS), f"{TWO} takes over")
        assert set(VIPS) <= announced(cluster, TWO)
        assert not set(VIPS) & announced(cluster, ONE)
        # Echo replies come from the address itself, and so does what the master begins.
        for asker, vip in ((asker, vip) for asker in ASKERS for vip in VIPS):
            assert pinged(cluster, asker, vip)
        for version, vip in zip((4, 6), VIPS, strict=True):
            for target in ASKERS:
                assert pinged(cluster, TWO, address(cluster.guest(target), version), "-I", vip)


def gratuitous(guest: Guest, of: str) -> bytes:
    """What a guest says when it has taken an address."""
    packet: Packet = Ether(src=guest.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=guest.mac, psrc=of, hwdst="00:00:00:00:00:00", pdst=of
    )
    if ":" in of:
        advertised = ICMPv6ND_NA(tgt=of, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=guest.mac)
        packet = Ether(src=guest.mac, dst="33:33:00:00:00:01") / IPv6(src=of, dst="ff02::1", hlim=255) / advertised
    return bytes(packet)


def take(lab: Lab, name: str, vip: str) -> None:
    """The guest has the address from now on, and says so once."""
    guest = lab.guest(name)
    lab.exec(name, "ip", "address", "replace", vip, "dev", GUEST_INTERFACE, *(["nodad"] if ":" in vip else []))
    with guest_wire(guest) as wire:
        wire.send(gratuitous(guest, vip))


@pytest.mark.parametrize("vip", ["10.0.0.101", "fd00:0:0:a::101"])
def test_an_address_goes_to_whoever_announces_it_and_outlives_agents_and_controller(cluster: Lab, vip: str) -> None:
    for name in (ONE, TWO):
        take(cluster, name, vip)
        eventually(lambda name=name: vip in announced(cluster, name))  # binds the loop's value
        eventually(lambda name=name: answers(cluster, name, vip))
    assert vip not in announced(cluster, ONE)
    for process in ("agent:h2", "agent:h3", "controller"):
        cluster.kill(process)
    cluster.mend()
    assert vip in announced(cluster, TWO)
    assert answers(cluster, TWO, vip)


def test_an_address_that_no_pair_covers_is_dropped_and_one_of_another_port_is_not_given(cluster: Lab) -> None:
    guest, client = cluster.guest(TWO), cluster.guest("t/client")
    before, ignored = announced(cluster, TWO), counted(cluster, "not_allowed")
    with guest_wire(guest) as wire:
        with dropped(cluster, "h2", guest.port, "spoofed_ca"):
            wire.send(gratuitous(guest, "10.0.0.150"))
        with dropped(cluster, "h2", guest.port, "announcement"):
            wire.send(gratuitous(guest, address(client)))
    eventually(lambda: counted(cluster, "not_allowed") == ignored + 1)
    assert announced(cluster, TWO) == before
    assert pinged(cluster, "t/far", address(client))
    assert who_answers([Question(cluster.guest(ONE).namespace, address(client), client.port)]) == [client.port]
